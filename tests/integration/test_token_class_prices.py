"""Prices by token class: which one holds, on which day, in costs, invoices, adjustments, budgets and comparisons."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from sluice.services.invoices import close_month
from sluice.services.tasks import close
from tests.support.functions import administer
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock, wait_until_visible
from tests.support.service import Service, completed, failed

NOON = datetime(2031, 1, 15, 12, tzinfo=UTC)
MILLION = 1_000_000
# A million prompt tokens of which 600,000 were cached, and as many completion tokens, 250,000 of them reasoning.
USED: dict[str, Any] = {
    "prompt_tokens": MILLION,
    "completion_tokens": MILLION,
    "cached_tokens": 600_000,
    "reasoning_tokens": 250_000,
}


@pytest.fixture
def money(service: Service, alice: bytes, admin: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an operation that must succeed; the clock stands, and a million tokens cost one and two dollars."""
    stop_the_clock(service.owner, NOON.replace(day=1))
    admin("price.set", model_id="nova-micro", prompt="1", completion="2")
    set_clock(service.owner, NOON)
    return admin


def answer(service: Service, key: bytes, **used: Any) -> UUID:
    request_id = service.submit(key)
    service.claim(request_id)
    service.settle(completed(request_id, **USED | used))
    return request_id


def lines(document: dict[str, Any]) -> list[tuple[str, int, str | None, str | None]]:
    return [
        (line["token_class"], line["tokens"], line["price_per_million"], line["amount"]) for line in document["lines"]
    ]


def at(service: Service, month: int, day: int) -> None:
    set_clock(service.owner, datetime(2031, month, day, 12, tzinfo=UTC))
    service.owner.execute("SELECT partitions_ensure()")


