"""The document: OpenAPI 3.1."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from openapi.answers import ErrorEnvelope, Problem
from openapi.headers import EVERYWHERE, HEADERS, OPENAI_ERRORS, RATE_LIMITS, SENT
from openapi.operation import Operation, Result
from openapi.operations import NO_ROUTE, OPERATIONS, TAGS
from openapi.schemas import PREFIX, Schema, schemas_of
from sluice.api.openai.errors import answer_error
from sluice.api.problems import STATUSES
from sluice.domain.errors import ERRORS, SluiceError
from sluice.domain.keys import PREFIX as KEY_PREFIX

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "layers/shared/sluice/api/openapi.json"

_INTRODUCTION: Final = """\
Requests to language models, each accounted for. Sluice's own routes accept a prompt and are asked for its answer \
later; the routes under /v1 are those of OpenAI's clients, most of whom wait for their answers; in \
their bodies, a member that is null counts as left out.

API Gateway answers some errors itself, with a body of {"message": "…"}: 404 for a method and path that is no route, \
429 when the stack's limits are exceeded, 413 for a body that is too large, 500 or 503 when a function does not \
answer."""

_PATH_PARAMETERS: Final[dict[str, Schema]] = {
    "request_id": {"description": "As it was given out.", "schema": {"type": "string", "format": "uuid"}},
    "response_id": {"description": "As it was given out.", "schema": {"type": "string"}},
    "webhook_endpoint_id": {"description": "As it was given out.", "schema": {"type": "string"}},
    "batch_id": {"description": "As it was given out.", "schema": {"type": "string"}},
    "file_id": {"description": "As it was given out.", "schema": {"type": "string"}},
    "upload_id": {"description": "As it was given out.", "schema": {"type": "string"}},
    "event_id": {"description": "As it was given out.", "schema": {"type": "string"}},
    "model": {"description": "A model or an alias; may contain slashes.", "schema": {"type": "string"}},
}
# Where a failed request's status depends on whether its client is at fault: one of each.
_FAILURES: Final = ("content_filtered", "model_unavailable")


def make() -> dict[str, Any]:
    """The whole document."""
    schemas = schemas_of(_models())
    # A query is described parameter by parameter.
    queries = {name: schemas.pop(name) for name in {each.query.__name__ for each in OPERATIONS if each.query}}
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in OPERATIONS:
        paths[operation.path][operation.method.lower()] = _operation(operation, queries)
    for name, member in (("Problem", "code"), ("OpenAIError", "sluice_code")):
        schemas[name]["properties"][member] = {"$ref": f"{PREFIX}ErrorCode"}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Sluice",
            "version": _version(),
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": ".", "description": "Where this document is."}],
        "security": [{"key": []}, {"bearer": []}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": {"ErrorCode": _error_code(), **schemas},
            "responses": _shared([each for path in paths.values() for each in path.values()]),
            "headers": HEADERS,
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": f"`{KEY_PREFIX}` and 43 letters, digits, `-` or `_`. Counts before a bearer token.",
                },
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same key as a bearer token."},
            },
        },
    }


def text() -> str:
    """The document as it is kept in the repository and served."""
    return json.dumps(make(), ensure_ascii=False, indent=1) + "\n"


def _version() -> str:
    found = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


def _models() -> list[type[BaseModel]]:
    models: list[type[BaseModel]] = [Problem, ErrorEnvelope]
    for operation in OPERATIONS:
        given = [operation.body, operation.query]
        given += [model for result in operation.results for model in (*_bodies(result), result.events)]
        models += [model for model in given if model is not None and model not in models]
    return models


def _bodies(result: Result) -> tuple[type[BaseModel], ...]:
    return result.body if isinstance(result.body, tuple) else () if result.body is None else (result.body,)


def _error_code() -> Schema:
    codes = {code for operation in OPERATIONS for code in operation.codes} | {NO_ROUTE}
    return {
        "type": "string",
        "enum": [code for code in ERRORS if code in codes],
        "description": "The codes of errors over HTTP; a code does not change its meaning. "
        f"`{NO_ROUTE}`: there is nothing under this method and path.",
    }


# Operations -----------------------------------------------------------------------------------------------------------


def _operation(operation: Operation, queries: dict[str, Schema]) -> dict[str, Any]:
    summary = operation.summary or re.split(r"[.;:](?:\s|$)|\n", operation.function.__doc__ or "")[0]
    made: dict[str, Any] = {"operationId": operation.name, "tags": [operation.tag], "summary": summary}
    if operation.description:
        made["description"] = operation.description
    scopes = [operation.scope] if operation.scope else []
    made["security"] = [{"key": scopes}, {"bearer": scopes}] if scopes else []
    parameters = _path_parameters(operation)
    if operation.query is not None:
        parameters += _query_parameters(queries[operation.query.__name__])
    if parameters := [*parameters, *_header_parameters(operation)]:
        made["parameters"] = parameters
    if operation.body is not None:
        made["requestBody"] = {
            "required": operation.body_needed,
            "content": {
                "multipart/form-data" if operation.is_form else "application/json": {
                    "schema": _reference(operation.body)
                }
            },
        }
    made["responses"] = _responses(operation)
    return made


