"""The answer cache: when an answer is given again, to whom, at what price, and when it is forgotten."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aws_lambda_powertools.event_handler import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.api.native.bodies import GenerateRequest
from sluice.api.native.submission import generate
from sluice.backends.protocol import ModelError
from sluice.domain.errors import SluiceError
from sluice.domain.fingerprint import question_digest, question_fingerprint
from sluice.domain.keys import digest
from sluice.domain.requests import Claim, Completion
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock, wait_until_visible
from tests.support.models import Models, add_models, work
from tests.support.service import Service, body_of

HOUR = {"max_age": 3600}
EXACT = {"temperature": 0}


@pytest.fixture
def models(service: Service) -> Models:
    add_models(service, "only", "other")
    return Models()


def post(service: Service, key: bytes, prompt: str = "hello", **body: Any) -> Response[str]:
    """POST /generate with temperature 0 and an hour's cache, unless told otherwise."""
    given = {"prompt": prompt, "parameters": EXACT, "cache": HOUR} | body
    asked = {name: value for name, value in given.items() if value is not None}
    return generate(service.submitter(), key, GenerateRequest.model_validate(asked), None)


def said(response: Response[str]) -> str:
    return str(response.headers.get("Cache-Status", "")).removeprefix("sluice; ")


def answered(service: Service, models: Models, key: bytes, prompt: str = "hello", **body: Any) -> UUID:
    """A request that a model has answered."""
    request_id = UUID(body_of(post(service, key, prompt, **body))["request_id"])
    service.queue.take()
    work(service, models, request_id)
    models.called()
    return request_id


def test_an_equal_request_is_answered_as_it_is_accepted(service: Service, alice: bytes, models: Models) -> None:
    first = answered(service, models, alice)

    again = post(service, alice)

    assert (again.status_code, body_of(again)["status"]) == (200, "completed")
    assert (said(again), again.headers["Age"]) == ("hit", "0")
    shown = service.status(alice, body_of(again)["request_id"])
    assert (shown["result"], shown["cached_from"]) == ("only: hello", str(first))
    assert (shown["usage"]["total_tokens"], shown["reserved_tokens"], shown["cost"]["amount"]) == (0, 0, "0")
    assert shown["finish_reason"] == "stop"
    assert (models.called(), service.queue.take()) == ([], [])
    assert service.value("SELECT count(*) FROM results") == 1
    assert service.value("SELECT count(*) FROM inflight") == 0
    actions = service.rows(
        "SELECT action FROM audit_log WHERE request_id = %s ORDER BY audit_id", UUID(body_of(again)["request_id"])
    )
    assert [row["action"] for row in actions] == ["request.queued", "request.cached"]
    assert_books_balance(service)


@pytest.mark.parametrize(
    "different",
    [
        {"prompt": "hello!"},
        {"model": "other"},
        {"parameters": {"temperature": 0, "top_p": 0.5}},
        {"parameters": {"temperature": 0, "max_tokens": 15}},
        {"parameters": {"seed": 1}},
        {"schema": {"type": "object"}},
    ],
)
def test_another_question_is_asked(service: Service, alice: bytes, models: Models, different: dict[str, Any]) -> None:
    answered(service, models, alice)
    assert said(post(service, alice, **different)) == "fwd=miss"


def test_what_is_spelled_out_is_the_same_question(service: Service, alice: bytes, models: Models) -> None:
    answered(service, models, alice)
    service.act("alias.set", alias="usual", model_id="only")
    same = post(service, alice, model="usual", parameters={"temperature": 0.0, "max_tokens": 16}, metadata={"a": "b"})
    assert said(same) == "hit"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"cache": False}, "fwd=bypass"),
        ({"cache": None}, ""),
        ({"cache": HOUR | {"refresh": True}}, "fwd=request"),
        ({"parameters": {"temperature": 0.1}}, "fwd=bypass; detail=sampled"),
        ({"parameters": {}}, "fwd=bypass; detail=sampled"),
        ({"cache": {"max_age": 0}}, "fwd=miss"),
        ({"cache": {"scope": "key"}}, "fwd=miss"),
        ({"cache": {}}, "hit"),
        ({"not_before": "2020-01-01T00:00:00Z"}, ""),
    ],
)
def test_what_a_request_may_say(
    service: Service, alice: bytes, models: Models, body: dict[str, Any], expected: str
) -> None:
    answered(service, models, alice)
    assert said(post(service, alice, **body)) == expected
    assert_books_balance(service)


