"""The check of answers against the OpenAPI document finds what it should."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from sluice.api.app import answer_problem
from sluice.api.exchange import answer
from sluice.api.openai.errors import answer_error, invalid
from sluice.api.openai.routes import model_views
from sluice.domain.errors import SluiceError
from sluice.domain.requests import ModelOffer
from tests.support.conformance import ConformanceError, check, check_accepted, check_response, route_of

HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
HEALTHY = {"status": "ok", "database": "ok"}


def health(status: int = 200, body: Any = HEALTHY, **headers: str) -> dict[str, Any]:
    return {"statusCode": status, "headers": HEADERS | headers, "body": json.dumps(body)}


def test_an_answer_as_documented_passes() -> None:
    check("GET", "/health", health())


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (health(201), "answered 201, which is not documented"),
        (health(body={"status": "ok"}), "'database' is a required property"),
        (health(body=HEALTHY | {"status": "fine"}), "'ok' was expected"),
        (health(body=HEALTHY | {"extra": 1}), "'extra' was unexpected"),
        (health(Server="x"), "headers that are not documented: ['server']"),
        (health(503, {"status": "unavailable", "database": "unavailable"}, **{"Retry-After": "x"}), "invalid literal"),
        (health() | {"headers": HEADERS | {"Content-Type": "text/html"}}, "content type text/html"),
    ],
)
def test_anything_else_is_found(given: dict[str, Any], found: str) -> None:
    with pytest.raises((ConformanceError, ValueError)) as error:
        check("GET", "/health", given)
    assert found in str(error.value)


def test_an_answer_to_no_route_says_so() -> None:
    problem = answer_problem(SluiceError("route_not_found", "x"))
    headers = {"Content-Type": problem.content_type, **problem.headers}
    check("GET", "/nowhere", {"statusCode": 404, "headers": headers, "body": problem.body})
    with pytest.raises(ConformanceError):
        check("GET", "/nowhere", health())


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/v1/responses/resp_1", "GET /v1/responses/{response_id}"),
        ("GET", "/v1/responses/resp_1/input_items", "GET /v1/responses/{response_id}/input_items"),
        ("POST", "/v1/responses/input_tokens", "POST /v1/responses/input_tokens"),
        ("GET", "/v1/models/org/name", "GET /v1/models/{model}"),
        ("GET", "/status/a\n", "GET /status/{request_id}"),
        ("DELETE", "/health", None),
    ],
)
def test_a_path_leads_to_its_route(method: str, path: str, route: str | None) -> None:
    assert route_of(method, path) == route


def test_errors_have_the_codes_of_their_route() -> None:
    check_response("POST /v1/embeddings", answer_error(invalid("x", "input[0]")))
    with pytest.raises(ConformanceError):
        check_response("GET /v1/models", answer_error(invalid("x", "input[0]")))
    with pytest.raises(ConformanceError):
        check_response("GET /status/{request_id}", answer_problem(SluiceError("model_unpriced", "x")))


def test_an_accepted_body_is_checked() -> None:
    for body in (
        '{"prompt": "x", "model_id": "m", "parameters": {"stop": "."}}',
        '{"prompt": "x", "expires_at": "soon"}',
    ):
        check_accepted("POST", "/generate", body)
    for body in ('{"prompt": "x", "n": 1}', '{"prompt": "x", "parameters": {"stop": []}}', "[]"):
        with pytest.raises(ConformanceError):
            check_accepted("POST", "/generate", body)
    check_accepted(
        "POST", "/v1/chat/completions", '{"messages": [{"role": "user", "content": "x"}], "n": 1, "seed": null}'
    )
    with pytest.raises(ConformanceError):
        check_accepted("POST", "/v1/chat/completions", '{"messages": [{"role": "user", "content": "x"}], "n": 2}')


def test_models_are_checked() -> None:
    offer = ModelOffer("ok", "m", True, 1, 2, "chat", datetime(2030, 1, 1, tzinfo=UTC), ["gpt"], 0, 0, None)
    check_response("GET /v1/models", answer(200, {"object": "list", "data": model_views([offer])}))
