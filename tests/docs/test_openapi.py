"""The OpenAPI document: made from the code as it is, valid, and of the routes and codes that exist."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from aws_lambda_powertools.event_handler.openapi.models import OpenAPI
from jsonschema import Draft202012Validator

from openapi import document, page
from openapi.operations import OPERATIONS
from sluice.api.app import api_app
from sluice.api.openai.errors import answer_error
from sluice.api.openai.routes import Services, openai_routes
from sluice.api.problems import STATUSES, problem_details
from sluice.domain.errors import ERRORS, SluiceError
from tests.docs import facts
from tests.docs.markdown import code_spans, paragraphs
from tests.docs.markdown import page as page_of
from tests.template.stack import walk

DOCUMENT = document.make()
OPERATION_IDS = [operation.name for operation in OPERATIONS]
# OpenAPI 3.1's own words beside those of JSON Schema, and one of its own that describes and does not limit.
_WORDS_OF_SCHEMAS = {"discriminator", "contentMediaType"}
# Below these, names are the client's.
_VALUES = {"default", "discriminator", "enum", "mapping"}


def _compare(path: Any, text: str) -> None:
    if os.environ.get("SLUICE_WRITE_SNAPSHOT"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} is not what the code says: make openapi"


def test_the_document_is_made_from_the_code() -> None:
    """SLUICE_WRITE_SNAPSHOT=1 rewrites it, as make openapi does."""
    _compare(document.FILE, document.text())


def test_the_page_is_made_from_the_document() -> None:
    _compare(page.FILE, page.text(DOCUMENT))


# Valid ----------------------------------------------------------------------------------------------------------------


def test_the_document_has_the_structure_of_openapi() -> None:
    assert re.fullmatch(r"3\.1\.\d", DOCUMENT["openapi"])
    OpenAPI.model_validate(DOCUMENT)


def _schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from DOCUMENT["components"]["schemas"].items()
    for path, value in walk(DOCUMENT["paths"]):
        if path and path[-1] in ("schema", "x-event-schema"):
            yield "/".join(path), value


@pytest.mark.parametrize(("name", "schema"), list(_schemas()), ids=[name for name, _ in _schemas()])
def test_schemas_are_valid(name: str, schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    known = set(Draft202012Validator.VALIDATORS) | _WORDS_OF_SCHEMAS | {"description", "default", "title"}
    for path, part in walk(schema):
        is_schema = not path or (path[-1] != "properties" and not {*path[-2:]} & _VALUES)
        if isinstance(part, dict) and is_schema:
            assert set(part) <= known, f"{name}: {path}"
    assert "__" not in name, "two models have the same name: call one of them something else"


def test_references_lead_somewhere() -> None:
    for path, value in walk(DOCUMENT):
        if path and path[-1] == "$ref":
            found: Any = DOCUMENT
            for part in value.removeprefix("#/").split("/"):
                found = found[part]


def test_operations_are_told_apart_and_their_paths_have_their_parameters() -> None:
    assert len(set(OPERATION_IDS)) == len(OPERATION_IDS)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            named = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"]
            assert named == re.findall(r"\{(\w+)\}", path)
            assert set(operation["tags"]) <= tags
            assert operation["summary"]
            for needed in operation["security"]:
                assert set(needed) <= set(DOCUMENT["components"]["securitySchemes"])


def test_nothing_is_described_that_nothing_refers_to() -> None:
    used = {value for path, value in walk(DOCUMENT) if path and path[-1] == "$ref"}
    for kind, described in DOCUMENT["components"].items():
        if kind != "securitySchemes":
            unused = {name for name in described if f"#/components/{kind}/{name}" not in used}
            assert not unused, kind


# Of what exists -------------------------------------------------------------------------------------------------------


def _routes() -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods}


def test_the_routes_are_those_of_the_template_and_of_the_function_openai() -> None:
    """The template gives that function everything under /v1; what it makes of it is in its router."""
    everything = {route for route in facts.routes() if "{proxy+}" in route}
    assert everything == {"ANY /v1/{proxy+}"}
    app = api_app(openai_routes(Services(*[lambda: None] * 9)))  # type: ignore[arg-type]  # nothing is called
    routes = [*app._static_routes, *app._dynamic_routes]
    under_v1 = {f"{route.method} {re.sub(r'<[a-z_]+>', '{}', route.path)}" for route in routes}
    assert {re.sub(r"\{\w+\}", "{}", route) for route in _routes() if " /v1/" in route} == under_v1
    assert {route for route in _routes() if " /v1/" not in route} == facts.routes() - everything


def _codes() -> set[str]:
    return {code for operation in OPERATIONS for code in operation.codes}


def test_the_codes_are_those_that_are_answered_over_http() -> None:
    listed = set(DOCUMENT["components"]["schemas"]["ErrorCode"]["enum"])
    assert listed == _codes() | {"route_not_found"}
    assert listed <= set(ERRORS)
    section = page_of("docs/api.md").section("## Errors")
    (elsewhere,) = [part for part in paragraphs(section) if part.startswith("These codes are answered by the admin")]
    assert set(ERRORS) - listed == {code for code in code_spans(elsewhere) if code in ERRORS}


@pytest.mark.parametrize("code", sorted(_codes()))
def test_a_code_is_listed_under_its_status(code: str) -> None:
    for operation in OPERATIONS:
        if code not in operation.codes:
            continue
        answers = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
        error = SluiceError(code, "x", retry_after=1)
        status = answer_error(error).status_code if operation.is_openai else problem_details(error)["status"]
        assert str(status) in answers, operation.key
    assert ERRORS[code][0] in STATUSES


def test_the_page_names_every_route_and_schema() -> None:
    text = page.text(DOCUMENT)
    for route in _routes():
        assert f"### {route}\n" in text
    for name in DOCUMENT["components"]["schemas"]:
        assert name == "ErrorCode" or f"### {name}\n" in text


def test_the_document_is_small_enough_to_be_read_at_once() -> None:
    assert len(json.dumps(DOCUMENT)) < 250_000
