"""What the functions answer is what the OpenAPI document says, which is checked at each call, and they serve it."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from sluice import bootstrap, handover
from sluice.api.native.reading import DESCRIPTION
from sluice.services import wait
from tests.support.conformance import DOCUMENT, ConformanceError
from tests.support.functions import KEYED, Context, event, get, load
from tests.support.service import Service, completed, failed

Call = Callable[..., tuple[int, Any]]


def test_the_document_is_served_without_a_key_and_a_database(deploy: Any) -> None:
    deploy("status")
    status, headers, body = get("/openapi.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert headers["Cache-Control"] == "public, max-age=3600"
    assert not bootstrap.database.cache_info().currsize
    assert body == DOCUMENT == json.loads(DESCRIPTION.read_text(encoding="utf-8"))


@pytest.fixture
def runs(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The outcomes of the next runs, without their request and attempt; where there is none, a run does not start."""
    outcomes: list[dict[str, Any]] = []

    def run(_: Any, claim: dict[str, Any]) -> dict[str, Any]:
        if not outcomes:
            raise handover.NotStartedError
        given = outcomes.pop(0)
        settle = completed if given.get("outcome") != "failed" else failed
        outcome = settle(UUID(claim["request_id"]), claim["attempt"], **given)
        service.settle(outcome)
        return {"kind": "settled", "status": outcome["outcome"], "outcome": outcome}

    monkeypatch.setattr(handover.LambdaRunner, "__call__", run)
    return outcomes


@pytest.fixture
def call(deploy: Any, service: Service, alice: bytes, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls a route under /v1; returns the status, and the body or a stream."""
    monkeypatch.setattr(wait, "LONGEST_SECONDS", 0.1)
    deploy("openai", FOREGROUND_FUNCTION="foreground")

    def v1(method: str, path: str, body: Any = None, query: dict[str, str] | None = None, **headers: str) -> Any:
        http = event("openai-chat")
        http["requestContext"]["http"] |= {"path": path, "method": method}
        given = body if body is None or isinstance(body, str) else json.dumps(body)
        http |= {"rawPath": path, "headers": KEYED | headers, "queryStringParameters": query, "body": given}
        answer = load("openai.app").handler(http, Context())
        is_stream = answer["headers"]["Content-Type"].startswith("text/event-stream")
        return answer["statusCode"], answer["body"] if is_stream else json.loads(answer["body"])

    return v1


ASKED = {"messages": [{"role": "user", "content": "hello"}]}


def test_chat_completions(call: Call, runs: list[dict[str, Any]]) -> None:
    runs += [{}, {}, {"outcome": "failed"}, {"outcome": "failed", "error_code": "model_unavailable"}]
    assert call("POST", "/v1/chat/completions", ASKED)[0] == 200
    streamed = ASKED | {"stream": True, "stream_options": {"include_usage": True}, "seed": 1}
    status, stream = call("POST", "/v1/chat/completions", streamed)
    assert status == 200
    assert stream.endswith("data: [DONE]\n\n")
    assert call("POST", "/v1/chat/completions", ASKED | {"seed": 2})[0] == 400
    assert call("POST", "/v1/chat/completions", ASKED | {"seed": 3})[0] == 500


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ({"messages": []}, 400),
        (ASKED | {"n": 2}, 400),
        (ASKED | {"no_such": 1}, 400),
        (ASKED | {"model": "none-such"}, 404),
        (ASKED | {"max_tokens": 99_999}, 400),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, 400),
        (ASKED, 503),  # no run starts
    ],
)
def test_what_is_not_answered(call: Call, runs: list[dict[str, Any]], body: Any, status: int) -> None:
    assert call("POST", "/v1/chat/completions", body)[0] == status


def test_keys_and_quotas(call: Call, service: Service) -> None:
    for key in ("", "nonsense", "sluice_" + "z" * 43):
        assert call("GET", "/v1/models", **{"x-api-key": key})[0] == 401
    service.act("quota.set", user_id="alice", limits={"minute": {"max_requests": 0}})
    assert call("POST", "/v1/chat/completions", ASKED)[0] == 429
    assert call("GET", "/v1/nowhere")[0] == 404


def test_the_life_of_a_response(call: Call, service: Service) -> None:
    body = {"input": "hello", "background": True, "metadata": {"project": "x"}, "instructions": "Be brief."}
    status, response = call("POST", "/v1/responses", body, **{"idempotency-key": "once"})
    assert (status, response["status"]) == (200, "queued")
    path = f"/v1/responses/{response['id']}"
    assert call("POST", "/v1/responses", body, **{"idempotency-key": "once"})[1]["id"] == response["id"]
    assert call("GET", path)[1]["status"] == "queued"
    assert call("GET", path, query={"stream": "true"})[0] == 200
    (claimed,) = service.claim(UUID(response["id"].removeprefix("resp_")))
    service.settle(completed(claimed["request_id"], claimed["attempt"]))
    assert call("GET", path)[1]["status"] == "completed"
    assert call("GET", path, query={"stream": "true", "starting_after": "2"})[0] == 200
    assert call("GET", path, query={"starting_after": "x"})[0] == 400
    assert call("GET", f"{path}/input_items", query={"order": "asc", "limit": "1"})[1]["has_more"] is False
    assert call("GET", f"{path}/input_items", query={"after": "none"})[0] == 400
    assert call("POST", "/v1/responses/input_tokens", {"input": "hi", "previous_response_id": response["id"]})[0] == 200
    assert call("POST", "/v1/responses/input_tokens", {"input": "hi", "model": "none-such"})[0] == 404
    assert call("POST", f"{path}/cancel")[1]["status"] == "completed"
    assert call("DELETE", path)[1]["deleted"] is True
    for method, end in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
        assert call(method, path + end)[0] == 404


def test_cancelled_and_waited_for_responses(call: Call, runs: list[dict[str, Any]]) -> None:
    runs.append({})
    assert call("POST", "/v1/responses", {"input": "hello", "stream": True})[0] == 200
    response = call("POST", "/v1/responses", {"input": "hello", "background": True, "seed": None})[1]
    assert call("POST", f"/v1/responses/{response['id']}/cancel")[1]["status"] == "cancelled"
    assert call("POST", "/v1/responses", {"input": "a", "background": True, "stream": True})[0] == 200


def test_models(call: Call) -> None:
    status, models = call("GET", "/v1/models")
    assert status == 200
    assert call("GET", f"/v1/models/{models['data'][0]['id']}")[0] == 200
    assert call("GET", "/v1/models/none-such")[0] == 404


def test_embeddings(call: Call, runs: list[dict[str, Any]], service: Service) -> None:
    assert call("POST", "/v1/embeddings", {"input": "hello"})[0] in (400, 404)
    assert call("POST", "/v1/embeddings", {"input": []})[0] == 400


def test_an_answer_that_is_not_documented_is_found(deploy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("status")
    get("/health")
    monkeypatch.delitem(DOCUMENT["paths"], "/health")
    with pytest.raises(ConformanceError, match="no route answered 200"):
        get("/health")
