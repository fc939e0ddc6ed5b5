"""Usage and money, through the admin function and GET /usage: exact, repriceable, adding up to the cent."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluice.services import billing
from tests.support.functions import KEYED, administer, get
from tests.support.service import Service, completed, failed

TODAY = datetime.now(UTC).date()
MONTH = f"{TODAY:%Y-%m}"


@pytest.fixture
def admin(admin: Callable[..., Any], alice: bytes) -> Callable[..., Any]:
    """Runs an operation that must succeed, with alice as a user."""
    return admin


def answered(service: Service, key: bytes, prompt_tokens: int, completion_tokens: int, on: date = TODAY) -> UUID:
    """An answered request with these tokens, accepted on a day."""
    request_id = service.submit(key)
    service.claim(request_id)
    service.settle(completed(request_id, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens))
    if on != TODAY:
        # Move it to that day, with everything that refers to it.
        with service.owner.transaction():
            moved: UUID = service.value(
                "SELECT overlay(%s::text PLACING left(uuidv7_floor(%s)::text, 13) FROM 1 FOR 13)::uuid",
                request_id,
                datetime(on.year, on.month, on.day, 12, tzinfo=UTC),
            )
            service.owner.execute("SELECT partition_create('requests', 'request_id', %s)", (on.replace(day=1),))
            service.owner.execute("SET LOCAL session_replication_role = replica")
            service.owner.execute(
                "UPDATE requests SET request_id = %s, created_at = uuid_extract_timestamp(%s),"
                " started_at = uuid_extract_timestamp(%s), completed_at = uuid_extract_timestamp(%s) WHERE request_id = %s",
                (moved, moved, moved, moved, request_id),
            )
            service.owner.execute("UPDATE audit_log SET request_id = %s WHERE request_id = %s", (moved, request_id))
        return moved
    return request_id


def wait_for_rollup(service: Service) -> None:
    """Run the rollup until it has seen everything: a transaction of another database may delay it."""
    before = service.value("SELECT pg_current_xact_id()::text::bigint")
    while service.value("SELECT xact_id FROM rollup_watermarks WHERE task = 'usage'") <= before:
        service.database("rollup").call_row("rollup_usage")


def test_usage_is_the_same_before_and_after_the_rollup(
    service: Service, alice: bytes, admin: Callable[..., Any]
) -> None:
    answered(service, alice, 1000, 500)
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(failed(request_id))

    before = admin("usage.get", user_id="alice")
    wait_for_rollup(service)
    after = admin("usage.get", user_id="alice")

    assert before["days"] == after["days"]
    assert before["months"] == after["months"]
    (day,) = after["days"]
    # 1000 at 0.035 and 500 at 0.14 per million
    sums = {
        "requests": 2,
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
        "costs": [{"currency": "USD", "amount": "0.000105"}],
        "unpriced_tokens": 0,
    }
    assert day == {"day": TODAY.isoformat()} | sums | {"models": [{"model": "nova-micro"} | sums]}
    (month,) = after["months"]
    assert month == {"month": MONTH} | sums | {"models": [{"model": "nova-micro"} | sums]}


def test_usage_is_complete_while_a_long_transaction_delays_the_rollup(
    service: Service, alice: bytes, admin: Callable[..., Any]
) -> None:
    with psycopg.connect(service.dsn) as other:
        other.execute("SELECT pg_current_xact_id()")
        answered(service, alice, 1000, 500)
        service.owner.execute("UPDATE rollup_watermarks SET updated_at = now() + interval '2 hours'")
        service.database("rollup").call_row("rollup_usage")
        assert service.value("SELECT count(*) FROM usage") == 0
        assert admin("usage.get", user_id="alice")["months"][0]["total_tokens"] == 1500
        assert admin("invoice.get", user_id="alice", month=MONTH)["requests"] == 1


def test_usage_shows_current_limits(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    answered(service, alice, 1000, 500)
    service.submit(alice, "hello")
    admin("quota.set", user_id="alice", limits={"daily": {"max_requests": 1, "max_tokens": None}})

    found = admin("usage.get", user_id="alice")

    limits = {limit["period"]: limit for limit in found["limits"]}
    assert list(limits) == ["minute", "daily", "monthly"]
    daily = limits["daily"]
    assert (daily["requests_used"], daily["max_requests"], daily["requests_remaining"]) == (2, 1, 0)
    assert (daily["max_tokens"], daily["tokens_remaining"]) == (None, None)
    monthly = limits["monthly"]
    reserved = 5 + 64 + 512
    assert (monthly["tokens_used"], monthly["tokens_reserved"]) == (1500, reserved)
    assert monthly["tokens_remaining"] == monthly["max_tokens"] - 1500 - reserved
    assert 0 <= daily["resets_in_seconds"] <= 86_400
    assert found["unfinished"] == {"requests": 1, "max_requests": 10_000}
    assert (found["user_id"], found["tier"]) == ("alice", "premium")


def test_callers_see_only_their_own_usage(service: Service, alice: bytes, deploy: Any) -> None:
    answered(service, alice, 1000, 500)
    answered(service, service.add_user("bob", "sluice_" + "b" * 43), 7, 7)
    deploy("status")

    status, headers, body = get("/usage", KEYED)

    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert body["user_id"] == "alice"
    assert body["days"][0]["total_tokens"] == 1500
    assert (body["start"], body["end"]) == (TODAY.replace(day=1).isoformat(), TODAY.isoformat())
    assert get("/usage", KEYED, start="2020-01-01", end="2020-12-31")[2]["days"] == []


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({}, {}, 401, "key_missing"),
        ({"x-api-key": "sluice_" + "z" * 43}, {}, 401, "key_unknown"),
        (KEYED, {"start": "yesterday"}, 422, "invalid_input"),
        (KEYED, {"start": "2026-02-30"}, 422, "invalid_input"),
        (KEYED, {"start": "2026-01-02", "end": "2026-01-01"}, 422, "invalid_input"),
        (KEYED, {"start": "2025-01-01", "end": "2026-01-02"}, 422, "invalid_input"),
        (KEYED, {"start": "1969-12-31", "end": "1970-01-02"}, 422, "invalid_input"),
        (KEYED, {"end": "9999-12-31"}, 422, "invalid_input"),
        (KEYED, {"since": "2026-01-01"}, 422, "invalid_input"),
        (KEYED, {"start": "1764460800"}, 422, "invalid_input"),
    ],
)
def test_invalid_usage_queries_are_refused(
    deploy: Any, alice: bytes, headers: dict[str, str], query: dict[str, str], status: int, code: str
) -> None:
    deploy("status")
    answer = get("/usage", headers, **query)
    assert (answer[0], answer[2]["code"]) == (status, code)


def test_a_submit_only_key_cannot_read_usage(deploy: Any, service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE api_keys SET scopes = '{submit}'")
    deploy("status")
    assert get("/usage", KEYED)[2]["code"] == "scope_missing"


def test_an_invoice_adds_up_to_the_cent(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    admin(
        "model.set",
        model_id="large",
        backend="bedrock",
        backend_model="l",
        max_tokens_limit=5000,
        prices={"prompt": "3", "completion": "15.5"},
    )
    answered(service, alice, 1_234, 777)
    request_id = service.submit(alice, model="large")
    service.claim(request_id)
    service.settle(completed(request_id, prompt_tokens=12_345, completion_tokens=6_789))

    document = admin("invoice.get", user_id="alice", month=MONTH)

    exact = (
        Decimal(1_234) * Decimal("0.035")
        + Decimal(777) * Decimal("0.14")
        + Decimal(12_345) * 3
        + Decimal(6_789) * Decimal("15.5")
    ) / 1_000_000
    assert document["total"] == str(exact.quantize(Decimal("0.01"), ROUND_HALF_UP)) == "0.14"
    assert sum(Decimal(line["amount"]) for line in document["lines"]) == Decimal(document["total"])
    assert sum(Decimal(line["exact_amount"]) for line in document["lines"]) == exact
    assert [
        (line["model"], line["token_class"], line["tokens"], line["price_per_million"]) for line in document["lines"]
    ] == [
        ("large", "prompt", 12_345, "3"),
        ("large", "completion", 6_789, "15.5"),
        ("nova-micro", "prompt", 1_234, "0.035"),
        ("nova-micro", "completion", 777, "0.14"),
    ]
    assert (document["requests"], document["currency"], document["status"]) == (2, "USD", "open")

    rows = list(csv.DictReader(io.StringIO(admin("invoice.get", user_id="alice", month=MONTH, format="csv")["csv"])))
    *lines, total = rows
    assert {line["kind"] for line in lines} == {"usage"}
    assert (total["kind"], total["amount"], total["currency"]) == ("total", "0.14", "USD")
    assert sum(Decimal(line["amount"]) for line in lines) == Decimal(total["amount"])
    assert [line["tokens"] for line in lines] == ["12345", "6789", "1234", "777"]


@given(st.lists(st.decimals(min_value=0, max_value=10**12, places=10), max_size=30))
@example([Decimal("0.004")] * 5)
@example([Decimal("0.005")])
def test_apportioned_amounts_add_up_to_the_cent(exact: list[Decimal]) -> None:
    amounts = billing._apportioned(exact)
    assert sum(amounts, Decimal(0)) == sum(exact, Decimal(0)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert all(abs(amount - of) < Decimal("0.01") for amount, of in zip(amounts, exact, strict=True))
    assert all(amount >= 0 and amount == amount.quantize(Decimal("0.01")) for amount in amounts)


def test_a_past_month_is_open_until_everything_is_settled(
    service: Service, alice: bytes, admin: Callable[..., Any]
) -> None:
    last_month = TODAY.replace(day=1) - timedelta(days=1)
    answered(service, alice, 1000, 500, on=last_month)
    service.owner.execute("UPDATE billing_terms SET valid_from = '2020-01-01'")
    service.owner.execute("UPDATE prices SET valid_from = '2020-01-01'")

    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (uuidv7_floor(%s), 'alice', 1, now())",
        (datetime(last_month.year, last_month.month, 2, tzinfo=UTC),),
    )
    assert admin("invoice.get", user_id="alice", month=f"{last_month:%Y-%m}")["status"] == "open"

    service.owner.execute("DELETE FROM inflight")
    document = admin("invoice.get", user_id="alice", month=f"{last_month:%Y-%m}")
    assert (document["status"], document["lines"][0]["tokens"], document["unpriced_tokens"]) == ("final", 1000, 0)
    assert admin("invoice.get", user_id="alice", month=MONTH)["lines"] == []


def test_a_past_month_can_be_repriced_with_another_list(
    service: Service, alice: bytes, admin: Callable[..., Any]
) -> None:
    last_month = TODAY.replace(day=1) - timedelta(days=1)
    month = f"{last_month:%Y-%m}"
    service.owner.execute("UPDATE billing_terms SET valid_from = '2020-01-01'")
    service.owner.execute("UPDATE prices SET valid_from = '2020-01-01'")
    answered(service, alice, 1_000_000, 2_000_000, on=last_month)
    admin(
        "price.set",
        model_id="nova-micro",
        prompt="1",
        completion="2.5",
        price_list="draft",
        valid_from="2021-01-01",
        currency="EUR",
    )

    assert admin("invoice.get", user_id="alice", month=month)["total"] == "0.32"  # 0.035 + 0.28, half up
    again = admin("invoice.get", user_id="alice", month=month, price_list="draft")
    assert (again["total"], again["currency"]) == ("6.00", "EUR")
    assert {line["price_list"] for line in again["lines"]} == {"draft"}
    assert admin("invoice.get", user_id="alice", month=month)["total"] == "0.32", "reading changes nothing"


def test_a_price_holds_for_whole_days_from_its_date(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    service.owner.execute("UPDATE prices SET valid_from = '2020-01-01'")
    answered(service, alice, 1_000_000, 0)
    tomorrow = TODAY + timedelta(days=1)
    admin("price.set", model_id="nova-micro", prompt="7", valid_from=tomorrow.isoformat())
    assert admin("invoice.get", user_id="alice", month=MONTH)["lines"][0]["price_per_million"] == "0.035"

    prices = admin("price.set", model_id="nova-micro", prompt="9.5")
    assert [
        (p["price_per_million"], p["valid_from"], p["valid_until"]) for p in prices if p["token_class"] == "prompt"
    ] == [
        ("0.035", "2020-01-01", TODAY.isoformat()),
        ("9.5", TODAY.isoformat(), tomorrow.isoformat()),
        ("7", tomorrow.isoformat(), None),
    ]
    assert admin("invoice.get", user_id="alice", month=MONTH)["lines"][0]["price_per_million"] == "9.5"
    (now,) = [m for m in admin("model.list") if m["model_id"] == "nova-micro"]
    assert now["prices"] == {"prompt": "9.5", "completion": "0.14"}
    on_that_day = admin("price.list", price_list="standard", on="2020-06-01")
    assert [(p["token_class"], p["price_per_million"]) for p in on_that_day] == [
        ("prompt", "0.035"),
        ("completion", "0.14"),
    ]


def test_past_days_keep_their_price(service: Service, admin: Callable[..., Any]) -> None:
    service.owner.execute("UPDATE prices SET valid_from = '2020-01-01'")
    answer = administer("price.set", model_id="nova-micro", prompt="1", valid_from="2026-01-01")
    assert (answer["ok"], answer["problem"]["code"]) == (False, "price_in_past")
    # A missing price may be added, and an unchanged one repeated.
    assert admin("price.set", model_id="nova-micro", prompt="1", valid_from="2019-01-01")
    assert admin("price.set", model_id="nova-micro", prompt="0.035", valid_from="2026-01-01")


def test_tokens_without_a_price_are_reported(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    admin("model.set", model_id="free", backend="bedrock", backend_model="f", prices={"prompt": "1"})
    request_id = service.submit(alice, model="free")
    service.claim(request_id)
    service.settle(completed(request_id, prompt_tokens=1_000_000, completion_tokens=5))

    document = admin("invoice.get", user_id="alice", month=MONTH)

    assert (document["total"], document["unpriced_tokens"]) == ("1.00", 5)
    unpriced = document["lines"][1]
    assert (unpriced["price_per_million"], unpriced["exact_amount"], unpriced["amount"]) == (None, None, None)
    assert admin("usage.get", user_id="alice")["days"][0]["unpriced_tokens"] == 5


def test_a_tier_change_changes_terms_from_then_on(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    yesterday = TODAY - timedelta(days=1)
    service.owner.execute("UPDATE billing_terms SET valid_from = '2020-01-01'")
    service.owner.execute("UPDATE prices SET valid_from = '2020-01-01'")
    admin("price.set", model_id="nova-micro", prompt="1", completion="1", price_list="volume")
    admin(
        "tier.set",
        tier="bulk",
        price_list="volume",
        limits={"minute": {}, "daily": {}, "monthly": {"max_tokens": 10**9}},
    )
    answered(service, alice, 1_000_000, 0, on=yesterday)
    answered(service, alice, 1_000_000, 0)
    admin("user.update", user_id="alice", tier="bulk")

    found = admin("usage.get", user_id="alice", start=yesterday.isoformat())

    assert [day["costs"][0]["amount"] for day in found["days"]] == ["0.035", "1"]


def test_currencies_are_not_added(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    yesterday = TODAY - timedelta(days=1) if TODAY.day > 1 else TODAY
    admin("price.set", model_id="nova-micro", prompt="1", completion="1", price_list="euro", currency="EUR")
    answered(service, alice, 1_000_000, 0)
    document = admin("invoice.get", user_id="alice", month=MONTH, price_list="euro")
    assert (document["currency"], document["total"]) == ("EUR", "1.00")
    if yesterday != TODAY:
        service.owner.execute("UPDATE prices SET valid_from = '2020-01-01'")
        service.owner.execute("UPDATE billing_terms SET valid_from = '2020-01-01'")
        service.owner.execute("INSERT INTO billing_terms VALUES ('alice', %s, 'premium', 'euro')", (TODAY,))
        answered(service, alice, 1_000_000, 0, on=yesterday)
        answer = administer("invoice.get", user_id="alice", month=MONTH)
        assert answer["problem"]["code"] == "currencies_mixed"
        assert "EUR and USD" in answer["problem"]["detail"]


def test_tiers_are_compared_by_hypothetical_cost(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    admin("price.set", model_id="nova-micro", prompt="0.01", completion="0.02", price_list="volume")
    admin("tier.set", tier="premium", price_list="volume")
    answered(service, alice, 400_000, 100_000)
    wait_for_rollup(service)

    (found,) = admin("usage.tiers", user_id="alice")

    assert (found["user_id"], found["tier"], found["months"]) == ("alice", "premium", 1)
    assert (found["max_requests"], found["max_tokens"]) == (1, 500_000)
    by_tier = {tier["tier"]: tier for tier in found["tiers"]}
    assert {tier: by_tier[tier]["fits"] for tier in by_tier} == {"basic": False, "standard": True, "premium": True}
    # 400,000 at 0.035 and 100,000 at 0.14; 400,000 at 0.01 and 100,000 at 0.02
    assert {tier: by_tier[tier]["cost"] for tier in by_tier} == {
        "basic": "0.028",
        "standard": "0.028",
        "premium": "0.006",
    }
    assert found["recommended_tier"] == "premium", "the cheapest tier that covers the largest month"


def test_a_recommended_tier_must_cover_the_largest_day(
    service: Service, alice: bytes, admin: Callable[..., Any]
) -> None:
    thin = {"minute": {}, "daily": {"max_tokens": 10}, "monthly": {"max_tokens": 90_000}}
    admin("tier.set", tier="thin", limits=thin)
    answered(service, alice, 400, 100)
    wait_for_rollup(service)
    (found,) = admin("usage.tiers", user_id="alice")
    assert {tier["tier"]: tier["fits"] for tier in found["tiers"]}["thin"] is False
    assert found["recommended_tier"] == "basic"


def test_the_analysis_is_made_by_the_rollup(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    answered(service, alice, 10, 10)
    assert admin("usage.tiers") == []
    wait_for_rollup(service)
    assert [row["recommended_tier"] for row in admin("usage.tiers")] == ["basic"]
    assert admin("usage.tiers", after="alice") == []