@pytest.mark.parametrize("parameters", [{"seed": 7}, {"temperature": 1, "seed": 7}])
def test_a_seed_makes_an_answer_worth_keeping(
    service: Service, alice: bytes, models: Models, parameters: dict[str, Any]
) -> None:
    answered(service, models, alice, parameters=parameters)
    assert said(post(service, alice, parameters=parameters)) == "hit"


def test_a_sampled_answer_is_kept_on_request(service: Service, alice: bytes, models: Models) -> None:
    chance: dict[str, Any] = {"parameters": {"temperature": 1}, "cache": {"sampled": True}}
    answered(service, models, alice, **chance)
    assert said(post(service, alice, **chance)) == "hit"


def test_refresh_replaces_the_answer_and_bypass_does_not(service: Service, alice: bytes, models: Models) -> None:
    answered(service, models, alice)
    models.script("only", "a newer answer", "not kept")
    refreshed = answered(service, models, alice, cache={"refresh": True})
    answered(service, models, alice, cache=False)
    hit = service.status(alice, body_of(post(service, alice))["request_id"])
    assert (hit["result"], hit["cached_from"]) == ("a newer answer", str(refreshed))
    assert_books_balance(service)


def test_an_answer_is_as_old_as_a_request_allows(service: Service, alice: bytes, models: Models) -> None:
    noon = datetime(2031, 1, 10, 12, tzinfo=UTC)
    stop_the_clock(service.owner, noon)
    answered(service, models, alice)
    set_clock(service.owner, noon + timedelta(seconds=100))
    assert said(post(service, alice, cache={"max_age": 99})) == "fwd=miss"
    service.owner.execute("DELETE FROM inflight")  # the miss, which is not what this is about
    service.owner.execute("UPDATE answer_cache SET leader_id = NULL")
    hit = post(service, alice, cache={"max_age": 101})
    assert (said(hit), hit.headers["Age"]) == ("hit", "100")


def test_what_failed_is_not_given_again(service: Service, alice: bytes, models: Models) -> None:
    models.script("only", ModelError("model_rejected"))
    answered(service, models, alice)
    assert said(post(service, alice)) == "fwd=miss"


def test_a_fallbacks_answer_is_not_given_again(service: Service, alice: bytes, models: Models) -> None:
    service.act("model.fallback", model_id="only", fallbacks=["other"])
    models.script("only", ModelError("model_unavailable"))
    first = answered(service, models, alice)
    assert service.status(alice, first)["answered_by"] == "other"
    assert said(post(service, alice)) == "fwd=miss"
    assert_books_balance(service)


# Who says that the cache is used --------------------------------------------------------------------------------------


def add_key(service: Service, name: str, user: str = "alice", **given: Any) -> bytes:
    service.act(
        "key.create",
        user_id=user,
        key_hash=digest(name).hex(),
        key_prefix="sluice_",
        scopes=["submit", "read"],
        **given,
    )
    return digest(name)


@pytest.mark.parametrize("who", ["key", "model", "tier"])
def test_key_model_or_tier_may_ask_for_the_cache(service: Service, alice: bytes, models: Models, who: str) -> None:
    key = add_key(service, "one", cache_max_age=60) if who == "key" else alice
    if who == "model":
        service.act("model.set", model_id="only", cache_max_age=60)
    if who == "tier":
        service.act("tier.set", tier="premium", cache_max_age=60)
    answered(service, models, key, cache=None)
    assert said(post(service, key, cache=None)) == "hit"
    assert said(post(service, key, cache=False)) == "fwd=bypass"


def test_the_key_counts_before_the_model_and_the_model_before_the_tier(
    service: Service, alice: bytes, models: Models
) -> None:
    service.act("tier.set", tier="premium", cache_max_age=60)
    service.act("model.set", model_id="only", cache_max_age=0)
    assert said(post(service, alice, cache=None)) == ""
    assert said(post(service, add_key(service, "one", cache_max_age=60), cache=None)) == "fwd=miss"