def test_a_class_without_a_price_of_its_own_costs_what_its_whole_costs(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    request_id = answer(service, alice)

    assert service.status(alice, request_id)["cost"]["amount"] == "3"
    document = money("invoice.get", user_id="alice", month="2031-01")
    assert lines(document) == [
        ("prompt", 400_000, "1", "0.40"),
        ("cached_prompt", 600_000, "1", "0.60"),
        ("completion", 750_000, "2", "1.50"),
        ("reasoning", 250_000, "2", "0.50"),
    ]
    assert (document["total"], document["requests"], document["unpriced_tokens"]) == ("3.00", 1, 0)
    assert_books_balance(service)


def test_each_class_has_its_price(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    prices = money("price.set", model_id="nova-micro", cached_prompt="0.1", reasoning="4")
    assert [(p["token_class"], p["price_per_million"]) for p in prices if p["valid_until"] is None] == [
        ("prompt", "1"),
        ("cached_prompt", "0.1"),
        ("completion", "2"),
        ("reasoning", "4"),
    ]
    request_id = answer(service, alice)

    assert service.status(alice, request_id)["cost"]["amount"] == "2.96"
    for given in ({}, {"by_key": True}):
        document = money("invoice.get", user_id="alice", month="2031-01", **given)
        assert [(kind, tokens, price) for kind, tokens, price, _ in lines(document)] == [
            ("prompt", 400_000, "1"),
            ("cached_prompt", 600_000, "0.1"),
            ("completion", 750_000, "2"),
            ("reasoning", 250_000, "4"),
        ]
        assert document["total"] == "2.96"
    (day,) = money("usage.get", user_id="alice", start="2031-01-15", end="2031-01-15")["days"]
    assert (day["costs"], day["total_tokens"]) == ([{"currency": "USD", "amount": "2.96"}], 2 * MILLION)
    assert_books_balance(service)


def test_a_line_is_there_only_if_its_class_has_tokens(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("price.set", model_id="nova-micro", cached_prompt="0.1", reasoning="4")
    answer(service, alice, cached_tokens=None, reasoning_tokens=MILLION)
    document = money("invoice.get", user_id="alice", month="2031-01")
    assert [kind for kind, *_ in lines(document)] == ["prompt", "reasoning"]
    assert document["requests"] == 1


def test_a_price_of_a_class_holds_from_its_day(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    first = answer(service, alice)
    money("price.set", model_id="nova-micro", cached_prompt="0", valid_from="2031-01-16")
    assert service.status(alice, first)["cost"]["amount"] == "3"
    at(service, 1, 16)
    second = answer(service, alice)
    money("price.set", model_id="nova-micro", prompt="10", valid_from="2031-01-17")
    at(service, 1, 17)
    third = answer(service, alice)

    costs = [service.status(alice, request_id)["cost"]["amount"] for request_id in (first, second, third)]

    assert costs == ["3", "2.4", "6"]
    document = money("invoice.get", user_id="alice", month="2031-01")
    assert document["total"] == "11.40"
    assert [line[:3] for line in lines(document) if line[0] == "cached_prompt"] == [
        ("cached_prompt", 1_200_000, "0"),
        ("cached_prompt", 600_000, "1"),
    ]


def test_past_days_keep_the_price_that_held_for_a_class(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    """Also where that was the price of another class, and on some of the days only."""
    money("model.set", model_id="free", backend="bedrock", backend_model="f")
    for model, first_day in (("nova-micro", "2031-01-10"), ("nova-micro", "2020-01-01")):
        refused = administer("price.set", model_id=model, cached_prompt="0.1", valid_from=first_day)
        assert refused["problem"]["code"] == "price_in_past"
    assert money("price.set", model_id="nova-micro", cached_prompt="0.1")
    assert money("price.set", model_id="nova-micro", reasoning="2", valid_from="2031-02-01")
    # A first price may be added where none held, which is up to the next one; of a part and its whole at once, too.
    money("price.set", model_id="free", prompt="1", cached_prompt="0.1", valid_from="2031-01-10")
    money("price.set", model_id="free", cached_prompt="0.2", valid_from="2031-01-08")
    money("price.set", model_id="free", prompt="1", valid_from="2031-01-05")
    for first_day in ("2031-01-04", "2031-01-09"):
        refused = administer("price.set", model_id="free", cached_prompt="0.3", valid_from=first_day)
        assert refused["problem"]["code"] == "price_in_past"


def test_tokens_that_were_billed_without_a_price_stay_without_one(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("model.set", model_id="free", backend="bedrock", backend_model="f", max_tokens_limit=2 * MILLION)
    money("price.set", model_id="free", cached_prompt="0.1", valid_from="2031-01-01")
    request_id = service.submit(alice, model="free")
    service.claim(request_id)
    service.settle(completed(request_id, **USED | {"completion_tokens": 0, "cached_tokens": MILLION}))
    at(service, 2, 15)
    document = money("invoice.get", user_id="alice", month="2031-01")
    assert (document["status"], document["total"], document["unpriced_tokens"]) == ("final", "0.10", 0)
    # All of the prompt was cached, and had a price: nothing was billed without one.
    money("price.set", model_id="free", prompt="1", completion="1", reasoning="1", valid_from="2031-01-01")

    other = service.add_user("bob", "sluice_" + "b" * 43)
    money("model.set", model_id="bare", backend="bedrock", backend_model="b")
    request_id = service.submit(other, model="bare")
    service.claim(request_id)
    service.settle(completed(request_id, **USED | {"cached_tokens": MILLION, "reasoning_tokens": 0}))
    at(service, 3, 15)
    assert money("invoice.get", user_id="bob", month="2031-02")["unpriced_tokens"] == 2 * MILLION
    for kind in ("prompt", "cached_prompt", "completion"):
        refused = administer("price.set", model_id="bare", valid_from="2031-02-01", **{kind: "1"})
        assert refused["problem"]["code"] == "month_closed", kind
    money("price.set", model_id="bare", reasoning="1", valid_from="2031-02-01")
    assert_books_balance(service)


def test_an_adjustment_has_classes(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    money("price.set", model_id="nova-micro", cached_prompt="0.1")
    answer(service, alice)
    late = service.submit(alice, metadata={"project": "apollo"})
    service.claim(late)
    service.settle(failed(late, **USED | {"completion_tokens": 0, "reasoning_tokens": 0}))
    at(service, 2, 15)
    wait_until_visible(service)
    service.database("rollup").call("rollup_usage")
    assert close.run(service.tasks()) == {"closed": 1, "open": 0}
    given_out = money("invoice.get", user_id="alice", month="2031-01")
    assert [line[:2] for line in lines(given_out)] == [
        ("prompt", 800_000),
        ("cached_prompt", 1_200_000),
        ("completion", 750_000),
        ("reasoning", 250_000),
    ]
    money("price.set", model_id="nova-micro", cached_prompt="0.5")

    money("request.redrive", request_id=str(late))
    service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    (claim,) = service.claim(late)
    service.settle(completed(late, claim["attempt"], **USED | {"cached_tokens": MILLION, "completion_tokens": 0}))

    # As many prompt tokens as before, but all of them cached, at the price of their day.
    for given in ({}, {"by_tag": "project"}, {"by_key": True}):
        adjusted = money("invoice.get", user_id="alice", month="2031-02", **given)
        assert [line[:3] for line in lines(adjusted)] == [
            ("prompt", -400_000, "1"),
            ("cached_prompt", 400_000, "0.1"),
        ]
        assert adjusted["total"] == "-0.36"
    assert money("invoice.get", user_id="alice", month="2031-01") == given_out
    assert_books_balance(service)


# Budgets ----------------------------------------------------------------------------------------------------------------


def ask(service: Service, key: bytes) -> UUID:
    # 5 + 64 tokens of the prompt, and up to 36 of the answer.
    return service.submit(key, parameters={"max_tokens": 36})


def reserved(service: Service) -> tuple[Decimal, Decimal]:
    (row,) = service.rows("SELECT amount_used, amount_reserved FROM budgets")
    return row["amount_used"], row["amount_reserved"]


@pytest.mark.parametrize(
    ("prices", "bound"),
    [
        ({}, "0.000141"),
        ({"cached_prompt": "0.1", "reasoning": "0.5"}, "0.000141"),
        ({"cached_prompt": "1.5"}, "0.0001755"),
        ({"cached_prompt": "1.5", "reasoning": "3"}, "0.0002115"),
    ],
)
def test_a_budget_reserves_the_dearest_classes(
    service: Service, alice: bytes, money: Callable[..., Any], prices: dict[str, str], bound: str
) -> None:
    if prices:
        money("price.set", model_id="nova-micro", **prices)
    money("budget.set", user_id="alice", limits={"daily": bound})
    request_id = ask(service, alice)
    assert reserved(service) == (Decimal(0), Decimal(bound))
    service.claim(request_id)
    service.settle(completed(request_id, prompt_tokens=69, completion_tokens=36, cached_tokens=69, reasoning_tokens=36))

    used, left = reserved(service)

    assert (used, left) == (Decimal(service.status(alice, request_id)["cost"]["amount"]), Decimal(0))
    assert used <= Decimal(bound)
    assert_books_balance(service)


def test_a_price_of_a_class_that_changes_today_is_counted_at_once(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("budget.set", user_id="alice", limits={"daily": "10"})
    answer(service, alice)
    ask(service, alice)
    assert reserved(service) == (Decimal(3), Decimal("0.000141"))

    money("price.set", model_id="nova-micro", cached_prompt="0.1", reasoning="3")

    assert reserved(service) == (Decimal("2.71"), Decimal("0.000177"))
    assert_books_balance(service)


def test_prices_of_parts_alone_do_not_price_a_model(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    """A prompt need not be cached: what it costs then is not known."""
    money("model.set", model_id="free", backend="bedrock", backend_model="f")
    money("price.set", model_id="free", cached_prompt="1", reasoning="1", completion="1")
    money("budget.set", user_id="alice", limits={"daily": "1"})
    with pytest.raises(Exception, match="price") as refusal:
        service.submit(alice, model="free")
    assert getattr(refusal.value, "code", None) == "model_unpriced"


# Reports, and the version before -------------------------------------------------------------------------------------------


def test_tiers_are_compared_by_the_prices_of_the_classes(
    service: Service, alice: bytes, money: Callable[..., Any]
) -> None:
    money("price.set", model_id="nova-micro", prompt="1", completion="1", cached_prompt="0", price_list="volume")
    money("tier.set", tier="basic", price_list="volume")
    answer(service, alice)
    wait_until_visible(service)
    service.database("rollup").call("rollup_usage")
    (found,) = money("usage.tiers", user_id="alice", start_month="2031-01", end_month="2031-01")
    costs = {tier["tier"]: tier["cost"] for tier in found["tiers"]}
    assert (costs["basic"], costs["standard"]) == ("1.4", "3")


def test_the_version_before_adds_up_the_same(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    """It adds up tokens of two classes, and requests over the rows of the prompt."""
    money("price.set", model_id="nova-micro", cached_prompt="0.1", reasoning="4")
    answer(service, alice)
    at(service, 2, 15)
    old = service.value("SELECT (usage_report_v2('alice', '2031-01-01', '2031-01-31', NULL, NULL)).usage")
    new = service.value("SELECT (usage_report_v3('alice', '2031-01-01', '2031-01-31', NULL, NULL)).usage")
    assert [(row["token_class"], row["tokens"], row["requests"]) for row in old] == [
        ("prompt", 400_000, 1),
        ("prompt", 600_000, 0),
        ("completion", 750_000, 1),
        ("completion", 250_000, 0),
    ]
    assert [(row["tokens"], row["price_per_million"]) for row in old] == [
        (row["tokens"], row["price_per_million"]) for row in new
    ]
    assert set(old[0]) == set(new[0]), "it knows no other members"
    (statement,) = service.database("admin").call(
        "statement_show", user_id="alice", month=NOON.date().replace(day=1), attribute=""
    )
    assert [row["token_class"] for row in statement["usage"]] == ["prompt", "prompt", "completion", "completion"]


def test_the_version_before_closes_months(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    """With a document of two classes; what it billed is kept by class, so adjustments are right."""
    money("price.set", model_id="nova-micro", cached_prompt="0.1", reasoning="4")
    answer(service, alice)
    at(service, 2, 15)
    closing = service.maintenance().statements
    closing._database.row = _of_the_version_before(closing._database)  # type: ignore[method-assign]
    document = close_month(closing, "alice", NOON.date().replace(day=1), actor="rollup")

    assert document is not None
    assert (document["total"], document["status"]) == ("2.96", "final")
    assert [line[:2] for line in lines(dict(document))] == [
        ("prompt", 600_000),
        ("prompt", 400_000),
        ("completion", 750_000),
        ("completion", 250_000),
    ]
    assert money("invoice.get", user_id="alice", month="2031-02")["lines"] == []
    assert_books_balance(service)


def _of_the_version_before(database: Any) -> Callable[..., Any]:
    row = database.row

    def call(type_: Any, function: str, **given: Any) -> Any:
        return row(type_, function.removesuffix("_v2"), **given)

    return call
