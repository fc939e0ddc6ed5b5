"""Limits in money: per user, key and model, by day and month, reserved and settled like tokens, exact under concurrency."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from local.processes import wait_until
from sluice.api.native.bodies import GenerateRequest
from sluice.domain.errors import SluiceError
from sluice.domain.keys import digest
from sluice.domain.parameters import Parameters
from sluice.services.submit import Submitter
from tests.support.functions import KEYED, administer, get
from tests.support.ledger import SMALL, assert_books_balance, run_concurrently, set_clock, stop_the_clock
from tests.support.service import Service, completed, failed

NOON = datetime(2031, 2, 10, 12, 0, 0, tzinfo=UTC)
SECOND = "sluice_" + "s" * 43
# "hello" to nova-micro: 5 + 64 tokens of the prompt at one dollar a million, and up to 36 of the answer at two.
BOUND = Decimal("0.000141")
NOTHING = Decimal(0)


@pytest.fixture
def money(service: Service, alice: bytes, admin: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an operation that must succeed; the clock stands, and a million tokens cost one and two dollars."""
    stop_the_clock(service.owner, NOON)
    admin("price.set", model_id="nova-micro", prompt="1", completion="2")
    return admin


def ask(service: Service, key: bytes, **given: Any) -> UUID:
    return service.submit(key, parameters={"max_tokens": 36}, **given)


def refused(service: Service, key: bytes, **given: Any) -> SluiceError:
    with pytest.raises(SluiceError) as refusal:
        ask(service, key, **given)
    return refusal.value


def answer(service: Service, key: bytes, prompt_tokens: int, **given: Any) -> UUID:
    request_id = ask(service, key, **given)
    service.claim(request_id)
    service.settle(completed(request_id, prompt_tokens=prompt_tokens, completion_tokens=0))
    return request_id


def figures(service: Service) -> list[tuple[str, Decimal, Decimal]]:
    rows = service.rows("SELECT quota_period, amount_used, amount_reserved FROM budgets ORDER BY 1, 2")
    return [(row["quota_period"], row["amount_used"], row["amount_reserved"]) for row in rows]


def key_id(service: Service, prefix: str = "sluice_aaaaaa") -> str:
    return str(service.value("SELECT key_id FROM api_keys WHERE key_prefix = %s", prefix))


