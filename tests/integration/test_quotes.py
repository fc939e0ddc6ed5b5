"""Quotes: what a request would use and cost, whether it would be accepted, and how good that was afterwards."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from aws_lambda_powertools.event_handler import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.api.native.bodies import GenerateRequest
from sluice.api.native.submission import generate, quote
from sluice.backends.protocol import ModelError
from sluice.domain.documents import Input, Message, TextPart
from sluice.domain.errors import SluiceError
from sluice.domain.requests import Completion, Submission
from sluice.services.quote import Quoter
from tests.support.conformance import check_response
from tests.support.ledger import assert_books_balance, wait_until_visible
from tests.support.models import Models, add_models, work
from tests.support.service import LIMITS, Service, body_of

TABLES = ("requests", "prompts", "inflight", "audit_log", "answer_cache", "idempotency_keys")


@pytest.fixture
def models(service: Service) -> Models:
    add_models(service, "only", "other")
    return Models()


@pytest.fixture
def priced(models: Models, admin: Callable[..., Any]) -> Models:
    """A token of the prompt costs 1, one of the completion 2."""
    admin("price.set", model_id="only", prompt="1000000", completion="2000000")
    return models


def ask(service: Service, key: bytes, prompt: str = "hello", **body: Any) -> dict[str, Any]:
    """What POST /quote answers."""
    asked = GenerateRequest.model_validate({"prompt": prompt, **body})
    response = quote(Quoter(service.ledger("submit"), LIMITS), key, asked)
    check_response("POST /quote", response)
    return body_of(response)


def post(service: Service, key: bytes, prompt: str = "hello", **body: Any) -> Response[str]:
    return generate(service.submitter(), key, GenerateRequest.model_validate({"prompt": prompt, **body}), None)


def rollup(service: Service) -> None:
    wait_until_visible(service)
    service.database("rollup").value("rollup_stats")


def test_the_bound_is_what_would_be_reserved(service: Service, alice: bytes, priced: Models) -> None:
    quoted = ask(service, alice)
    assert quoted["bound"] == {
        "prompt_tokens": 15,
        "completion_tokens": 16,
        "total_tokens": 31,
        "cost": {"amount": "47", "currency": "USD", "price_list": "standard"},
    }
    assert (quoted["accepted"], quoted["refusal"], quoted["forecast"], quoted["cache"]) == (True, None, None, None)
    assert (quoted["model"], quoted["models"], quoted["wait_seconds"]) == ("only", ["only"], 0)
    request_id = service.submit(alice, "hello")
    assert service.status(alice, request_id)["reserved_tokens"] == 31


def test_nothing_is_written(service: Service, alice: bytes, priced: Models) -> None:
    before = {name: service.value(f"SELECT count(*) FROM {name}") for name in TABLES}
    quotas = service.rows("SELECT * FROM quotas")
    ask(service, alice, parameters={"temperature": 0}, cache={"max_age": 60}, max_cost="100")
    assert {name: service.value(f"SELECT count(*) FROM {name}") for name in TABLES} == before
    assert service.rows("SELECT * FROM quotas") == quotas


def test_a_refusal_is_quoted_with_why_and_when(service: Service, priced: Models) -> None:
    key = service.add_user("carol", "sluice_" + "c" * 43, minute={"max_requests": 1, "max_tokens": 10_000})
    service.submit(key, "hello")
    quoted = ask(service, key)
    assert not quoted["accepted"]
    assert quoted["refusal"]["code"] == "quota_exceeded"
    assert 0 < quoted["refusal"]["retry_after"] <= 60
    assert quoted["bound"]["total_tokens"] == 31


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"model": "none"}, "model_unknown"),
        ({"parameters": {"max_tokens": 9999}}, "max_tokens_exceeded"),
        ({"schema": {"$ref": "http://example.com"}}, "schema_refused"),
        ({"ttl_seconds": 999_999}, "lifetime_invalid"),
    ],
)
def test_what_can_never_be_accepted_is_refused(
    service: Service, alice: bytes, models: Models, body: dict[str, Any], code: str
) -> None:
    if code == "lifetime_invalid":
        assert ask(service, alice, **body)["refusal"]["code"] == code
        return
    with pytest.raises(SluiceError) as refused:
        ask(service, alice, **body)
    assert refused.value.code == code


def test_the_forecast_comes_from_answers_of_this_size(service: Service, alice: bytes, priced: Models) -> None:
    priced.always["only"] = Completion.of_text("x", 6, 4, "stop")
    for n in range(4):
        work(service, priced, service.submit(alice, f"hello {n}"))
    rollup(service)
    assert ask(service, alice, "hello x")["forecast"] is None
    work(service, priced, service.submit(alice, "hello 5"))
    rollup(service)
    forecast = ask(service, alice, "hello x")["forecast"]
    assert (forecast["completion_tokens"], forecast["basis"]) == (4, {"answers": 5, "own": True})
    assert forecast["cost"]["amount"] == str(forecast["prompt_tokens"] + 8)
    # Another size, another limit, another model, another user: nothing is known.
    assert ask(service, alice, "hello " * 100)["forecast"] is None
    assert ask(service, alice, "hello x", parameters={"max_tokens": 99})["forecast"] is None
    assert ask(service, alice, "hello x", model="other")["forecast"] is None
    assert ask(service, service.add_user("bob", "sluice_" + "b" * 43), "hello x")["forecast"] is None


def test_enough_answers_of_several_others_will_do(service: Service, alice: bytes, priced: Models) -> None:
    carol, dave = (service.add_user(name, f"sluice_{name[0] * 43}") for name in ("carol", "dave"))
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    for n in range(20):
        work(service, priced, service.submit(alice, f"hello {n}"))
    work(service, priced, service.submit(carol, "hello y"))
    rollup(service)
    # It would be what alice's answers are like.
    assert ask(service, bob, "hello x")["forecast"] is None
    work(service, priced, service.submit(dave, "hello z"))
    rollup(service)
    assert ask(service, bob, "hello x")["forecast"]["basis"] == {"answers": None, "own": False}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(st.integers(1, 12), min_size=5, max_size=8), repairs=st.integers(0, 3), length=st.integers(1, 99)
)
def test_a_forecast_is_never_above_its_bound(
    service: Service, alice: bytes, priced: Models, messages: list[int], repairs: int, length: int
) -> None:
    """Whatever is in the conversations that it was made from."""
    submitter = service.submitter()
    for count in messages:
        talk = Input(messages=tuple(Message(role="user", content=(TextPart(text="x"),)) for _ in range(count)))
        priced.script("only", Completion.of_text("x", talk.byte_length + 10 + 2 * (count - 1), 16, "stop"))
        work(service, priced, submitter.submit(alice, Submission(input=talk)).request_id)
    rollup(service)
    form = {"schema": {"type": "object"}, "repair_attempts": repairs} if repairs else {}
    quoted = ask(service, alice, "y" * length, **form)
    if quoted["forecast"] is not None:
        assert quoted["forecast"]["prompt_tokens"] <= quoted["bound"]["prompt_tokens"]
        assert Decimal(quoted["forecast"]["cost"]["amount"]) <= Decimal(quoted["bound"]["cost"]["amount"])


def test_the_cache_is_in_the_quote(service: Service, alice: bytes, priced: Models) -> None:
    body: dict[str, Any] = {"parameters": {"temperature": 0}, "cache": {"max_age": 60}}
    assert ask(service, alice, **body)["cache"] == "miss"
    request_id = UUID(body_of(post(service, alice, **body))["request_id"])
    assert ask(service, alice, **body)["cache"] == "follow"
    work(service, priced, request_id)
    quoted = ask(service, alice, **body)
    assert (quoted["cache"], quoted["bound"]["total_tokens"], quoted["bound"]["cost"]["amount"]) == ("hit", 0, "0")


def test_the_wait_is_estimated_from_the_users_own_requests(service: Service, alice: bytes, priced: Models) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=1)
    first = service.submit(alice, "hello 1")
    assert (ask(service, alice)["wait_seconds"], ask(service, alice)["wait_basis"]) == (None, None)
    service.submit(alice, "hello 2")
    work(service, priced, first)
    quoted = ask(service, alice)
    assert quoted["wait_basis"]["position"] == 1
    assert quoted["wait_seconds"] >= 1


def test_a_time_to_begin_is_a_wait(service: Service, alice: bytes, priced: Models) -> None:
    begins = (datetime.now(UTC) + timedelta(minutes=50)).isoformat()
    assert 2990 <= ask(service, alice, not_before=begins)["wait_seconds"] <= 3000
    late = ask(service, alice, not_before="8998-01-01T00:00:00Z")
    assert late["refusal"]["code"] == "lifetime_invalid"


# Accepting with a limit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "is_accepted"), [("46.999", False), ("47", True), (47, True), ("0", False), (0.00005, False)]
)
def test_max_cost_refuses_what_may_cost_more(
    service: Service, alice: bytes, priced: Models, most: Any, is_accepted: bool
) -> None:
    if is_accepted:
        assert post(service, alice, max_cost=most).status_code == 202
        return
    with pytest.raises(SluiceError) as refused:
        post(service, alice, max_cost=most)
    assert refused.value.code == "max_cost_exceeded"
    assert refused.value.extra["amount_needed"] == "47"
    assert ask(service, alice, max_cost=most)["refusal"]["code"] == "max_cost_exceeded"
    assert service.value("SELECT count(*) FROM requests") == 0


def test_max_cost_counts_fallbacks_and_repairs(
    service: Service, alice: bytes, priced: Models, admin: Callable[..., Any]
) -> None:
    admin("price.set", model_id="other", prompt="1000000", completion="9000000")
    service.act("model.fallback", model_id="only", fallbacks=["other"])
    assert ask(service, alice)["bound"]["cost"]["amount"] == str(15 + 9 * 16)
    assert Decimal(ask(service, alice, schema={"type": "object"})["bound"]["cost"]["amount"]) > 2 * (15 + 9 * 16)


def test_a_quote_is_for_the_models_that_the_budget_allows(
    service: Service, alice: bytes, priced: Models, admin: Callable[..., Any]
) -> None:
    admin("price.set", model_id="other", prompt="1000000", completion="9000000")
    service.act("model.fallback", model_id="only", fallbacks=["other"])
    admin("budget.set", user_id="alice", limits={"daily": "100"})
    quoted = ask(service, alice)
    assert (quoted["accepted"], quoted["models"], quoted["bound"]["cost"]["amount"]) == (True, ["only"], "47")
    request_id = UUID(body_of(post(service, alice, max_cost="47"))["request_id"])
    assert service.status(alice, request_id)["quote"]["models"] == ["only"]


def test_a_model_without_a_price_cannot_be_bounded(service: Service, alice: bytes, models: Models) -> None:
    assert ask(service, alice)["bound"]["cost"]["amount"] is None
    with pytest.raises(SluiceError) as refused:
        post(service, alice, max_cost="1")
    assert refused.value.code == "model_unpriced"


def test_quote_and_actual_stand_side_by_side(service: Service, alice: bytes, priced: Models) -> None:
    request_id = UUID(body_of(post(service, alice, max_cost="50"))["request_id"])
    kept = service.status(alice, request_id)["quote"]
    assert (kept["bound"]["cost"]["amount"], kept["actual"]) == ("47", None)
    work(service, priced, request_id)
    actual = service.status(alice, request_id)["quote"]["actual"]
    assert (actual["total_tokens"], actual["cost"]["amount"]) == (10, "13")
    assert actual["wait_seconds"] >= 0
    assert "quote" not in service.status(alice, service.submit(alice, "no quote"))


# How good it was ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200),
    max_tokens=st.integers(1, 100),
    used=st.floats(0, 1),
)
def test_what_is_used_is_never_above_the_bound(
    service: Service, alice: bytes, priced: Models, prompt: str, max_tokens: int, used: float
) -> None:
    body = {"parameters": {"max_tokens": max_tokens}}
    bound = ask(service, alice, prompt, **body)["bound"]
    # A tokenizer makes at most a token of a byte; the template adds at most the overhead.
    tokens = Completion.of_text("x", round(used * (len(prompt.encode()) + 10)), round(used * max_tokens), "stop")
    priced.script("only", tokens)
    request_id = service.submit(alice, prompt, **body)
    work(service, priced, request_id)
    shown = service.status(alice, request_id)
    assert shown["usage"]["total_tokens"] <= bound["total_tokens"]
    assert Decimal(shown["cost"]["amount"]) <= Decimal(bound["cost"]["amount"])


def test_the_calibration_compares_every_answer_with_what_was_forecast_before_it(
    service: Service, alice: bytes, priced: Models, admin: Callable[..., Any]
) -> None:
    rng = random.Random(7)
    service.act("quota.set", user_id="alice", max_unfinished=1000)
    for _ in range(3):
        for n in range(10):
            priced.script("only", Completion.of_text("x", 10, rng.randint(2, 6), "stop"))
            work(service, priced, service.submit(alice, f"hello {n}", max_cost="1000"))
        rollup(service)
    # What took two attempts waited for its model, and not for its turn.
    again = UUID(body_of(post(service, alice, max_cost="1000"))["request_id"])
    priced.script("only", ModelError("model_unavailable"))
    work(service, priced, again)
    work(service, priced, again)
    assert service.status(alice, again)["status"] == "completed"
    rollup(service)
    (row,) = admin("stats.calibration")
    assert (row["model_id"], row["answers"], row["waits"], row["above_bound"]) == ("only", 20, 30, 0)
    assert 0 < row["error"] < 0.2
    assert row["error_tokens"] >= abs(row["forecast_tokens"] - row["actual_tokens"])
    assert row["wait_error_seconds"] >= 0
    rollup(service)
    assert admin("stats.calibration") == [row]
    assert admin("stats.calibration", model_id="other") == []
    assert_books_balance(service)