def _path_parameters(operation: Operation) -> list[Schema]:
    names = re.findall(r"\{(\w+)\}", operation.path)
    return [{"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]} for name in names]


def _query_parameters(schema: Schema) -> list[Schema]:
    return [
        _query_parameter(name, value, is_required=name in schema.get("required", ()))
        for name, value in schema["properties"].items()
    ]


def _query_parameter(name: str, schema: Schema, *, is_required: bool) -> Schema:
    schema = dict(schema)
    described = {"description": schema.pop("description")} if "description" in schema else {}
    # A query has no null.
    forms = [form for form in schema.pop("anyOf", []) if form != {"type": "null"}]
    for form in forms:
        inner = form.pop("description", None)
        described = described or ({"description": inner} if inner else {})
        schema |= form
    listed = {"style": "form", "explode": False} if schema.get("type") == "array" else {}
    return {"name": name, "in": "query", "required": is_required, **described, **listed, "schema": schema}


def _header_parameters(operation: Operation) -> list[Schema]:
    return [{"name": name, "in": "header", "required": False, **SENT[name]} for name in operation.headers]


def _responses(operation: Operation) -> dict[str, Any]:
    made: dict[int, Any] = {result.status: _result(result) for result in operation.results}
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in operation.codes:
        for status in statuses_of(code, is_openai=operation.is_openai):
            by_status[status].append(code)
    for status, codes in by_status.items():
        failed = _error(status, codes, is_openai=operation.is_openai)
        if status in made:
            made[status]["content"] |= failed["content"]
            made[status]["headers"] |= failed["headers"]
        else:
            made[status] = failed
    return {str(status): made[status] for status in sorted(made)}


def statuses_of(code: str, *, is_openai: bool) -> set[int]:
    """The statuses with which a code is answered."""
    if not is_openai:
        return {STATUSES[ERRORS[code][0]]}
    return {answer_error(SluiceError(code, "", retry_after=1, failure=each)).status_code for each in _FAILURES}


def _result(result: Result) -> dict[str, Any]:
    if result.is_empty or result.types:
        content: dict[str, Any] = {
            kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in result.types
        }
        return {"description": result.description, "headers": _headers(result.headers), "content": content}
    bodies = [_reference(body) for body in _bodies(result)] or [{"type": "object"}]
    schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
    content = {"application/json": {"schema": schema}}
    if result.events is not None:
        content["text/event-stream"] = {
            "schema": {"type": "string"},
            # OpenAPI 3.1 has no word for the events of a stream.
            "x-event-schema": _reference(result.events),
        }
    return {"description": result.description, "headers": _headers(result.headers), "content": content}


def _error(status: int, codes: Iterable[str], *, is_openai: bool) -> dict[str, Any]:
    listed = [code for code in ERRORS if code in set(codes)]
    if is_openai:
        limited = {"properties": {"error": {"properties": {"sluice_code": {"enum": listed}}}}}
        content = {"application/json": {"schema": {"allOf": [_reference(ErrorEnvelope), limited]}}}
    else:
        named = {"code": {"enum": listed}, "status": {"const": status}}
        content = {"application/problem+json": {"schema": {"allOf": [_reference(Problem), {"properties": named}]}}}
    headers: list[str] = []
    if is_openai:
        headers += OPENAI_ERRORS
        if {"request_failed", "answer_pending"} & set(listed):
            headers.append("x-request-id")
    elif status in (429, 503) or "result_not_ready" in listed:
        headers.append("Retry-After")
    if status == 401:
        headers.append("WWW-Authenticate")
    if status == 416:
        headers.append("Content-Range")
    if status == 429:
        headers += RATE_LIMITS
    description = "; ".join(ERRORS[code][1] for code in listed)
    return {"description": f"{description}.", "headers": _headers(headers), "content": content}


def _shared(operations: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The errors that several operations answer alike, which are replaced by references."""
    places: dict[str, list[tuple[dict[str, Any], str]]] = defaultdict(list)
    for operation in operations:
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                places[json.dumps(response)].append((operation["responses"], status))
    shared: dict[str, Any] = {}
    for response, found in places.items():
        if len(found) < 2:
            continue
        status = found[0][1]
        name = f"{'Problem' if 'problem+json' in response else 'Error'}{status}"
        name += "" if name not in shared else f"_{sum(each.startswith(name) for each in shared) + 1}"
        shared[name] = json.loads(response)
        for responses, each in found:
            responses[each] = {"$ref": f"#/components/responses/{name}"}
    return dict(sorted(shared.items()))


def _headers(names: Iterable[str]) -> dict[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, *EVERYWHERE)}


def _reference(model: type[BaseModel]) -> Schema:
    return {"$ref": PREFIX + model.__name__}
