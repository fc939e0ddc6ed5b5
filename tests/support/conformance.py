"""Whether what a function answers is what the OpenAPI document says: status, headers and body; and what it accepts.

The document leaves answers open, since later versions may add members. Here each answer is closed: what is added to an
answer must be added to its model in openapi/ too.
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any

from aws_lambda_powertools.event_handler import Response
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match

from openapi.answers import Answer
from openapi.document import FILE

DOCUMENT: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
NO_ROUTE = "route_not_found"
_PARAMETER = re.compile(r"\{\w+\}")

FORMATS = FormatChecker()
Handler = Callable[[dict[str, Any], Any], dict[str, Any]]


class ConformanceError(AssertionError):
    """An answer is not what the document says. It does not quote the answer's values."""


@FORMATS.checks("date-time", ValueError)  # type: ignore[untyped-decorator]  # jsonschema has no types
def _is_time(value: Any) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def checked(handler: Handler) -> Handler:
    """A handler of HTTP events, each of whose answers is checked, and each body that it accepts."""

    def call(event: dict[str, Any], context: Any) -> dict[str, Any]:
        answer = handler(event, context)
        method, path = event["requestContext"]["http"]["method"], event["rawPath"]
        check(method, path, answer)
        if answer["statusCode"] < 400 and (body := event.get("body")):
            text = b64decode(body).decode(errors="replace") if event.get("isBase64Encoded") else body
            check_accepted(method, path, text)
        return answer

    return call


def check(method: str, path: str, answer: Mapping[str, Any]) -> None:
    """Check an answer in the form in which API Gateway gets it.

    Raises:
        ConformanceError: it is not what the document says.
    """
    check_answer(route_of(method, path), path, answer["statusCode"], answer["headers"], answer.get("body"))


def check_accepted(method: str, path: str, body: str) -> None:
    """Check a body of JSON that was accepted: what the document forbids must not be accepted.

    Raises:
        ConformanceError: the document forbids it.
    """
    route = route_of(method, path)
    assert route is not None
    asked = _operation(route).get("requestBody")
    documented = None if asked is None else asked["content"].get("application/json")
    if documented is not None and body.strip():
        schema = {**documented["schema"], "components": DOCUMENT["components"]}
        given = json.loads(body)
        if path.startswith("/v1/"):
            # There, null stands for what is left out, whatever its name.
            given = {name: value for name, value in given.items() if value is not None}
        # Times may be written in more ways than the format says.
        _checker(schema, formats=None)(f"{route} accepted something else", given)


def check_response(route: str, response: Response[str]) -> None:
    """Check what a route's function answers; route: as in GET /status/{request_id}."""
    headers = {"Content-Type": response.content_type or "", **response.headers}
    check_answer(route, route.partition(" ")[2], response.status_code, headers, response.body or "")


def check_answer(route: str | None, path: str, status: int, headers: Mapping[str, Any], body: str | None) -> None:
    """Check an answer.

    Args:
        route: None, if the method and the path are no route.

    Raises:
        ConformanceError: it is not what the document says.
    """
    where = f"{route or 'no route'} answered {status}"
    given = {name.lower(): str(value) for name, value in headers.items()}
    kind = given.pop("content-type", "").partition(";")[0]
    if route is None:
        _check_no_route(where, path, status, kind, json.loads(body or ""))
        return
    documented = responses(route).get(str(status))
    if documented is None:
        raise ConformanceError(f"{where}, which is not documented")
    known = {name.lower(): header for name, header in documented["headers"].items()}
    if unknown := set(given) - set(known):
        raise ConformanceError(f"{where} with headers that are not documented: {sorted(unknown)}")
    for name, value in given.items():
        schema = _resolved(known[name])["schema"]
        _check_value(f"{where}, header {name}", schema, int(value) if schema.get("type") == "integer" else value)
    if not documented["content"] and not kind and not body:
        return
    if kind not in documented["content"]:
        raise ConformanceError(f"{where} with the content type {kind}, which is not documented")
    if kind == "text/event-stream":
        for event in events(body or ""):
            _validator(route, str(status), kind, "x-event-schema")(where, event)
        return
    if "contentMediaType" in documented["content"][kind]["schema"]:
        return
    _validator(route, str(status), kind, "schema")(where, json.loads(body or ""))


def route_of(method: str, path: str) -> str | None:
    """The route of the document that a method and a path lead to; of several, the one with the longest fixed text."""
    fitting = [
        template
        for template, methods in DOCUMENT["paths"].items()
        if method.lower() in methods and re.fullmatch(_PARAMETER.sub("(?:.+)", template), path, re.DOTALL)
    ]
    if not fitting:
        return None
    return f"{method} {max(fitting, key=lambda template: len(_PARAMETER.sub('', template)))}"


def responses(route: str) -> dict[str, Any]:
    """The documented answers of a route, by status."""
    return {status: _resolved(response) for status, response in _operation(route)["responses"].items()}


def events(body: str) -> Iterator[Any]:
    """The data of the events of a stream, without its end."""
    for line in body.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _operation(route: str) -> dict[str, Any]:
    method, path = route.split(" ")
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def _resolved(value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: dict[str, Any] = found
    return resolved


@cache
def _closed() -> dict[str, Any]:
    """The document's schemas, with answers that have no other members than theirs."""
    schemas: dict[str, Any] = json.loads(json.dumps(DOCUMENT["components"]["schemas"]))
    for name in _names(Answer):
        if name in schemas and "properties" in schemas[name]:
            schemas[name]["additionalProperties"] = False
    return {"schemas": schemas}


def _names(model: type[Any]) -> Iterator[str]:
    for each in model.__subclasses__():
        yield each.__name__
        yield from _names(each)


@cache
def _validator(route: str, status: str, kind: str, member: str) -> Callable[[str, Any], None]:
    schema = responses(route)[status]["content"][kind][member]
    return _checker({**schema, "components": _closed()})


def _checker(schema: dict[str, Any], formats: FormatChecker | None = FORMATS) -> Callable[[str, Any], None]:
    validator = Draft202012Validator(schema, format_checker=formats)

    def check_value(where: str, value: Any) -> None:
        error = best_match(validator.iter_errors(value))
        if error is not None:
            place = "".join(f"/{part}" for part in error.absolute_path)
            raise ConformanceError(f"{where}, and {place or 'its body'} is not as documented: {error.message[:300]}")

    return check_value


def _check_value(where: str, schema: dict[str, Any], value: Any) -> None:
    _checker(schema)(where, value)


def _check_no_route(where: str, path: str, status: int, kind: str, body: Any) -> None:
    form, code = ("ErrorEnvelope", "sluice_code") if f"{path}/".startswith("/v1/") else ("Problem", "code")
    _checker({"$ref": f"#/components/schemas/{form}", "components": _closed()})(where, body)
    answered = (status, kind, body.get("error", body)[code])
    expected = (404, "application/json" if form == "ErrorEnvelope" else "application/problem+json", NO_ROUTE)
    if answered != expected:
        raise ConformanceError(f"{where}: {answered}, and not {expected}")