def test_a_request_reserves_what_it_can_cost_and_settles_what_it_did(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    shown = money("budget.set", user_id="alice", limits={"daily": "0.0003", "monthly": "5"})
    assert [(b["period"], b["max_amount"], b["currency"]) for b in shown["budgets"]] == [
        ("daily", "0.0003", "USD"),
        ("monthly", "5", "USD"),
    ]
    request_id = ask(service, alice)
    assert figures(service) == [("daily", Decimal(0), BOUND), ("monthly", Decimal(0), BOUND)]

    service.claim(request_id)
    service.settle(completed(request_id, prompt_tokens=10, completion_tokens=20))

    assert figures(service) == [("daily", Decimal("0.00005"), NOTHING), ("monthly", Decimal("0.00005"), NOTHING)]
    assert service.status(alice, request_id)["cost"]["amount"] == "0.00005"
    assert_books_balance(service)


def test_a_refusal_says_whether_money_is_spent_or_reserved(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", limits={"monthly": "0.0002"})
    first = ask(service, alice)

    held = refused(service, alice)
    assert (held.code, held.retry_after, held.kind) == ("budget_reserved", 5, "exhausted")
    assert held.extra == {
        "period": "monthly",
        "currency": "USD",
        "maximum": "0.0002",
        "used": "0",
        "reserved": "0.000141",
        "amount_needed": "0.000141",
    }

    service.claim(first)
    service.settle(completed(first, prompt_tokens=60, completion_tokens=0))
    spent = refused(service, alice)
    assert (spent.code, spent.retry_after) == ("budget_exceeded", 18 * 86_400 + 12 * 3600)
    assert (spent.extra["used"], spent.extra["reserved"]) == ("0.00006", "0")

    set_clock(service.owner, NOON + timedelta(days=19))
    service.owner.execute("SELECT partitions_ensure()")
    ask(service, alice)
    assert_books_balance(service)


def test_a_request_that_could_never_fit_is_refused_for_good(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", limits={"daily": "0.00014"})
    refusal = refused(service, alice)
    assert (refusal.code, refusal.retry_after, refusal.kind) == ("budget_too_small", None, "invalid")
    money("budget.set", user_id="alice", limits={"daily": "0"})
    assert refused(service, alice).code == "budget_too_small"
    money("budget.set", user_id="alice", limits={"daily": None})
    ask(service, alice)


def test_budgets_of_a_key_and_of_a_model_limit_only_theirs(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("model.set", **SMALL)
    money("price.set", model_id="small", prompt="1", completion="2")
    service.act("key.create", user_id="alice", key_hash=digest(SECOND).hex(), key_prefix="second", scopes=["submit"])
    money("budget.set", user_id="alice", key_id=key_id(service), limits={"monthly": "0.00015"})
    money("budget.set", user_id="alice", model_id="small", limits={"monthly": "0.00009"})

    ask(service, alice)
    assert refused(service, alice).code == "budget_reserved"
    ask(service, digest(SECOND))
    ask(service, digest(SECOND), model="small")
    assert refused(service, digest(SECOND), model="small").code == "budget_reserved"
    service.owner.execute("INSERT INTO submissions (user_id, prompt) VALUES ('alice', 'hello')")
    with pytest.raises(psycopg.Error) as refusal:
        service.owner.execute("INSERT INTO submissions (user_id, prompt, model_id) VALUES ('alice', 'hello', 'small')")
    assert (refusal.value.sqlstate, refusal.value.diag.constraint_name) == ("SL429", "budget_reserved")
    assert_books_balance(service)


def test_a_key_that_is_rotated_takes_its_budget_along(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", key_id=key_id(service), limits={"monthly": "0.0002"})
    ask(service, alice)
    made = money("key.rotate", key_id=key_id(service), overlap_seconds=3600)
    assert "original_key_id" not in made
    assert refused(service, digest(made["api_key"])).code == "budget_reserved"
    assert refused(service, alice).code == "budget_reserved", "both share it during the overlap"
    again = money("key.rotate", key_id=made["key_id"], overlap_seconds=0)
    assert refused(service, digest(again["api_key"])).code == "budget_reserved"
    shown = money("budget.set", user_id="alice", key_id=again["key_id"], limits={"monthly": "1"})
    assert [(b["key_id"], b["max_amount"]) for b in shown["budgets"]] == [(key_id(service), "1")]
    ask(service, digest(again["api_key"]))
    assert_books_balance(service)


def test_a_new_budget_counts_what_was_spent_before(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    answer(service, alice, 50)
    ask(service, alice)
    money("budget.set", user_id="alice", limits={"daily": "0.0002"})
    assert figures(service) == [("daily", Decimal("0.00005"), BOUND)]
    (warning,) = money("budget.set", user_id="alice", limits={"monthly": "0.00005"})["warnings"]
    assert warning.startswith(
        "The monthly budget of 0.00005 USD is used up already, and requests are refused until 2031-03-01"
    )
    money("budget.set", user_id="alice", limits={"monthly": None})
    assert refused(service, alice).code == "budget_reserved"
    assert_books_balance(service)


def test_a_price_that_changes_today_is_counted_at_once(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", limits={"daily": "0.001"})
    answer(service, alice, 60)
    waiting = ask(service, alice)

    money("price.set", model_id="nova-micro", prompt="10")

    assert figures(service) == [("daily", Decimal("0.0006"), Decimal("0.000762"))]
    assert refused(service, alice).code == "budget_exceeded"
    (audited,) = service.rows("SELECT before, after FROM audit_log WHERE action = 'budget.recounted'")
    assert (audited["before"]["amount_used"], audited["after"]["amount_used"]) == ("0.00006", "0.0006")
    service.claim(waiting)
    service.settle(completed(waiting, prompt_tokens=1, completion_tokens=0))
    assert figures(service) == [("daily", Decimal("0.00061"), NOTHING)]
    money("price.set", model_id="nova-micro", prompt="20", valid_from="2031-02-11")
    assert figures(service) == [("daily", Decimal("0.00061"), NOTHING)], "tomorrow's price"
    assert_books_balance(service)


def test_a_price_and_a_budget_set_at_the_same_time_agree(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    ask(service, alice)
    arguments = Jsonb({"user_id": "alice", "limits": {"daily": "1"}})
    with psycopg.connect(service.dsn) as setting, ThreadPoolExecutor(1) as pool:
        setting.execute("SELECT admin_run('budget.set', %s, NULL)", (arguments,))
        repricing = pool.submit(money, "price.set", model_id="nova-micro", prompt="10")
        assert wait_until(lambda: service.value("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0, 30)
        setting.commit()
        repricing.result(timeout=30)
    assert figures(service) == [("daily", NOTHING, Decimal("0.000762"))]
    assert_books_balance(service)


def test_a_counter_that_has_drifted_is_reported_and_loses_no_answer(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", limits={"daily": "1"})
    request_id = ask(service, alice)
    service.owner.execute("UPDATE budgets SET amount_reserved = 0")
    service.claim(request_id)
    (settled, *_) = service.settle(completed(request_id, prompt_tokens=10, completion_tokens=0))
    assert (settled["kind"], settled["status"]) == ("settled", "completed")
    assert figures(service) == [("daily", Decimal("0.00001"), NOTHING)]
    assert_books_balance(service)


def test_a_budget_set_while_the_clock_is_back_is_of_the_users_period(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    service.owner.execute("SELECT partitions_ensure()")
    set_clock(service.owner, datetime(2031, 3, 1, 0, 0, 5, tzinfo=UTC))
    first = ask(service, alice)
    set_clock(service.owner, datetime(2031, 2, 28, 23, 0, tzinfo=UTC))
    money("budget.set", user_id="alice", limits={"monthly": "1"})
    second = ask(service, alice)
    assert figures(service) == [("monthly", NOTHING, 2 * BOUND)]
    service.claim(first, second)
    service.settle(*[completed(each, prompt_tokens=1, completion_tokens=0) for each in (first, second)])
    assert figures(service) == [("monthly", Decimal("0.000002"), NOTHING)]
    assert_books_balance(service)


def test_what_cannot_be_priced_in_the_budgets_currency_is_refused(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("model.set", model_id="free", backend="bedrock", backend_model="f", prices={"prompt": "1"})
    money("budget.set", user_id="alice", limits={"daily": "1"})
    assert refused(service, alice, model="free").code == "model_unpriced"

    money("price.set", model_id="nova-micro", prompt="1", completion="2", price_list="euro", currency="EUR")
    limits: dict[str, Any] = {"minute": {}, "daily": {}, "monthly": {}}
    money("tier.set", tier="euro", price_list="euro", limits=limits)
    *_, warning = money("user.update", user_id="alice", tier="euro")["warnings"]
    assert "another currency" in warning
    assert refused(service, alice).code == "budget_currency_differs"
    problem = administer("budget.set", user_id="alice", limits={"daily": "1"}, currency="USD")["problem"]
    assert problem["code"] == "budget_currency_differs"

    money("budget.set", user_id="alice", limits={"daily": "1"})
    ask(service, alice)
    assert_books_balance(service)


def test_a_failed_request_is_redriven_only_if_the_budget_has_room(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", limits={"daily": "0.0002"})
    request_id = ask(service, alice)
    service.claim(request_id)
    service.settle(failed(request_id, prompt_tokens=8, completion_tokens=0))
    assert figures(service) == [("daily", Decimal("0.000008"), NOTHING)]
    money("request.redrive", request_id=str(request_id))
    assert figures(service) == [("daily", NOTHING, BOUND)]
    service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    (claim,) = service.claim(request_id)
    service.settle(failed(request_id, claim["attempt"]))

    answer(service, alice, 70)
    problem = administer("request.redrive", request_id=str(request_id))["problem"]
    assert problem["code"] == "budget_exceeded"
    assert_books_balance(service)


def test_the_limit_is_exact_under_concurrency(service: Service, money: Callable[..., Any]) -> None:
    key = service.add_user("bob", "sluice_" + "b" * 43)
    money("budget.set", user_id="bob", limits={"daily": str(13 * BOUND), "monthly": "1"})
    submitters = [service.submitter() for _ in range(20)]

    asked = GenerateRequest(prompt="hello", parameters=Parameters(max_tokens=36)).submission()

    def attempt(submitter: Submitter) -> str:
        outcomes = []
        for _ in range(3):
            try:
                submitter.submit(key, asked)
                outcomes.append("accepted")
            except SluiceError as error:
                outcomes.append(error.code)
        return " ".join(outcomes)

    found = run_concurrently([partial(attempt, submitter) for submitter in submitters])

    codes = " ".join(str(each) for each in found).split()
    assert (codes.count("accepted"), codes.count("budget_reserved")) == (13, 47)
    assert service.value("SELECT amount_reserved FROM budgets WHERE quota_period = 'daily'") == 13 * BOUND
    assert_books_balance(service)


def test_a_budget_is_checked_in_the_transaction_of_the_submit(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", limits={"daily": "1", "monthly": "1"})
    database = service.database("submit")
    service.submitter(database).submit(alice, GenerateRequest(prompt="hello").submission())
    (transaction,) = service.rows("SELECT xmin::text FROM requests")
    assert service.rows("SELECT DISTINCT xmin::text FROM budgets") == [transaction]
    assert service.rows("SELECT xmin::text FROM audit_log WHERE action = 'request.queued'") == [transaction]


def test_budgets_are_shown_and_cleared(service: Service, alice: bytes, deploy: Any, money: Callable[..., Any]) -> None:
    money("budget.set", user_id="alice", limits={"daily": "1", "monthly": "2"})
    money("budget.set", user_id="alice", model_id="nova-micro", limits={"daily": "0.5"})
    ask(service, alice)
    deploy("status")
    (daily, monthly, of_model) = get("/usage", KEYED)[2]["budgets"]
    assert (daily["key_id"], daily["model"], daily["max_amount"]) == (None, None, "1")
    assert (daily["amount_used"], daily["amount_reserved"], daily["amount_remaining"]) == ("0", "0.000141", "0.999859")
    assert (monthly["period"], of_model["model"]) == ("monthly", "nova-micro")

    assert len(service.act("budget.clear", user_id="alice", model_id="nova-micro", is_all=False)["budgets"]) == 2
    assert service.act("budget.clear", user_id="alice", is_all=True)["budgets"] == []
    assert service.value("SELECT has_budgets FROM quota_plans WHERE user_id = 'alice'") is False
    actions = service.rows("SELECT action, before, after FROM audit_log WHERE action = 'budget.changed'")
    assert len(actions) == 4
    assert actions[0]["after"]["daily"]["max_amount"] == "1"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"user_id": "nobody", "limits": {"daily": "1"}}, "user_not_found"),
        ({"user_id": "alice", "limits": {"daily": "1"}, "model_id": "none"}, "model_unknown"),
        (
            {"user_id": "alice", "limits": {"daily": "1"}, "key_id": "0199b7a4-0000-7000-8000-000000000001"},
            "key_not_found",
        ),
        ({"user_id": "alice", "limits": {}}, "invalid_input"),
        ({"user_id": "alice", "limits": {"minute": "1"}}, "invalid_input"),
        ({"user_id": "alice", "limits": {"daily": "-1"}}, "invalid_input"),
        ({"user_id": "alice", "limits": {"daily": "1e9"}}, "invalid_input"),
        ({"user_id": "alice", "limits": {"daily": "NaN"}}, "invalid_input"),
        ({"user_id": "alice", "limits": {"daily": True}}, "invalid_input"),
        ({"user_id": "alice", "limits": {"daily": "1"}, "currency": "EUR"}, "budget_currency_differs"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    service: Service, money: Callable[..., Any], arguments: dict[str, Any], code: str
) -> None:
    answer = administer("budget.set", **arguments)
    assert (answer["ok"], answer["problem"]["code"]) == (False, code)
    assert figures(service) == []


def test_another_users_key_is_refused(service: Service, money: Callable[..., Any]) -> None:
    service.add_user("bob", "sluice_" + "b" * 43)
    answer = administer("budget.set", user_id="bob", key_id=key_id(service), limits={"daily": "1"})
    assert answer["problem"]["code"] == "key_not_found"
