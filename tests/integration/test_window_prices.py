"""Prices of completion windows: in costs, quotes, budgets, usage, invoices and adjustments; and as the APIs take them."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from sluice.api.native.bodies import GenerateRequest
from sluice.api.native.submission import quote
from sluice.domain.errors import SluiceError
from sluice.services.quote import Quoter
from sluice.services.tasks import close
from tests.support.conformance import check_response
from tests.support.functions import KEYED, administer, get, post
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock, wait_until_visible
from tests.support.openai_api import Api
from tests.support.service import LIMITS, Service, body_of, completed, failed

NOON = datetime(2031, 1, 15, 12, tzinfo=UTC)
MILLION = 1_000_000
USED: dict[str, Any] = {"prompt_tokens": MILLION, "completion_tokens": MILLION}
UNLIMITED = {"max_requests": None, "max_tokens": None}


@pytest.fixture
def money(service: Service, alice: bytes, admin: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an operation that must succeed. The clock stands; a million tokens cost 1 and 2 dollars, half if one waits."""
    stop_the_clock(service.owner, NOON.replace(day=1))
    admin("quota.set", user_id="alice", limits=dict.fromkeys(("minute", "daily", "monthly"), UNLIMITED))
    admin("price.set", model_id="nova-micro", prompt="1", completion="2")
    admin("price.set", model_id="nova-micro", prompt="0.5", completion="1", price_list="patient")
    set_clock(service.owner, NOON)
    return admin


@pytest.fixture
def halved(money: Callable[..., Any]) -> Callable[..., Any]:
    money("price.window", window="24h", window_list="patient")
    return money


def answer(service: Service, key: bytes, window: str = "soonest", **more: Any) -> UUID:
    request_id = service.submit(key, window=window, **more)
    service.claim(request_id)
    service.settle(completed(request_id, **USED))
    return request_id


def at(service: Service, month: int, day: int, hour: int = 12) -> None:
    set_clock(service.owner, datetime(2031, month, day, hour, tzinfo=UTC))
    service.owner.execute("SELECT partitions_ensure()")


def rollup(service: Service) -> None:
    wait_until_visible(service)
    service.database("rollup").value("rollup_usage")


def lines(document: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("kind", "window", "token_class", "price_list", "tokens", "amount")
    return [tuple(line.get(name) for name in names) for line in document["lines"]]


# Setting --------------------------------------------------------------------------------------------------------------


def test_a_window_has_a_list_from_a_day_on(service: Service, money: Callable[..., Any]) -> None:
    row = {"price_list": "standard", "currency": "USD", "window": "24h"}
    assert money("price.windows") == []
    money("price.window", window="24h", window_list="patient", valid_from="2031-02-01")
    money("price.window", window="8h", window_list="patient")
    # The same again is no change, and the list itself ends it.
    money("price.window", window="24h", window_list="patient", valid_from="2031-02-02")
    assert money("price.window", window="24h", window_list="standard", valid_from="2031-03-01") == [
        row | {"window_list": "patient", "valid_from": "2031-02-01", "valid_until": "2031-03-01"},
        row | {"window_list": "standard", "valid_from": "2031-03-01", "valid_until": None},
    ]
    assert [each["window"] for each in money("price.windows", price_list="standard")] == ["8h", "24h", "24h"]
    assert money("price.windows", price_list="patient") == []
    changes = service.rows("SELECT before, after FROM audit_log WHERE action = 'price.window_set' ORDER BY audit_id")
    assert [change["before"] for change in changes] == [
        {"window_list": name} for name in ("standard", "standard", "patient")
    ]
    assert changes[0]["after"] == {
        "price_list": "standard", "window": "24h", "window_list": "patient", "valid_from": "2031-02-01",
    }  # fmt: skip


def test_what_is_no_list_for_a_window(service: Service, money: Callable[..., Any]) -> None:
    money("price.set", model_id="nova-micro", prompt="1", price_list="euro", currency="EUR")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"window": "1h"}, "invalid_input"),
        ({"window": "soonest"}, "invalid_input"),
        ({"window": None}, "invalid_input"),
        ({"window_list": "unknown"}, "price_list_unknown"),
        ({"price_list": "unknown"}, "price_list_unknown"),
        ({"window_list": "euro"}, "currency_differs"),
        ({"valid_from": "2031-01-14"}, "price_in_past"),
        ({"valid_from": "tomorrow"}, "invalid_input"),
        ({"window_list": ""}, "invalid_input"),
    ]
    for changes, code in cases:
        refused = administer("price.window", **{"window": "24h", "window_list": "patient"} | changes)
        assert (refused["ok"], refused["problem"]["code"]) == (False, code), changes
    assert service.value("SELECT count(*) FROM window_lists") == 0
    assert administer("price.windows", price_list="unknown")["problem"]["code"] == "price_list_unknown"


