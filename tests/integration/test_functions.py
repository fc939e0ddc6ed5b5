"""The handlers, from event to answer: HTTP routes, SQS batches, schedules."""

import json
from typing import Any
from uuid import uuid4

import pytest
from psycopg.conninfo import make_conninfo

from sluice import bootstrap
from sluice.domain.requests import Claim, Completion
from tests.support.functions import KEYED, Context, call, event, get, load, post
from tests.support.service import KEY, Service


def test_a_prompt_is_accepted_and_sent(deploy: Any, service: Service, alice: bytes) -> None:
    sqs = deploy("submit")

    status, headers, body = call("submit.app", "submit", headers=KEYED, body=json.dumps({"prompt": "hello"}))

    assert status == 202
    assert set(body) == {"request_id", "status"}
    assert body["status"] == "queued"
    assert headers["Location"] == f"/status/{body['request_id']}"
    assert headers["Retry-After"] == "1"
    assert headers["Content-Type"] == "application/json"
    assert headers["x-ratelimit-limit-requests"] == "3000"
    assert headers["x-ratelimit-remaining-requests"] == "2999"
    (message,) = sqs.receive_message(QueueUrl=bootstrap.settings().queue_url, AttributeNames=["All"])["Messages"]
    assert json.loads(message["Body"]) == {"request_id": body["request_id"]}
    assert service.value("SELECT prompt FROM prompts") == "hello"


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}])
def test_a_bearer_token_is_accepted(deploy: Any, service: Service, alice: bytes, headers: dict[str, str]) -> None:
    deploy("submit")
    assert post('{"prompt": "hello"}', headers)[0] == 202


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ("", 400, "body_not_json", None),
        ("{", 400, "body_not_json", None),
        ('{"prompt": "\\ud800"}', 400, "body_not_json", None),
        ('{"prompt": "hello", "seed": NaN}', 422, "invalid_input", None),
        ("[]", 422, "invalid_input", ""),
        ('"hello"', 422, "invalid_input", ""),
        ("null", 422, "invalid_input", ""),
        ("{}", 422, "invalid_input", "/prompt"),
        ('{"prompt": null}', 422, "invalid_input", "/prompt"),
        ('{"prompt": 5}', 422, "invalid_input", "/prompt"),
        ('{"prompt": ""}', 422, "invalid_input", "/prompt"),
        ('{"prompt": "a\\u0000b"}', 422, "invalid_input", "/prompt"),
        ('{"prompt": "hello", "promt": 1}', 422, "invalid_input", "/promt"),
        ('{"prompt": "hello", "model": 1}', 422, "invalid_input", "/model"),
        ('{"prompt": "hello", "model": "a b"}', 422, "invalid_input", "/model"),
        ('{"prompt": "hello", "model": "a", "model_id": "b"}', 422, "invalid_input", ""),
        ('{"prompt": "hello", "model": "none-such"}', 422, "model_unknown", None),
        ('{"prompt": "hello", "parameters": []}', 422, "invalid_input", "/parameters"),
        ('{"prompt": "hello", "parameters": {"max_tokens": 0}}', 422, "invalid_input", "/parameters/max_tokens"),
        ('{"prompt": "hello", "parameters": {"max_tokens": 1.5}}', 422, "invalid_input", "/parameters/max_tokens"),
        ('{"prompt": "hello", "parameters": {"max_tokens": "5"}}', 422, "invalid_input", "/parameters/max_tokens"),
        ('{"prompt": "hello", "parameters": {"max_tokens": 99999}}', 422, "max_tokens_exceeded", None),
        ('{"prompt": "hello", "parameters": {"max_tokens": 1e30}}', 422, "invalid_input", "/parameters/max_tokens"),
        ('{"prompt": "hello", "parameters": {"temperature": 3}}', 422, "invalid_input", "/parameters/temperature"),
        ('{"prompt": "hello", "parameters": {"top_p": 0}}', 422, "invalid_input", "/parameters/top_p"),
        ('{"prompt": "hello", "parameters": {"stop": []}}', 422, "invalid_input", "/parameters/stop"),
        ('{"prompt": "hello", "parameters": {"top_k": 1}}', 422, "invalid_input", "/parameters/top_k"),
        ('{"prompt": "hello", "metadata": {"a": 1}}', 422, "invalid_input", "/metadata/a"),
        ('{"prompt": "hello", "metadata": {"a": "\\u0000"}}', 422, "invalid_input", "/metadata/a"),
        (json.dumps({"prompt": "x" * 32_769}), 422, "prompt_too_long", None),
        (json.dumps({"prompt": "é" * 16_385}), 422, "prompt_too_long", None),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused(
    deploy: Any, service: Service, alice: bytes, body: str, status: int, code: str, pointer: str | None
) -> None:
    deploy("submit")

    answered, headers, problem = post(body)

    assert (answered, problem["status"], problem["code"]) == (status, status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert problem["type"] == f"urn:sluice:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer
    assert "hello" not in json.dumps(problem), "no part of the prompt is repeated"
    assert service.value("SELECT count(*) FROM requests") == 0


def test_a_body_that_is_not_text_is_refused(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit")
    binary = event("submit") | {"body": "/////w==", "isBase64Encoded": True, "headers": KEYED}
    answer = load("submit.app").handler(binary, Context())
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (400, "body_not_json")


def test_the_longest_prompt_is_accepted(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit", MAX_PROMPT_BYTES="100")
    assert post(json.dumps({"prompt": "x" * 100}))[0] == 202
    assert post(json.dumps({"prompt": "x" * 101}))[0] == 422


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "key_missing"),
        ({"x-api-key": ""}, "key_missing"),
        ({"authorization": "Bearer "}, "key_missing"),
        ({"x-api-key": "nonsense"}, "key_malformed"),
        ({"x-api-key": KEY + "x"}, "key_malformed"),
        ({"authorization": f"Basic {KEY}"}, "key_malformed"),
        ({"x-api-key": "sluice_" + "z" * 43}, "key_unknown"),
    ],
)
def test_requests_without_a_valid_key_are_refused(
    deploy: Any, service: Service, alice: bytes, headers: dict[str, str], code: str
) -> None:
    deploy("submit")
    status, sent, problem = call("submit.app", "submit", headers=headers)
    assert (status, problem["code"]) == (401, code)
    assert sent["WWW-Authenticate"].startswith("Bearer")

    deploy("status")
    for path in (f"/status/{uuid4()}", "/requests", "/models"):
        status, _, problem = get(path, headers)
        assert (status, problem["code"]) == (401, code)


