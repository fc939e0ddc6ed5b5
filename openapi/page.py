"""The page docs/openapi.md, made of the document."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from openapi.document import FILE as DOCUMENT
from openapi.document import ROOT
from openapi.headers import EVERYWHERE, OPENAI_ERRORS
from openapi.operation import ALWAYS, KEYED
from openapi.schemas import PREFIX, UNSUPPORTED, Schema
from sluice.api.problems import STATUSES
from sluice.domain.errors import ERRORS

FILE: Final[Path] = ROOT / "docs/openapi.md"
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_RATE_LIMIT: Final = "x-ratelimit-"
_COMMON: Final = {*KEYED, *ALWAYS}
_FEW: Final = 8
"""Members that need no table."""


def text(document: dict[str, Any]) -> str:
    """The page."""
    return "\n".join(_Page(document).lines()) + "\n"


class _Page:
    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.components = document["components"]

    def lines(self) -> Iterator[str]:
        yield "# The API in tables"
        yield ""
        yield "<!-- Written by `make openapi`. -->"
        yield ""
        yield f"Made from the OpenAPI document, [{DOCUMENT.name}](../{DOCUMENT.relative_to(ROOT)}), which the service"
        yield "answers at `GET /openapi.json`. What it all means is in [api.md](api.md) and [openai.md](openai.md)."
        for tag in self.document["tags"]:
            operations = [each for each in self._operations() if tag["name"] in each[2]["tags"]]
            yield from ("", f"## {tag['name']}", "", tag["description"], "", "| route | scope | |", "|---|---|---|")
            for method, path, operation in operations:
                route = f"{method} {path}"
                yield f"| [`{route}`](#{_anchor(route)}) | {_scope(operation)} | {operation['summary']} |"
            for method, path, operation in operations:
                yield from self._operation(f"{method} {path}", operation)
        yield from self._errors()
        yield from ("", "## Schemas")
        for name, schema in self.components["schemas"].items():
            if name != "ErrorCode":
                yield from self._schema(name, schema)

    def _operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, methods in self.document["paths"].items():
            for method in _METHODS:
                if method in methods:
                    yield method.upper(), path, methods[method]

    def _operation(self, route: str, operation: dict[str, Any]) -> Iterator[str]:
        yield from ("", f"### {route}", "", f"{operation['summary']}. {operation.get('description', '')}".strip())
        if parameters := operation.get("parameters"):
            yield from ("", "| parameter | in | form | |", "|---|---|---|---|")
            for each in parameters:
                needed = " (required)" if each["required"] else ""
                form = _cell(self._form(each["schema"]) + _default(each["schema"]))
                yield f"| `{each['name']}` | {each['in']}{needed} | {form} | {_cell(each.get('description', ''))} |"
        if body := operation.get("requestBody"):
            none = "" if body["required"] else ", or none"
            ((kind, described),) = body["content"].items()
            told = "" if kind == "application/json" else f", as `{kind}`"
            yield from ("", f"Body: {self._form(described['schema'])}{none}{told}.")
        yield from ("", "| status | body | headers | |", "|---|---|---|---|")
        for status, response in operation["responses"].items():
            name = response.get("$ref", "").rpartition("/")[2]
            yield from self._response(status, self.components["responses"][name] if name else response)

    def _response(self, status: str, response: dict[str, Any]) -> Iterator[str]:
        bodies: list[str] = []
        codes: list[str] = []
        for content in response["content"].values():
            bodies.append(self._form(content["schema"]))
            if "x-event-schema" in content:
                bodies[-1] = f"or a stream of {self._form(content['x-event-schema'])}"
            codes += _codes(content["schema"])
        if codes and set(codes) <= _COMMON:
            return  # said once, for all
        said = {*EVERYWHERE, *(OPENAI_ERRORS if "application/json" in response["content"] and codes else ())}
        headers = [each for each in response.get("headers", {}) if each not in said]
        limits = [each for each in headers if each.startswith(_RATE_LIMIT)]
        named = [f"`{each}`" for each in headers if each not in limits] + ([f"`{_RATE_LIMIT}*`"] if limits else [])
        told = ", ".join(f"`{each}`" for each in codes) if codes else response["description"]
        yield f"| {status} | {_cell(', '.join(bodies))} | {', '.join(named)} | {_cell(told)} |"

    def _errors(self) -> Iterator[str]:
        yield from (
            "",
            "## Error codes",
            "",
            "Each is explained in [api.md](api.md#errors). Every route may answer these:",
            "",
        )
        for status, codes in _by_status(_COMMON):
            yield f"- {status}: {', '.join(f'`{code}`' for code in codes)}"
        headers = ", ".join(f"`{name}`" for name in OPENAI_ERRORS)
        yield from ("", f"Under `/v1`, errors have the headers {headers}.")
        codes = self.components["schemas"]["ErrorCode"]["enum"]
        yield from ("", *_wrapped("All of them: " + ", ".join(f"`{code}`" for code in codes) + "."))

    def _schema(self, name: str, schema: Schema) -> Iterator[str]:
        yield from ("", f"### {name}", "")
        if "description" in schema:
            yield from (schema["description"], "")
        if "properties" not in schema:
            yield f"{self._form(schema)}."
            return
        required, members = schema.get("required", ()), dict(schema["properties"])
        ignored = [member for member, form in members.items() if form.get("description") == UNSUPPORTED]
        for member in ignored:
            del members[member]
        is_asked = schema.get("additionalProperties") is False
        if len(members) <= _FEW and not any("description" in each for each in members.values()):
            parts = [
                f"`{member}`{'' if member in required else '?'} {self._member(form, is_asked=is_asked)}"
                for member, form in members.items()
            ]
            yield f"{'; '.join(parts) or 'No members'}."
            return
        yield from ("| member | form | |", "|---|---|---|")
        for member, form in members.items():
            told = f"`{member}`{'' if member in required else '?'} | {_cell(self._member(form, is_asked=is_asked))}"
            yield f"| {told} | {_cell(form.get('description', ''))} |"
        if ignored:
            named = ", ".join(f"`{member}`" for member in ignored)
            yield from ("", f"Not supported; null, and values that ask for nothing, are accepted: {named}.")

    def _member(self, schema: Schema, *, is_asked: bool) -> str:
        # In what is asked, null stands for what is left out.
        told = self._form(schema)
        return (told.removesuffix(" or null") if is_asked else told) + _default(schema)

    # Forms --------------------------------------------------------------------------------------------------------

    def _form(self, schema: Schema) -> str:
        """A schema in a few words."""
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(PREFIX)
            return f"[{name}](#{'error-codes' if name == 'ErrorCode' else _anchor(name)})"
        if "allOf" in schema:
            return self._form(schema["allOf"][0])
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return " or ".join(dict.fromkeys(self._form(each) for each in schema[several]))
        if "const" in schema:
            return f"`{json.dumps(schema['const'])}`"
        if "enum" in schema:
            return ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
        if "contentMediaType" in schema:
            return f"`{schema['contentMediaType']}`"
        match schema.get("type"):
            case "array":
                if schema.get("maxItems") == 0:
                    return "empty list"
                items = self._form(schema["items"])
                return f"list of {f'({items})' if ' or ' in items else items}{_sizes(schema, 'minItems', 'maxItems')}"
            case "object":
                values = schema.get("additionalProperties")
                of = f" of {self._form(values)}" if isinstance(values, dict) else ""
                return f"object{of}{_sizes(schema, 'minProperties', 'maxProperties')}"
            case "string":
                pattern = f", `{schema['pattern']}`" if "pattern" in schema else ""
                kind = {"uuid": "UUID", "date-time": "time", "date": "day"}.get(schema.get("format", ""), "string")
                return f"{kind}{_sizes(schema, 'minLength', 'maxLength', 'length ')}{pattern}"
            case None:
                return "anything"
            case kind:
                return f"{kind}{_bounds(schema)}"


def _codes(schema: Schema) -> Sequence[str]:
    """The codes to which the schema of an error is limited."""
    found: list[str] = []
    for part in schema.get("allOf", ()):
        members = part.get("properties", {})
        if "error" in members:
            members = members["error"]["properties"]
        for name in ("code", "sluice_code"):
            found += members.get(name, {}).get("enum", ())
    return found


def _by_status(codes: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    named = [code for code in ERRORS if code in set(codes)]
    for status in sorted({STATUSES[ERRORS[code][0]] for code in named}):
        yield status, [code for code in named if STATUSES[ERRORS[code][0]] == status]


def _sizes(schema: Schema, least: str, most: str, word: str = "") -> str:
    low, high = schema.get(least), schema.get(most)
    if low is None and high is None:
        return ""
    if high is None:
        return f" ({word}at least {low})"
    return f" ({word}{'up to' if low is None else f'{low} to'} {high})"


def _bounds(schema: Schema) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    found = []
    if low is not None:
        found.append(f"{'above' if 'exclusiveMinimum' in schema else 'from'} {low:g}")
    if high is not None:
        found.append(f"{'below' if 'exclusiveMaximum' in schema else 'up to'} {high}")
    return f" {' '.join(found)}" if found else ""


def _default(schema: Schema) -> str:
    return f"; by default `{json.dumps(schema['default'])}`" if schema.get("default") not in (None, {}) else ""


def _scope(operation: dict[str, Any]) -> str:
    scopes = [f"`{scope}`" for needed in operation["security"][:1] for names in needed.values() for scope in names]
    return ", ".join(scopes) or "no key"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _wrapped(text: str, width: int = 120) -> Iterable[str]:
    line = ""
    for word in text.split(" "):
        if line and len(line) + len(word) >= width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line