# Costs ----------------------------------------------------------------------------------------------------------------


def test_who_waits_pays_by_another_list(service: Service, alice: bytes, halved: Callable[..., Any]) -> None:
    soon, patient, other = (answer(service, alice, window) for window in ("soonest", "24h", "2h"))

    costs = [service.status(alice, each)["cost"] for each in (soon, patient, other)]
    assert [(cost["amount"], cost["price_list"]) for cost in costs] == [
        ("3", "standard"), ("1.5", "patient"), ("3", "standard"),
    ]  # fmt: skip
    for _ in range(2):
        used = halved("usage.get", user_id="alice", start="2031-01-01", end="2031-01-31")
        (month,) = used["months"]
        assert (month["requests"], month["costs"]) == (3, [{"currency": "USD", "amount": "7.5"}])
        assert [(part["window"], part["requests"], part["costs"][0]["amount"]) for part in month["windows"]] == [
            ("2h", 1, "3"),
            ("24h", 1, "1.5"),
        ]
        assert [part["costs"] for part in month["models"]] == [[{"currency": "USD", "amount": "7.5"}]]
        by_key = halved("usage.get", user_id="alice", start="2031-01-01", end="2031-01-31", by_key=True)
        assert [part["costs"] for part in by_key["months"][0]["keys"]] == [[{"currency": "USD", "amount": "7.5"}]]
        rollup(service)
    assert_books_balance(service)


def test_it_holds_from_its_day_on(service: Service, alice: bytes, money: Callable[..., Any]) -> None:
    before = answer(service, alice, "24h")
    money("price.window", window="24h", window_list="patient", valid_from="2031-01-16")
    at(service, 1, 16)
    after = answer(service, alice, "24h")
    assert [service.status(alice, each)["cost"]["amount"] for each in (before, after)] == ["3", "1.5"]
    assert [line[3:] for line in lines(money("invoice.get", user_id="alice", month="2031-01"))] == [
        ("patient", MILLION, "0.50"),
        ("standard", MILLION, "1.00"),
        ("patient", MILLION, "1.00"),
        ("standard", MILLION, "2.00"),
    ]


def test_attempts_and_charges_are_priced_by_the_window(
    service: Service, alice: bytes, halved: Callable[..., Any]
) -> None:
    request_id = service.submit(alice, window="24h")
    service.claim(request_id)
    call = {
        "backend": "openai", "begun_at": NOON.isoformat(), "ended_at": NOON.isoformat(), "model_id": "nova-micro",
        "is_charged": True, **USED,
    }  # fmt: skip
    calls = [call | {"cause": "schema_mismatch"}, call]
    service.settle(completed(request_id, prompt_tokens=2 * MILLION, completion_tokens=2 * MILLION, calls=calls))
    shown = service.status(alice, request_id)
    assert (shown["cost"]["amount"], shown["cost"]["price_list"]) == ("3", "patient")
    assert [each["cost"]["amount"] for each in shown["attempts"]] == ["1.5", "1.5"]
    assert_books_balance(service)


# Quotes and budgets ---------------------------------------------------------------------------------------------------


def test_a_quote_and_its_bound_are_those_of_the_window(
    service: Service, alice: bytes, halved: Callable[..., Any]
) -> None:
    def ask(**body: Any) -> dict[str, Any]:
        asked = GenerateRequest.model_validate({"prompt": "x" * 100, **body})
        response = quote(Quoter(service.ledger("submit"), LIMITS), alice, asked)
        check_response("POST /quote", response)
        return body_of(response)

    dear, cheap = ask(), ask(window="24h")
    assert Decimal(cheap["bound"]["cost"]["amount"]) * 2 == Decimal(dear["bound"]["cost"]["amount"])
    assert (dear["bound"]["cost"]["price_list"], cheap["bound"]["cost"]["price_list"]) == ("standard", "patient")
    assert ask(window="soonest") == dear
    service.submit(alice, prompt="x" * 100, window="24h", max_cost=cheap["bound"]["cost"]["amount"])
    with pytest.raises(SluiceError) as refusal:
        service.submit(alice, prompt="x" * 100, max_cost=cheap["bound"]["cost"]["amount"])
    assert refusal.value.code == "max_cost_exceeded"
    assert service.value("SELECT count(*) FROM requests") == 1


