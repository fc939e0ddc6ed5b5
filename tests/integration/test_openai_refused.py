"""What is refused before a model is asked: quotas, scopes, kinds of models, what could not be counted; and what is reserved."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from sluice.domain.documents import Input
from sluice.domain.keys import digest
from sluice.domain.requests import Claim, RequestLimits, Submission
from tests.support.inputs import INPUTS
from tests.support.ledger import assert_books_balance
from tests.support.openai_api import ARTIST, MINIMAL, Api, keyed
from tests.support.service import LIMITS, Service, completed, submission

CLEAN = """
    SELECT (SELECT count(*) FROM requests) AS requests, (SELECT count(*) FROM prompts) AS prompts,
           (SELECT count(*) FROM inflight) AS inflight, (SELECT count(*) FROM idempotency_keys) AS keys,
           (SELECT count(*) FROM audit_log WHERE user_id IS NOT NULL AND actor <> 'admin') AS audited,
           (SELECT sum(requests_used + tokens_used + tokens_reserved) FROM quotas) AS counted"""
NOTHING = {"requests": 0, "prompts": 0, "inflight": 0, "keys": 0, "audited": 0, "counted": 0}
IMAGE = {"type": "image_url", "image_url": {"url": "https://i.example/1"}}
PATHS = list(MINIMAL)
PERIODS = ("minute", "daily", "monthly")
COUNTED_KEY = "sluice_" + "c" * 43


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("limits", "code", "is_retried"),
    [
        ({"minute": {"max_requests": 1}}, "rate_limit_exceeded", True),
        ({"minute": {"max_tokens": 900}}, "rate_limit_exceeded", True),
        ({"monthly": {"max_requests": 1}}, "insufficient_quota", False),
        ({"minute": {"max_tokens": 10}}, "insufficient_quota", False),
        ({"minute": {"max_requests": 0}}, "insufficient_quota", False),
    ],
)
def test_a_quota_is_429(
    api: Api, service: Service, alice: bytes, path: str, limits: dict[str, Any], code: str, is_retried: bool
) -> None:
    service.act("quota.set", user_id="alice", limits=limits)
    # An image reserves all that its model may count: as much as the other paths' requests, so that 900 tokens hold one.
    service.act("model.set", **ARTIST, max_tokens_limit=512)
    api.model.tokens = (500, 80)
    body = MINIMAL[path] | ({"input": "x" * 400} if path in ("/v1/embeddings", "/v1/audio/speech") else {})
    if is_retried or "monthly" in limits:
        assert api.post(path, body).status == 200
    reply = api.post(path, body)
    assert (reply.status, reply.error["code"]) == (429, code)
    assert reply.error["type"] == ("rate_limit_error" if is_retried else "insufficient_quota")
    assert reply.headers.get("x-should-retry") == (None if is_retried else "false")
    if is_retried:
        seconds = int(reply.headers["Retry-After"])
        assert 0 < seconds <= 60
        assert reply.headers["retry-after-ms"] == str(seconds * 1000)
        assert any(name.startswith("x-ratelimit-") for name in reply.headers)
    assert_books_balance(service)


def test_a_refusal_writes_nothing(api: Api, service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", limits={"minute": {"max_requests": 0}})
    assert service.rows(CLEAN) == [NOTHING]
    for path in PATHS:
        assert api.post(path, MINIMAL[path]).status == 429
        assert api.post(path, MINIMAL[path] | {"model": "gpt-5"}).status == 404
        assert api.post(path, {}).status == 400
        assert api.post(path, MINIMAL[path], keyed("sluice_" + "z" * 43)).status == 401
    assert service.rows(CLEAN) == [NOTHING]
    assert service.value("SELECT last_used_at FROM api_keys") is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scope", ["submit", "read"])
def test_a_key_needs_both_scopes_to_ask_and_wait(
    api: Api, service: Service, alice: bytes, path: str, scope: str
) -> None:
    """Whoever waits reads the answer, at once or by a repeat of the call."""
    service.owner.execute("UPDATE api_keys SET scopes = %s", ([scope],))
    reply = api.post(path, MINIMAL[path])
    assert (reply.status, reply.error["code"], reply.error["type"]) == (
        403,
        "insufficient_permissions",
        "permission_error",
    )
    assert service.rows(CLEAN) == [NOTHING]


def test_a_key_that_may_only_submit_submits_to_the_background(api: Api, service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE api_keys SET scopes = '{submit}'")
    made = api.respond("later", background=True)
    assert (made.status, made.body["status"]) == (200, "queued")
    assert api.get(f"/v1/responses/{made.body['id']}").status == 403
    assert api.get("/v1/models").status == 403
    assert api.call("POST", f"/v1/responses/{made.body['id']}/cancel").status == 403


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-api-key": ""}, "missing_api_key"),
        ({"x-api-key": "sk-of-openai"}, "invalid_api_key"),
        ({"x-api-key": "", "authorization": "Basic x"}, "invalid_api_key"),
        ({"x-api-key": "sluice_" + "z" * 43}, "invalid_api_key"),
    ],
)
def test_a_wrong_key_is_401(api: Api, alice: bytes, headers: dict[str, str], code: str) -> None:
    for method, path in (
        *(("POST", path) for path in PATHS),
        ("GET", "/v1/models"),
        ("GET", "/v1/responses/x"),
        ("DELETE", "/v1/responses/x"),
        ("POST", "/v1/responses/x/cancel"),
        ("POST", "/v1/responses/input_tokens"),
        ("GET", "/v1/responses/x/input_items"),
        ("GET", "/v1/models/x"),
    ):
        reply = api.call(method, path, MINIMAL.get(path, {"input": "hello"}), headers)
        assert (reply.status, reply.error["code"], reply.error["type"]) == (401, code, "authentication_error")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert headers["x-api-key"] == "" or headers["x-api-key"] not in reply.text


def test_each_kind_of_model_does_its_own(api: Api, service: Service, alice: bytes) -> None:
    drawn = [api.post(path, MINIMAL[path] | {"model": "embedder"}) for path in PATHS if "input" not in MINIMAL[path]]
    spoken = api.post("/v1/audio/speech", MINIMAL["/v1/audio/speech"] | {"model": "artist"})
    own = (api.respond(model="embedder"), api.embed(model="nova-micro"), spoken)
    for reply in (*drawn, *own):
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "model_not_supported", "model")
    unnamed = api.post("/v1/embeddings", {"input": "hello"})
    assert (unnamed.status, unnamed.error["code"]) == (400, "model_not_supported"), "the default model answers"
    assert api.respond(model="embedder", background=True).status == 400
    assert service.rows(CLEAN) == [NOTHING]


def test_images_need_a_model_that_takes_them(api: Api, service: Service, alice: bytes) -> None:
    content = [{"type": "text", "text": "what?"}, IMAGE, IMAGE]
    reply = api.chat(content)
    assert (reply.status, reply.error["sluice_code"]) == (400, "images_not_taken")
    service.act("model.set", model_id="nova-micro", image_tokens=765)
    assert api.chat(content, max_tokens=7).status == 200
    assert service.value("SELECT reserved_tokens FROM requests") == 5 + 64 + 2 * 765 + 7


def test_too_much_is_refused(api: Api, service: Service, alice: bytes) -> None:
    reply = api.chat("x" * 32_769)
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    reply = api.chat(max_tokens=10**9)
    assert (reply.status, reply.error["code"], reply.error["max_tokens_limit"]) == (
        400,
        "integer_above_max_value",
        5000,
    )
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 40_000}}]
    assert api.chat(tools=tools).error["code"] == "context_length_exceeded"


def test_what_cannot_be_counted_is_refused(api: Api, service: Service, alice: bytes) -> None:
    """30,000 empty messages, each of which may cost a template 100,000 tokens: an integer does not hold that."""
    service.act("quota.set", user_id="alice", limits={period: {"max_tokens": None} for period in PERIODS})
    service.act("model.set", model_id="nova-micro", item_tokens=100_000)
    reply = api.post("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 30_000})
    assert (reply.status, reply.error["code"], reply.error["tokens_needed"]) == (
        400,
        "context_length_exceeded",
        29_999 * 100_000 + 64 + 512,
    )
    assert service.rows(CLEAN) == [NOTHING]
    assert api.post("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 20_000}).status == 200
    assert_books_balance(service)


# What is reserved -----------------------------------------------------------------------------------------------------


@given(INPUTS, st.integers(1, 2048), st.sampled_from(["chat", "embedding"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True, max_examples=60)
def test_a_reservation_is_the_most_that_can_be_used(counted: Service, asked: Input, max_tokens: int, kind: Any) -> None:
    """Bytes, overhead, items and images, and the completion of a chat; the same as the worker believes a report up to."""
    made = counted.ledger("openai").run(
        digest(COUNTED_KEY),
        Submission(
            input=asked,
            model="nova-micro" if kind == "chat" else "embedder",
            parameters={"max_tokens": max_tokens} if kind == "chat" else {},
            kind=kind,
        ),
        LIMITS,
        60,
    )
    assert made.outcome == "accepted"
    assert made.claim is not None
    claim = Claim.from_json(json.loads(json.dumps(made.claim)))
    reserved = counted.value("SELECT reserved_tokens FROM requests WHERE request_id = %s", made.request_id)
    completion = max_tokens if kind == "chat" else 0
    assert reserved == claim.prompt_tokens_most + completion
    assert reserved == asked.byte_length + 64 + 16 * asked.extra_items + 10 * asked.image_count + completion
    assert claim.input == asked
    assert claim.kind == kind
    tokens: Any = {"prompt_tokens": claim.prompt_tokens_most, "completion_tokens": completion}
    counted.settle(completed(claim.request_id, **tokens))


@pytest.fixture
def counted(api: Api, service: Service) -> Service:
    """A user without limits, and models that take images."""
    service.add_user("counter", COUNTED_KEY)
    none = {"max_requests": None, "max_tokens": None}
    service.act("quota.set", user_id="counter", limits=dict.fromkeys(PERIODS, none))
    for model in ("nova-micro", "embedder"):
        service.act("model.set", model_id=model, image_tokens=10)
    return service


# The version before ---------------------------------------------------------------------------------------------------


def test_the_version_before_goes_on_working_beside_it(api: Api, service: Service, alice: bytes) -> None:
    """It knows neither kinds nor surfaces nor repeats, and reads what the new one stores."""
    old = service.database("submit").call_row("request_submit", key_hash=alice, submission=submission("old"))
    assert old["outcome"] == "accepted"
    (claim,) = service.claim(old["request_id"])
    service.settle(completed(old["request_id"], claim["attempt"]))
    assert service.rows("SELECT surface, erased_at FROM prompts") == [{"surface": None, "erased_at": None}]
    shown = api.get(f"/v1/responses/resp_{old['request_id'].hex}").body
    assert (shown["status"], shown["output"][0]["content"][0]["text"]) == ("completed", "an answer")

    new = api.chat("new", tools=[{"type": "function", "function": {"name": "f"}}])
    assert service.status(alice, new.request_id)["result"] == "an answer"
    assert len(service.history(alice)["requests"]) == 2
    assert_books_balance(service)


def test_a_new_member_that_is_null_is_as_if_it_were_not_given(service: Service, alice: bytes) -> None:
    nulls = dict.fromkeys(["surface", "kind", "metadata", "model", "idempotency_key"])
    made = service.database("submit").call_row(
        "request_submit", key_hash=alice, submission=Jsonb(submission("x").obj | nulls)
    )
    assert made["outcome"] == "accepted"


def test_the_longest_wait_of_a_request_is_the_deployments(api: Api, service: Service, alice: bytes) -> None:
    api.runner = lambda _: None
    api.chat()
    longest = RequestLimits(32_768, 86_400, 20)
    (row,) = service.rows(
        "SELECT extract(epoch FROM i.expires_at - r.created_at)::float AS lifetime, i.max_attempts"
        " FROM inflight i JOIN requests r USING (request_id)"
    )
    assert row == {"lifetime": longest.longest_seconds, "max_attempts": longest.max_attempts}
