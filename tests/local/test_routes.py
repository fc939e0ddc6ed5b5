"""Routes are read from the processed template."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from local.deploy import Route, find_api
from local.errors import LocalError

PROCESSED = json.loads((Path(__file__).parent / "processed_template.json").read_text())


@pytest.fixture
def template() -> dict[str, Any]:
    return copy.deepcopy(PROCESSED)


def integration(template: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    operation = template["Resources"]["Api"]["Properties"]["Body"]["paths"][path][method]
    found: dict[str, Any] = operation["x-amazon-apigateway-integration"]
    return found


def test_routes_come_from_the_openapi_document(template: dict[str, Any]) -> None:
    api, routes = find_api(template)
    assert api == "Api"
    assert {route.key: route for route in routes} == {
        "POST /generate": Route("POST /generate", "SubmitFunction", "2.0", 15_000),
        "GET /status/{request_id}": Route("GET /status/{request_id}", "StatusFunction", "2.0", 15_000),
        "GET /anything": Route("GET /anything", "StatusFunctionAliaslive", "1.0", 30_000),
        "ANY /any": Route("ANY /any", "StatusFunction", "2.0", 30_000),
        "$default": Route("$default", "StatusFunction", "2.0", 30_000),
    }


def test_route_to_something_else_is_an_error(template: dict[str, Any]) -> None:
    integration(template, "/generate", "post")["uri"] = "https://example.com"
    with pytest.raises(LocalError, match="post /generate leads to something other than a function"):
        find_api(template)


@pytest.mark.parametrize("number", [0, 2])
def test_template_needs_exactly_one_http_api(template: dict[str, Any], number: int) -> None:
    api = template["Resources"].pop("Api")
    template["Resources"] |= {f"Api{i}": api for i in range(number)}
    with pytest.raises(LocalError, match=f"declares {number} HTTP APIs"):
        find_api(template)


def test_api_without_paths_has_no_routes(template: dict[str, Any]) -> None:
    del template["Resources"]["Api"]["Properties"]["Body"]["paths"]
    assert find_api(template) == ("Api", [])