def test_budgets_reserve_and_settle_by_the_window(service: Service, alice: bytes, halved: Callable[..., Any]) -> None:
    halved("budget.set", user_id="alice", limits={"monthly": "100"})
    counters = "SELECT amount_used + amount_reserved FROM budgets"
    service.submit(alice)
    dear = service.value(counters)
    request_id = service.submit(alice, window="24h")
    assert service.value(counters) == dear * Decimal("1.5")
    service.claim(request_id)
    service.settle(completed(request_id, **USED))
    assert service.value("SELECT amount_used FROM budgets") == Decimal("1.5")
    assert_books_balance(service)

    # Another list for the window of today, and another price in that list: all is counted again.
    halved("price.window", window="24h", window_list="standard")
    assert service.value("SELECT amount_used FROM budgets") == 3
    halved("price.window", window="24h", window_list="patient")
    halved("price.set", model_id="nova-micro", prompt="0", price_list="patient")
    assert service.value("SELECT amount_used FROM budgets") == 1
    assert_books_balance(service)


# Invoices -------------------------------------------------------------------------------------------------------------


def test_an_invoice_has_lines_for_each_window(service: Service, alice: bytes, halved: Callable[..., Any]) -> None:
    for window in ("soonest", "24h", "24h", "2h"):
        answer(service, alice, window)
    failing = service.submit(alice, window="24h")
    service.claim(failing)
    service.settle(failed(failing))
    wanted = [
        ("usage", None, "prompt", "standard", MILLION, "1.00"),
        ("usage", None, "completion", "standard", MILLION, "2.00"),
        ("usage", "2h", "prompt", "standard", MILLION, "1.00"),
        ("usage", "2h", "completion", "standard", MILLION, "2.00"),
        ("usage", "24h", "prompt", "patient", 2 * MILLION, "1.00"),
        ("usage", "24h", "completion", "patient", 2 * MILLION, "2.00"),
    ]
    document = halved("invoice.get", user_id="alice", month="2031-01")
    assert (lines(document), document["total"], document["requests"]) == (wanted, "9.00", 5)
    at(service, 2, 1)
    rollup(service)
    final = halved("invoice.get", user_id="alice", month="2031-01")
    assert (final["status"], lines(final), final["total"]) == ("final", wanted, "9.00")
    by_key = halved("invoice.get", user_id="alice", month="2031-01", by_key=True)
    assert [(line.get("window"), line["amount"]) for line in by_key["lines"]] == [(line[1], line[5]) for line in wanted]
    rows = list(
        csv.DictReader(io.StringIO(halved("invoice.get", user_id="alice", month="2031-01", format="csv")["csv"]))
    )
    assert [row["window"] for row in rows] == ["", "", "2h", "2h", "24h", "24h", ""]

    # What fails now and is redriven is an adjustment at the price of its window and day.
    halved("price.window", window="24h", window_list="standard")
    service.act("request.redrive", request_id=str(failing), ttl_seconds=3600, max_attempts=1, dry_run=False)
    service.kept("rollup").call("request_dispatch", limit=10)
    (claim,) = service.claim(failing)
    service.settle(completed(failing, claim["attempt"], **USED))
    assert lines(halved("invoice.get", user_id="alice", month="2031-02")) == [
        ("adjustment", "24h", "prompt", "patient", MILLION, "0.50"),
        ("adjustment", "24h", "completion", "patient", MILLION, "1.00"),
    ]
    assert halved("invoice.get", user_id="alice", month="2031-01") == final
    rollup(service)
    at(service, 3, 1)
    assert close.run(service.tasks())["closed"] == 1
    assert_books_balance(service)
    assert service.value("SELECT count(*) FROM usage_unbilled('alice', '')") == 0


