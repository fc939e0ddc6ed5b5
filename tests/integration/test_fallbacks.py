"""Other models answer in the place of one that cannot: which, when, and who pays for what."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.backends.protocol import ModelError
from sluice.domain.errors import SluiceError
from sluice.domain.failures import FAILURES
from sluice.domain.keys import digest
from sluice.domain.requests import Completion
from tests.support.ledger import assert_books_balance, wait_until_visible
from tests.support.models import Models, add_models, charges, work
from tests.support.service import Service, submission

FALLS_BACK = sorted(code for code, failure in FAILURES.items() if failure.falls_back)


@pytest.fixture
def models(service: Service) -> Models:
    """Three models; `first` has the others as fallbacks, in their order."""
    add_models(service, "first", "second", "third")
    service.act("model.fallback", model_id="first", fallbacks=["second", "third"])
    return Models()


def price(admin: Callable[..., Any], **prices: str) -> None:
    """Prices of both classes, by model."""
    for model, amount in prices.items():
        admin("price.set", model_id=model, prompt=amount, completion=amount)


def usage(service: Service, user_id: str = "alice") -> dict[str, tuple[int, int]]:
    """Requests and tokens of today, by model."""
    rows = service.rows(
        "SELECT model_id, requests_count, prompt_tokens + completion_tokens AS tokens "
        "FROM usage_now(%s, '-infinity', 'infinity')",
        user_id,
    )
    return {row["model_id"]: (row["requests_count"], row["tokens"]) for row in rows}


@pytest.mark.parametrize("code", FALLS_BACK)
def test_the_next_model_answers_and_is_paid(
    service: Service, alice: bytes, models: Models, admin: Callable[..., Any], code: str
) -> None:
    price(admin, first="1000000", second="2000000")
    models.script("first", ModelError(code, http_status=503))
    request_id = service.submit(alice, "hello")

    work(service, models)

    assert models.called() == ["first", "second"]
    shown = service.status(alice, request_id)
    assert (shown["status"], shown["result"]) == ("completed", "second: hello")
    assert (shown["model"], shown["answered_by"]) == ("first", "second")
    assert (shown["usage"]["total_tokens"], shown["cost"]["amount"]) == (10, "20")
    told = [
        (each["model"], each["cause"], each["http_status"], each["prompt_tokens"], each["charged"], each["cost"])
        for each in shown["attempts"]
    ]
    cost = {"amount": "20", "currency": "USD", "price_list": "standard"}
    assert told == [("first", code, 503, None, False, None), ("second", None, None, 7, True, cost)]
    assert usage(service) == {"first": (1, 0), "second": (0, 10)}
    assert_books_balance(service)


def test_no_attempt_is_written_for_what_succeeds_at_once(service: Service, alice: bytes, models: Models) -> None:
    request_id = service.submit(alice, "hello")
    work(service, models)

    assert "attempts" not in service.status(alice, request_id)
    assert service.value("SELECT count(*) FROM attempts") == 0
    assert charges(service, request_id) is None


@pytest.mark.parametrize("code", sorted(set(FAILURES) - set(FALLS_BACK) - {"worker_lost", "request_expired"}))
def test_other_failures_are_not_answered_by_another_model(
    service: Service, alice: bytes, models: Models, code: str
) -> None:
    models.script("first", ModelError(code))
    service.submit(alice, "hello")
    work(service, models)
    assert models.called() == ["first"]


def test_what_a_failed_call_used_is_wasted_and_not_charged(service: Service, alice: bytes, models: Models) -> None:
    models.script("first", ModelError("model_timeout", prompt_tokens=5, completion_tokens=1))
    request_id = service.submit(alice, "hello")
    work(service, models)

    assert service.status(alice, request_id)["usage"]["total_tokens"] == 10
    after = service.value("SELECT after FROM audit_log WHERE action = 'request.completed'")
    assert after["wasted_tokens"] == 6
    assert [call["model_id"] for call in after["calls"]] == ["first", "second"]
    assert_books_balance(service)


def test_a_request_waits_if_none_can_answer_now_but_one_may_later(
    service: Service, alice: bytes, models: Models
) -> None:
    models.script("first", ModelError("context_length_exceeded"))
    models.script("second", ModelError("model_throttled", retry_after=7))
    models.script("third", ModelError("context_length_exceeded"))
    request_id = service.submit(alice, "hello")
    work(service, models)

    shown = service.status(alice, request_id)
    assert (shown["status"], shown["queue"]["last_error"]) == ("queued", "model_throttled")
    assert [each["model"] for each in shown["attempts"]] == ["first", "second", "third"]

    work(service, models, request_id)
    shown = service.status(alice, request_id)
    assert (shown["status"], shown["result"]) == ("completed", "first: hello")
    assert "answered_by" not in shown
    assert len(shown["attempts"]) == 3
    assert_books_balance(service)


def test_it_fails_if_none_ever_can(service: Service, alice: bytes, models: Models) -> None:
    for model in ("first", "second", "third"):
        models.script(model, ModelError("context_length_exceeded"))
    request_id = service.submit(alice, "hello")
    work(service, models)
    assert service.status(alice, request_id)["error"]["code"] == "context_length_exceeded"
    assert_books_balance(service)


def test_a_redrive_takes_the_charges_back(service: Service, alice: bytes, models: Models) -> None:
    models.script("first", ModelError("model_unavailable"))
    models.script("second", ModelError("model_bad_response", prompt_tokens=7, completion_tokens=3))
    request_id = service.submit(alice, "hello")
    work(service, models)
    assert service.status(alice, request_id)["error"]["code"] == "model_bad_response"
    assert charges(service, request_id) == [{"model_id": "second", "prompt_tokens": 7, "completion_tokens": 3}]
    assert usage(service) == {"first": (1, 0), "second": (0, 10)}
    assert_books_balance(service)
    wait_until_visible(service)
    service.database("rollup").value("rollup_usage")

    service.act("request.redrive", request_id=str(request_id), ttl_seconds=60, max_attempts=3)
    assert_books_balance(service)
    assert usage(service)["second"] == (0, 0)
    work(service, models, request_id)
    assert service.status(alice, request_id)["result"] == "first: hello"
    assert usage(service) == {"first": (1, 10), "second": (0, 0)}
    assert_books_balance(service)


# The client's choice --------------------------------------------------------------------------------------------------


def test_a_client_forbids_fallbacks(service: Service, alice: bytes, models: Models) -> None:
    models.script("first", ModelError("model_unavailable"))
    request_id = service.submit(alice, "hello", models=[], model="first")
    work(service, models)
    assert models.called() == ["first"]
    assert service.status(alice, request_id)["status"] == "queued"


@pytest.mark.parametrize(
    ("named", "called"),
    [
        ({"model": "second", "models": ["third"]}, ["second", "third"]),
        ({"models": ["second", "third"]}, ["second", "third"]),
        ({"model": "third", "models": ["third", "first", "first"]}, ["third", "first"]),
    ],
)
def test_a_client_names_its_own(
    service: Service, alice: bytes, models: Models, named: dict[str, Any], called: list[str]
) -> None:
    for model in ("first", "second", "third"):
        models.always[model] = ModelError("model_unavailable")
    service.submit(alice, "hello", **named)
    work(service, models)
    assert models.called() == called


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ({"models": ["first", "unknown"]}, "model_unknown"),
        ({"models": ["first", "vectors"]}, "model_kind_differs"),
        ({"models": ["first", "short"], "parameters": {"max_tokens": 90}}, "max_tokens_exceeded"),
    ],
)
def test_what_the_client_names_must_be_able_to_answer(
    service: Service, alice: bytes, models: Models, named: dict[str, Any], code: str
) -> None:
    add_models(service, "vectors", is_default=False, kind="embedding", backend="openai", endpoint="http://localhost")
    add_models(service, "short", is_default=False, max_tokens_limit=20)
    with pytest.raises(SluiceError) as refused:
        service.submit(alice, "hello", **named)
    assert refused.value.code == code
    assert named["models"][1] in refused.value.detail or code == "max_tokens_exceeded"
    assert service.value("SELECT count(*) FROM requests") == 0


def test_an_operators_fallback_that_cannot_answer_is_left_out(service: Service, alice: bytes, models: Models) -> None:
    service.act("model.set", model_id="second", max_tokens_limit=20)
    models.script("first", ModelError("model_unavailable"))
    service.submit(alice, "hello", parameters={"max_tokens": 90})
    work(service, models)
    assert models.called() == ["first", "third"]


# Keys -----------------------------------------------------------------------------------------------------------------


def add_key(service: Service, *allowed: str) -> bytes:
    """Another key of alice's, for these models."""
    secret = f"key for {allowed}"
    service.act(
        "key.create",
        user_id="alice",
        key_hash=digest(secret).hex(),
        key_prefix="sluice_",
        scopes=["submit", "read"],
        models=list(allowed),
    )
    return digest(secret)