# To whom --------------------------------------------------------------------------------------------------------------


def test_another_user_never_gets_it(service: Service, alice: bytes, models: Models) -> None:
    answered(service, models, alice)
    assert said(post(service, service.add_user("bob", "sluice_" + "b" * 43))) == "fwd=miss"


def test_scope_key_is_for_one_key(service: Service, alice: bytes, models: Models) -> None:
    one, two = add_key(service, "one"), add_key(service, "two")
    scoped: dict[str, Any] = {"cache": {"scope": "key"}}
    answered(service, models, one, **scoped)
    assert said(post(service, one, **scoped)) == "hit"
    assert said(post(service, two, **scoped)) == "fwd=miss"
    assert said(post(service, two)) == "fwd=miss"


def test_a_key_that_may_not_use_the_model_gets_nothing(service: Service, alice: bytes, models: Models) -> None:
    answered(service, models, alice)
    with pytest.raises(SluiceError) as refused:
        post(service, add_key(service, "one", models=["other"]), model="only")
    assert refused.value.code == "model_not_allowed"


USERS = st.sampled_from(["alice", "bob"])
ASKED = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["hello", "hello "]),
        "model": st.sampled_from(["only", "other"]),
        "parameters": st.sampled_from([EXACT, {"temperature": 0, "seed": 1}, {"temperature": 0, "max_tokens": 9}]),
        "cache": st.sampled_from([HOUR, {"scope": "key"}, {"refresh": True}, False]),
    }
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(USERS, ASKED), min_size=2, max_size=6))
def test_nobody_gets_the_answer_to_something_else(
    service: Service, alice: bytes, models: Models, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    bob = digest("sluice_" + "b" * 43)
    with contextlib.suppress(Exception):
        service.add_user("bob", "sluice_" + "b" * 43)
    for name in ("only", "other"):
        models.always[name] = _telling
    for user, asked in calls:
        key = alice if user == "alice" else bob
        request_id = UUID(body_of(post(service, key, **asked))["request_id"])
        service.queue.take()
        work(service, models, request_id)
        shown = service.status(key, request_id)
        parameters = {"max_tokens": 16} | asked["parameters"] | {"temperature": 0.0}
        assert shown["result"] == f"{user} {asked['model']} {asked['prompt']!r} {sorted(parameters.items())}"
    assert_books_balance(service)


def _telling(claim: Claim) -> Completion:
    asked = claim.input.messages[0].text
    text = f"{claim.user_id} {claim.model_id} {asked!r} {sorted(claim.parameters.items())}"
    return Completion.of_text(text, 7, 3, "stop")


def test_both_sides_make_the_same_fingerprint(service: Service, alice: bytes, models: Models) -> None:
    request_id = UUID(body_of(post(service, alice, parameters=EXACT | {"stop": "é\n"}))["request_id"])
    service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    (claim,) = service.ledger("worker").claim([request_id], 60)
    assert bytes.fromhex(question_fingerprint(claim)) == service.value("SELECT fingerprint FROM inflight")
    assert len(question_digest(claim.input, claim.parameters)) == 64


# What it costs --------------------------------------------------------------------------------------------------------


def test_a_hit_has_a_price_of_its_own_and_a_line_on_the_invoice(
    service: Service, alice: bytes, models: Models, admin: Callable[..., Any]
) -> None:
    admin("price.set", model_id="only", prompt="1000000", completion="1000000", cached_answer="2500000")
    admin("budget.set", user_id="alice", limits={"daily": "100"})
    answered(service, models, alice)
    for _ in range(2):
        post(service, alice)
    hit = service.status(alice, body_of(post(service, alice))["request_id"])
    assert hit["cost"]["amount"] == "2.5"
    assert service.value("SELECT amount_used FROM budgets") == 10 + 3 * 2.5
    assert_books_balance(service)
    for is_rolled_up in (False, True):
        if is_rolled_up:
            wait_until_visible(service)
            service.database("rollup").value("rollup_usage")
        today = admin("usage.get", user_id="alice")["days"][0]
        assert (today["requests"], today["total_tokens"], today["cached_answers"]) == (4, 10, 3)
        assert today["costs"] == [{"currency": "USD", "amount": "17.5"}]
    month = datetime.now(UTC).strftime("%Y-%m")
    lines = admin("invoice.get", user_id="alice", month=month)["lines"]
    assert [(line["token_class"], line["tokens"], line["amount"]) for line in lines] == [
        ("prompt", 7, "7.00"),
        ("completion", 3, "3.00"),
        ("cached_answer", 3, "7.50"),
    ]
    assert_books_balance(service)


def test_a_hit_counts_as_a_request(service: Service, models: Models) -> None:
    key = service.add_user("carol", "sluice_" + "c" * 43, daily={"max_requests": 2, "max_tokens": 10_000})
    answered(service, models, key)
    post(service, key)
    with pytest.raises(SluiceError) as refused:
        post(service, key)
    assert refused.value.code == "quota_exceeded"


def test_a_hit_needs_no_tokens_and_no_room(service: Service, models: Models) -> None:
    key = service.add_user("carol", "sluice_" + "c" * 43, daily={"max_requests": 9, "max_tokens": 41})
    answered(service, models, key)
    assert said(post(service, key)) == "hit"
    with pytest.raises(SluiceError):
        post(service, key, "something else")


def test_a_hit_that_the_budget_cannot_pay_is_refused(
    service: Service, alice: bytes, models: Models, admin: Callable[..., Any]
) -> None:
    admin("price.set", model_id="only", prompt="0", completion="0", cached_answer="30000000")
    answered(service, models, alice)
    admin("budget.set", user_id="alice", limits={"daily": "50"})
    assert said(post(service, alice)) == "hit"
    with pytest.raises(SluiceError) as refused:
        post(service, alice)
    assert refused.value.code == "budget_exceeded"
    assert_books_balance(service)


# Forgetting -----------------------------------------------------------------------------------------------------------


def test_a_user_purges_what_is_his(service: Service, alice: bytes, models: Models) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    first = answered(service, models, alice)
    answered(service, models, bob)
    assert service.ledger("submit").purge_cache(alice).forgotten == 1
    assert said(post(service, alice)) == "fwd=miss"
    assert said(post(service, bob)) == "hit"
    assert service.status(alice, first)["result"] == "only: hello"


def test_an_operator_purges_a_model(service: Service, alice: bytes, models: Models, admin: Callable[..., Any]) -> None:
    answered(service, models, alice)
    answered(service, models, alice, model="other")
    assert admin("cache.purge", model_id="other") == {"forgotten": 1}
    assert said(post(service, alice)) == "hit"
    assert said(post(service, alice, model="other")) == "fwd=miss"


def test_another_model_under_the_same_name_is_asked(service: Service, alice: bytes, models: Models) -> None:
    answered(service, models, alice)
    service.act("model.set", model_id="only", timeout_seconds=61)
    assert said(post(service, alice)) == "hit"
    service.act("model.set", model_id="only", backend_model="something newer")
    assert said(post(service, alice)) == "fwd=miss"


def test_it_is_erased_with_its_source(service: Service, alice: bytes, models: Models) -> None:
    first = answered(service, models, alice)
    again = body_of(post(service, alice))["request_id"]
    service.ledger("openai").erase(alice, first)
    assert service.status(alice, again)["result"] == ""
    assert said(post(service, alice)) == "fwd=miss"
    assert_books_balance(service)


def test_what_is_too_old_is_forgotten(service: Service, alice: bytes, models: Models) -> None:
    noon = datetime(2031, 1, 10, 12, tzinfo=UTC)
    stop_the_clock(service.owner, noon)
    answered(service, models, alice)
    set_clock(service.owner, noon + timedelta(days=29))
    assert service.maintenance().expire_cached_answers(100) == 0
    set_clock(service.owner, noon + timedelta(days=31))
    assert service.maintenance().expire_cached_answers(100) == 1
    assert service.value("SELECT count(*) FROM answer_cache") == 0