def test_the_version_before_adds_up_the_same(service: Service, alice: bytes, halved: Callable[..., Any]) -> None:
    """It gets no window, adds up by model and price list, and closes months of both."""
    for window in ("soonest", "24h"):
        answer(service, alice, window)
    (report,) = service.rows("SELECT * FROM usage_report_v3('alice', '2031-01-01', '2031-01-31', NULL, NULL)")
    members = {
        "day", "model", "requests", "token_class", "tokens", "price_list", "currency", "price_per_million",
    }  # fmt: skip
    assert {frozenset(row) for row in report["usage"]} == {frozenset(members)}
    cost = sum(row["tokens"] * Decimal(row["price_per_million"]) / MILLION for row in report["usage"])
    assert (cost, report["windows"]) == (Decimal("4.5"), ["24h", "24h", "soonest", "soonest"])
    at(service, 2, 1)
    (found,) = service.kept("admin").call(
        "statement_show", user_id="alice", month=NOON.date().replace(day=1), attribute=""
    )
    document = {"lines": found["usage"], "total": "4.50", "currency": "USD"}
    closed = service.owner.execute(
        "SELECT statement_close('alice', '2031-01-01', %s, %s, 'admin', NULL) AS document",
        (Jsonb(document), Jsonb(found["usage"])),
    ).fetchone()
    assert closed is not None
    assert closed["document"]["total"] == "4.50"
    assert service.value("SELECT count(*) FROM usage_unbilled('alice', '')") == 0
    assert_books_balance(service)


def test_tiers_are_compared_by_the_lists_of_windows(service: Service, alice: bytes, halved: Callable[..., Any]) -> None:
    answer(service, alice, "24h")
    rollup(service)
    (found,) = halved("usage.tiers", user_id="alice", start_month="2031-01", end_month="2031-01")
    assert {tier["cost"] for tier in found["tiers"]} == {"1.5"}


# The APIs -------------------------------------------------------------------------------------------------------------


def test_generate_takes_a_window(service: Service, alice: bytes, deploy: Callable[..., Any]) -> None:
    deploy("submit")
    status, _, made = post('{"prompt": "hello", "window": "8h"}')
    assert status == 202
    status, _, problem = post('{"prompt": "hello", "window": "3h"}')
    assert (status, problem["code"]) == (422, "invalid_input") or (status, problem["code"]) == (400, "invalid_input")
    assert "window" in str(problem)
    deploy("status")
    status, _, shown = get(f"/status/{made['request_id']}", KEYED)
    assert (status, shown["window"]) == (200, "8h")


def test_a_response_in_the_background_may_wait(api: Api, service: Service, alice: bytes) -> None:
    made = api.respond("later", background=True, background_options={"completion_window": "8h"})
    assert (made.status, made.body["background_options"]) == (200, {"completion_window": "8h"})
    assert api.get(f"/v1/responses/{made.body['id']}").body == made.body
    assert service.value("SELECT completion_window FROM requests") == "8h"
    assert api.work() == 1
    assert api.get(f"/v1/responses/{made.body['id']}").body["status"] == "completed"
    assert_books_balance(service)


def test_what_cannot_wait_is_refused(api: Api, service: Service, alice: bytes) -> None:
    window = "background_options.completion_window"
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({}, {"completion_window": "2h"}, window),
        ({"background": False}, {"completion_window": "8h"}, window),
        ({"background": True, "stream": True}, {"completion_window": "8h"}, window),
        ({"background": True}, {"completion_window": "24h"}, window),
        ({"background": True}, {"completion_window": 8}, window),
        ({"background": True}, {"window": "8h"}, "background_options.window"),
        ({"background": True}, "8h", "background_options"),
    ]
    for more, options, param in cases:
        refused = api.respond("now", **more, background_options=options)
        assert (refused.status, refused.body["error"]["param"]) == (400, param)
    assert service.value("SELECT count(*) FROM requests") == 0


def test_soonest_is_no_window(api: Api, service: Service, alice: bytes) -> None:
    for background in (True, None):
        made = api.respond("now", background=background, background_options={"completion_window": "soonest"})
        assert (made.status, made.body["background_options"]) == (200, {"completion_window": "soonest"})
    assert service.value("SELECT count(*) FROM requests WHERE completion_window IS NOT NULL") == 0