def test_a_key_is_for_its_models_only(service: Service, alice: bytes, models: Models) -> None:
    key = add_key(service, "first", "third")
    assert [each["model"] for each in service.models(key)["models"]] == ["first", "third"]
    for named in ({"model": "second"}, {"models": ["first", "second"]}):
        with pytest.raises(SluiceError) as refused:
            service.submit(key, "hello", **named)
        assert refused.value.code == "model_not_allowed"
        assert "second" in refused.value.detail
    models.script("first", ModelError("model_unavailable"))
    service.submit(key, "hello")
    work(service, models)
    assert models.called() == ["first", "third"]


NAMES = st.sampled_from(["first", "second", "third"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(allowed=st.sets(NAMES, min_size=1), model=st.none() | NAMES, fallbacks=st.none() | st.lists(NAMES, max_size=3))
def test_no_key_ever_reaches_a_model_that_it_is_not_for(
    service: Service, alice: bytes, models: Models, allowed: set[str], model: str | None, fallbacks: list[str] | None
) -> None:
    key = (
        add_key(service, *sorted(allowed))
        if not known_key(service, allowed)
        else digest(f"key for {tuple(sorted(allowed))}")
    )
    for name in ("first", "second", "third"):
        models.always[name] = ModelError("model_rejected") if name == "third" else ModelError("context_length_exceeded")
    named: dict[str, Any] = {"model": model} if model else {}
    named |= {} if fallbacks is None else {"models": fallbacks}
    with contextlib.suppress(SluiceError):
        service.submit(key, "hello", **named)
    work(service, models)
    assert set(models.called()) <= allowed


def known_key(service: Service, allowed: set[str]) -> bool:
    digest_of = digest(f"key for {tuple(sorted(allowed))}")
    return bool(service.value("SELECT count(*) FROM api_keys WHERE key_hash = %s", digest_of))


def test_a_rotated_key_is_for_the_same_models(service: Service, alice: bytes, models: Models) -> None:
    add_key(service, "first")
    old = service.value("SELECT key_id FROM api_keys WHERE models IS NOT NULL")
    made = service.act("key.rotate", key_id=str(old), key_hash="ab" * 32, key_prefix="sluice_", overlap_seconds=0)
    assert made["models"] == ["first"]


# Reservations and budgets ---------------------------------------------------------------------------------------------


def test_the_reservation_covers_the_largest_of_the_models(service: Service, alice: bytes, models: Models) -> None:
    service.act("model.set", model_id="third", overhead_tokens=500)
    request_id = service.submit(alice, "hello")
    assert service.status(alice, request_id)["reserved_tokens"] == 5 + 500 + 16


def counters(service: Service) -> dict[str, tuple[str, str]]:
    rows = service.rows("SELECT model_id, amount_used, amount_reserved FROM budgets")
    return {row["model_id"] or "all": (f"{row['amount_used']:.0f}", f"{row['amount_reserved']:.0f}") for row in rows}


def test_a_budget_holds_for_whoever_answers(
    service: Service, alice: bytes, models: Models, admin: Callable[..., Any]
) -> None:
    # A token of each costs 1, 2 and 3. A request reserves 31 tokens: 15 of its prompt, 16 of its answer.
    price(admin, first="1000000", second="2000000", third="3000000")
    admin("budget.set", user_id="alice", limits={"daily": "1000"})
    admin("budget.set", user_id="alice", limits={"daily": "500"}, model_id="second")
    models.script("first", ModelError("model_unavailable"))
    service.submit(alice, "hello")
    assert counters(service) == {"all": ("0", "93"), "second": ("0", "62")}
    work(service, models)
    assert counters(service) == {"all": ("20", "0"), "second": ("20", "0")}
    assert_books_balance(service)


def test_a_fallback_that_is_too_dear_is_left_out(
    service: Service, alice: bytes, models: Models, admin: Callable[..., Any]
) -> None:
    price(admin, first="1000000", second="2000000", third="3000000")
    admin("budget.set", user_id="alice", limits={"daily": "70"})
    models.script("first", ModelError("model_unavailable"))
    models.script("second", ModelError("model_unavailable"))
    service.submit(alice, "hello")
    work(service, models)
    assert models.called() == ["first", "second"]
    assert_books_balance(service)


def test_embeddings_count_in_budgets(service: Service, alice: bytes, models: Models, admin: Callable[..., Any]) -> None:
    add_models(service, "vectors", is_default=False, kind="embedding", backend="openai", endpoint="http://localhost")
    price(admin, vectors="1000000")
    admin("budget.set", user_id="alice", limits={"daily": "100"})
    made = service.database("submit").call_row(
        "request_submit", key_hash=alice, submission=submission("hello", model="vectors", kind="embedding")
    )
    assert made["outcome"] == "accepted"
    assert counters(service) == {"all": ("0", "15")}
    assert_books_balance(service)


def test_invoice_lines_add_up_to_the_attempts(
    service: Service, alice: bytes, models: Models, admin: Callable[..., Any]
) -> None:
    price(admin, first="1000000", second="2000000")
    for n in range(12):
        if n % 3 == 0:
            models.script("first", ModelError("model_unavailable"))
        elif n % 3 == 1:
            models.script("first", Completion.of_text("x", n, 2 * n, "stop"))
        request_id = service.submit(alice, f"hello {n}")
        work(service, models, request_id)
    charged = service.rows(
        "SELECT model_id, sum(prompt_tokens + completion_tokens)::integer AS tokens FROM attempts "
        "WHERE is_charged GROUP BY 1"
    )
    lines = usage(service)
    assert {row["model_id"]: row["tokens"] for row in charged} == {"second": lines["second"][1]}
    plain = service.value("SELECT sum(total_tokens)::integer FROM requests WHERE charges IS NULL")
    assert lines["first"] == (12, plain)
    day = datetime.now(UTC).date()
    report = service.database("admin").call_row(
        "usage_report_v3", user_id="alice", first_day=day, last_day=day, price_list=None, attribute=None
    )
    cost = sum(line["tokens"] * float(line["price_per_million"]) / 1e6 for line in report["usage"])
    shown = [
        float(service.status(alice, UUID(str(row["request_id"])))["cost"]["amount"])
        for row in service.rows("SELECT request_id FROM requests")
    ]
    assert cost == sum(shown)
    assert_books_balance(service)