def test_an_exhausted_quota_is_429(deploy: Any, service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quotas SET max_requests = 1 WHERE quota_period = 'monthly'")
    deploy("submit")
    assert post('{"prompt": "hello"}')[0] == 202

    status, headers, problem = post('{"prompt": "hello"}')

    assert (status, problem["code"]) == (429, "quota_exceeded")
    assert int(headers["Retry-After"]) == problem["retry_after"] > 0
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("1", "0")


def test_an_idempotency_key_returns_the_same_request(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit")
    headers = KEYED | {"idempotency-key": "once"}

    first, again = post('{"prompt": "hello"}', headers), post('{ "prompt":"hello" }', headers)

    assert first[0] == again[0] == 202
    assert first[2] == again[2]
    assert post('{"prompt": "other"}', headers)[2]["code"] == "idempotency_conflict"
    assert post('{"prompt": "hello"}', KEYED | {"idempotency-key": "x" * 256})[2]["code"] == "invalid_input"


def test_an_unavailable_database_is_503(deploy: Any, service: Service, alice: bytes) -> None:
    nowhere = make_conninfo(service.dsn, port=1)
    deploy("submit", nowhere)
    status, headers, problem = post('{"prompt": "hello"}')
    assert (status, problem["code"], headers["Retry-After"]) == (503, "database_unavailable", "5")

    deploy("status", nowhere)
    assert get(f"/status/{uuid4()}", KEYED)[0] == 503
    status, _, body = get("/health")
    assert (status, body["database"]) == (503, "unavailable")


def test_an_unavailable_queue_does_not_refuse_requests(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit", QUEUE_URL="https://sqs.us-east-1.amazonaws.com/123456789012/gone")
    assert post('{"prompt": "hello"}')[0] == 202
    assert service.rows("SELECT dispatched_at FROM inflight") == [{"dispatched_at": None}]


def test_unexpected_errors_are_500_without_details(
    deploy: Any, service: Service, alice: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy("submit")
    monkeypatch.setattr("sluice.services.submit.Submitter.submit", lambda *_: 1 / 0)
    status, _, problem = post('{"prompt": "a zebra"}')
    assert (status, problem["code"]) == (500, "internal_error")
    logged = capsys.readouterr().out
    assert "ZeroDivisionError" in logged
    assert "zebra" not in logged


class Parrot:
    def complete(self, claim: Claim, timeout: float) -> Completion:
        return Completion.of_text(claim.input.messages[0].text[::-1], 2, 1)


def test_a_request_from_beginning_to_end(
    deploy: Any, service: Service, alice: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Submit, work, read and roll up through the four handlers, without the prompt in any log."""
    sqs = deploy("submit")
    request_id = post('{"prompt": "zebra"}')[2]["request_id"]

    deploy("worker")
    monkeypatch.setattr(bootstrap, "backends", lambda: {"bedrock": Parrot()})
    received = sqs.receive_message(QueueUrl=bootstrap.settings().queue_url)["Messages"]
    batch = event("worker")
    template = batch["Records"][0]
    batch["Records"] = [template | {"messageId": m["MessageId"], "body": m["Body"]} for m in received]
    assert load("worker.app").handler(batch, Context()) == {"batchItemFailures": []}

    deploy("status")
    status, _, body = get(f"/status/{request_id}", KEYED)
    assert (status, body["status"], body["result"]) == (200, "completed", "arbez")
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 1,
        "total_tokens": 3,
    }
    assert [r["request_id"] for r in get("/requests", KEYED, limit="5")[2]["requests"]] == [request_id]

    deploy("rollup")
    figures = load("rollup.app").handler({"tasks": ["usage", "stats", "recover"]}, Context())
    assert figures["usage"] == {"changed": 2}
    assert service.rows("SELECT requests_count, tokens_used FROM usage WHERE period = 'monthly'") == [
        {"requests_count": 1, "tokens_used": 3}
    ]
    logged = capsys.readouterr().out
    assert '"RequestsAccepted":[1.0]' in logged
    assert '"RequestsCompleted":[1.0]' in logged
    for secret in ("zebra", "arbez", KEY):
        assert secret not in logged


def test_the_worker_keeps_unreadable_messages(deploy: Any, service: Service) -> None:
    deploy("worker")
    batch = event("worker-invalid")
    *unreadable, of_nobody = [record["messageId"] for record in batch["Records"]]
    failures = load("worker.app").handler(batch, Context())["batchItemFailures"]
    assert [failure["itemIdentifier"] for failure in failures] == unreadable
    assert of_nobody


def test_invalid_ids_are_not_found(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("status")
    for wrong in ("12", str(uuid4()), "%00"):
        status, _, problem = get(f"/status/{wrong}", KEYED)
        assert (status, problem["title"]) == (404, "Request not found")
    assert get("/nowhere", KEYED)[2]["code"] == "route_not_found"


def test_health_asks_the_database_at_intervals(deploy: Any, service: Service) -> None:
    deploy("status")
    service.rows("SELECT pg_stat_statements_reset()")
    for _ in range(20):
        assert get("/health")[::2] == (200, {"status": "ok", "database": "ok"})
    calls = "SELECT sum(calls) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE query LIKE '%%AS answer%%' AND datname = current_database()"
    assert service.value(calls) <= 2, "two, if a period of five seconds ended meanwhile"


@pytest.mark.parametrize("wrong", [{}, {"tasks": []}, {"tasks": ["no-such"]}, {"tasks": "usage"}, {"task": "usage"}])
def test_the_rollup_refuses_unknown_tasks(deploy: Any, service: Service, wrong: Any) -> None:
    from sluice.domain.errors import SluiceError

    deploy("rollup")
    with pytest.raises(SluiceError, match="invalid_input"):
        load("rollup.app").handler(wrong, Context())
