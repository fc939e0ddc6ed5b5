"""A month that was billed is closed: its invoice never changes, and what becomes known later is billed later."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from sluice.services.invoices import close_month
from sluice.services.tasks import close
from tests.support.functions import administer
from tests.support.ledger import assert_books_balance, run_concurrently, set_clock, stop_the_clock, wait_until_visible
from tests.support.service import Service, completed, failed

# 1,000,000 prompt tokens cost one dollar, as many completion tokens two.
PRICES = {"prompt": "1", "completion": "2"}
MILLION = 1_000_000


class Months:
    """A service with a stopped clock, and alice's key."""

    def __init__(self, service: Service, key: bytes, admin: Callable[..., Any]) -> None:
        self.service, self.key, self.admin = service, key, admin

    def at(self, month: int, day: int = 15) -> None:
        set_clock(self.service.owner, datetime(2031, month, day, 12, tzinfo=UTC))
        self.service.owner.execute("SELECT partitions_ensure()")

    def accept(self, **given: Any) -> UUID:
        request_id = self.service.submit(self.key, **given)
        self.service.claim(request_id)
        return request_id

    def answer(self, prompt_tokens: int = MILLION, completion_tokens: int = 0, **given: Any) -> UUID:
        request_id = self.accept(**given)
        self.service.settle(completed(request_id, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens))
        return request_id

    def fail(self, **tokens: int) -> UUID:
        request_id = self.accept()
        self.service.settle(failed(request_id, **tokens))
        return request_id

    def redrive(self, request_id: UUID, prompt_tokens: int) -> None:
        """Queue a failed request again, and have it answered."""
        self.admin("request.redrive", request_id=str(request_id))
        self.service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
        (claim,) = self.service.claim(request_id)
        self.service.settle(completed(request_id, claim["attempt"], prompt_tokens=prompt_tokens, completion_tokens=0))

    def invoice(self, month: int, **given: Any) -> dict[str, Any]:
        document: dict[str, Any] = self.admin("invoice.get", user_id="alice", month=f"2031-{month:02}", **given)
        return document

    def rollup(self) -> None:
        wait_until_visible(self.service)
        self.service.database("rollup").call("rollup_usage")

    def close(self) -> dict[str, int]:
        self.rollup()
        return close.run(self.service.tasks())


@pytest.fixture
def months(service: Service, alice: bytes, admin: Callable[..., Any]) -> Iterator[Months]:
    stop_the_clock(service.owner, datetime(2031, 1, 1, tzinfo=UTC))
    admin("price.set", model_id="nova-micro", valid_from="2031-01-01", **PRICES)
    made = Months(service, alice, admin)
    yield made
    assert_books_balance(service)


def amounts(document: dict[str, Any]) -> list[tuple[str, str, int, str]]:
    return [(line["kind"], line["start"], line["tokens"], line["amount"]) for line in document["lines"]]


def test_a_month_is_open_until_it_is_over_and_settled(months: Months) -> None:
    months.at(1)
    months.answer()
    waiting = months.accept()
    assert months.invoice(1)["status"] == "open"
    months.at(2)
    assert months.invoice(1)["status"] == "open"
    months.service.settle(completed(waiting, prompt_tokens=MILLION, completion_tokens=0))

    document = months.invoice(1)

    assert (document["status"], document["total"], document["requests"]) == ("final", "2.00", 2)
    assert document["closed_at"].startswith("2031-02-15T12:00:00")
    assert months.service.value("SELECT count(*) FROM statements") == 1


def test_a_redrive_after_the_closing_is_billed_in_the_next_month(months: Months) -> None:
    months.at(1)
    months.answer()
    late = months.fail()
    months.at(2)
    given_out = months.invoice(1)
    assert (given_out["status"], given_out["total"]) == ("final", "1.00")

    months.admin("request.redrive", request_id=str(late))
    assert months.invoice(1) == given_out, "while it runs"
    months.service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    (claim,) = months.service.claim(late)
    months.service.settle(completed(late, claim["attempt"], prompt_tokens=3 * MILLION, completion_tokens=0))

    assert months.invoice(1) == given_out
    february = months.invoice(2)
    assert (february["status"], february["total"], february["requests"]) == ("open", "3.00", 0)
    assert amounts(february) == [("adjustment", "2031-01-15", 3 * MILLION, "3.00")]
    assert months.admin("usage.get", user_id="alice", start="2031-01-01", end="2031-01-31")["months"][0]["costs"] == [
        {"currency": "USD", "amount": "4"}
    ]


def test_an_adjustment_is_billed_once(months: Months) -> None:
    months.at(1)
    late = months.fail()
    months.answer()
    months.at(2)
    months.invoice(1)
    months.answer(2 * MILLION)
    months.redrive(late, MILLION)
    months.at(3)
    months.answer(5 * MILLION)

    assert months.close() == {"closed": 1, "open": 0}
    february, march = months.invoice(2), months.invoice(3)

    assert amounts(february) == [
        ("usage", "2031-02-15", 2 * MILLION, "2.00"),
        ("adjustment", "2031-01-15", MILLION, "1.00"),
    ]
    assert (march["total"], [line["kind"] for line in march["lines"]]) == ("5.00", ["usage"])


def test_a_credit_is_given_for_tokens_that_a_redrive_takes_back(months: Months) -> None:
    months.at(1)
    charged = months.fail(prompt_tokens=5 * MILLION, completion_tokens=0)
    months.at(2)
    assert months.invoice(1)["total"] == "5.00"
    months.redrive(charged, 2 * MILLION)

    february = months.invoice(2)

    assert amounts(february) == [("adjustment", "2031-01-15", -3 * MILLION, "-3.00")]
    assert (february["total"], february["requests"]) == ("-3.00", 0)
    csv = months.invoice(2, format="csv")["csv"].splitlines()
    assert csv[1].endswith(",open,")
    assert f",final,{months.invoice(1)['statement_id']}" in months.invoice(1, format="csv")["csv"]
    assert csv[1].startswith(
        "adjustment,alice,2031-02,nova-micro,prompt,standard,USD,1,-3000000,2031-01-15,2031-01-15,"
    )


def test_an_adjustment_waits_for_the_month_in_which_it_was_noticed(months: Months) -> None:
    """Months without usage in between are skipped; that month needs no usage of its own."""
    months.at(1)
    months.answer()
    late = months.fail()
    months.at(2)
    months.close()
    months.at(4)
    months.redrive(late, MILLION)
    months.rollup()
    assert months.invoice(3)["lines"] == []
    assert months.invoice(4)["total"] == "1.00"

    months.at(5)
    assert months.close() == {"closed": 1, "open": 0}

    assert (months.invoice(4)["status"], months.invoice(4)["total"]) == ("final", "1.00")
    assert months.invoice(5)["lines"] == []
    assert months.service.value("SELECT count(*) FROM adjustments_due") == 0


def test_the_task_closes_what_is_over_and_leaves_the_rest(months: Months) -> None:
    bob = months.service.add_user("bob", "sluice_" + "b" * 43)
    months.at(1)
    months.answer()
    waiting = months.service.submit(bob, expires_at=None, ttl_seconds=3600)
    months.service.claim(waiting)
    months.at(2)
    months.answer()

    assert months.close() == {"closed": 1, "open": 0}
    assert months.close() == {"closed": 0, "open": 0}

    (statement,) = months.service.rows("SELECT user_id, month FROM statements")
    assert (statement["user_id"], f"{statement['month']:%Y-%m}") == ("alice", "2031-01")
    (audited,) = months.service.rows("SELECT actor, user_id, after FROM audit_log WHERE action = 'statement.closed'")
    document = months.invoice(1)
    assert (audited["actor"], audited["user_id"]) == ("rollup", "alice")
    assert audited["after"] == {
        "statement_id": document["statement_id"],
        "month": "2031-01",
        "total": "1.00",
        "currency": "USD",
        "digest": document["digest"],
    }


def test_prices_of_a_closed_month_do_not_change_its_invoice(months: Months) -> None:
    months.admin("model.set", model_id="free", backend="bedrock", backend_model="f")
    months.at(1)
    months.answer(model="free")
    months.at(2)
    assert months.invoice(1)["unpriced_tokens"] == MILLION

    answer = administer("price.set", model_id="free", prompt="1", valid_from="2031-01-01")
    assert (answer["ok"], answer["problem"]["code"]) == (False, "month_closed")
    # A class without tokens, a later day, and another list change nothing that was billed.
    months.admin("price.set", model_id="free", completion="1", valid_from="2031-01-01")
    months.admin("price.set", model_id="free", prompt="1", valid_from="2031-02-01")
    months.admin("price.set", model_id="free", prompt="1", valid_from="2031-01-01", price_list="offer")

    assert months.invoice(1)["total"] == "0.00"
    assert (months.invoice(1, price_list="offer")["status"], months.invoice(1, price_list="offer")["total"]) == (
        "pro_forma",
        "1.00",
    )


def test_terms_that_change_later_leave_a_closed_month_and_its_adjustments_alone(months: Months) -> None:
    months.at(1)
    late = months.fail()
    months.answer()
    months.at(2, 1)
    given_out = months.invoice(1)
    months.admin("price.set", model_id="nova-micro", prompt="7", completion="7", price_list="dear")
    limits: dict[str, Any] = {"minute": {}, "daily": {}, "monthly": {}}
    months.admin("tier.set", tier="dear", price_list="dear", limits=limits)
    months.admin("user.update", user_id="alice", tier="dear")
    months.redrive(late, MILLION)

    assert months.invoice(1) == given_out
    assert [(line["kind"], line["price_list"], line["amount"]) for line in months.invoice(2)["lines"]] == [
        ("adjustment", "standard", "1.00")
    ]


def test_an_adjustment_in_another_currency_waits_for_a_month_in_its_own(months: Months) -> None:
    limits: dict[str, Any] = {"minute": {}, "daily": {}, "monthly": {}}
    months.admin(
        "price.set", model_id="nova-micro", prompt="3", completion="3", price_list="euro", currency="EUR",
        valid_from="2031-01-01",
    )  # fmt: skip
    months.admin("tier.set", tier="euro", price_list="euro", limits=limits)
    months.at(1)
    months.answer()
    late = months.fail()
    months.at(2, 1)
    assert months.close() == {"closed": 1, "open": 0}
    months.admin("user.update", user_id="alice", tier="euro")
    months.answer()
    months.redrive(late, 7 * MILLION)
    months.at(3, 1)
    assert months.close() == {"closed": 1, "open": 0}
    assert (months.invoice(2)["currency"], months.invoice(2)["total"]) == ("EUR", "3.00")
    months.at(4, 1)
    assert months.close() == {"closed": 0, "open": 0}, "nothing in March"

    months.admin("user.update", user_id="alice", tier="premium")
    months.answer()
    months.at(5, 1)
    assert months.close() == {"closed": 1, "open": 0}

    assert (months.invoice(4)["currency"], months.invoice(4)["total"]) == ("USD", "8.00")
    assert months.service.value("SELECT count(*) FROM adjustments_due") == 0


def test_a_change_that_changes_nothing_is_due_once(months: Months) -> None:
    months.at(1)
    months.answer()
    late = months.fail()
    months.at(2)
    months.close()
    months.admin("request.redrive", request_id=str(late))
    months.service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    (claim,) = months.service.claim(late)
    months.service.settle(failed(late, claim["attempt"]))
    months.rollup()
    months.at(3)

    assert months.close() == {"closed": 0, "open": 0}
    assert months.service.value("SELECT count(*) FROM adjustments_due") == 0


def test_a_closed_month_keeps_its_breakdown(months: Months) -> None:
    months.at(1)
    months.answer(metadata={f"tag {n}": "x" for n in range(16)} | {"tag 0": "first"})
    late = months.accept(metadata={"tag 0": "second"})
    months.service.settle(failed(late))
    months.at(2)
    given_out = months.invoice(1, by_tag="tag 0")
    months.redrive(late, 2 * MILLION)

    assert months.invoice(1, by_tag="tag 0") == given_out
    assert [(line["tag_value"], line["amount"]) for line in given_out["lines"]] == [("first", "1.00")]
    (line,) = months.invoice(2, by_tag="tag 0")["lines"]
    assert (line["kind"], line["tag_value"], line["amount"]) == ("adjustment", "second", "2.00")
    (line,) = months.invoice(2, by_tag="tag 1")["lines"]
    assert (line["kind"], line["tag_value"], line["amount"]) == ("adjustment", None, "2.00")
    (key,) = {line["key_id"] for line in months.invoice(1, by_key=True)["lines"]}
    assert key == str(months.service.value("SELECT key_id FROM api_keys"))


def test_the_audit_row_names_the_invocation_that_closed_the_month(months: Months) -> None:
    months.at(1)
    months.answer()
    months.at(2)
    months.invoice(1)
    (audited,) = months.service.rows("SELECT actor, invocation FROM audit_log WHERE action = 'statement.closed'")
    assert audited["actor"] == "admin"
    assert audited["invocation"] is not None


def test_statements_and_what_they_billed_cannot_be_changed(months: Months) -> None:
    months.at(1)
    months.answer()
    months.at(2)
    months.invoice(1)
    for table in ("statements", "billed_usage"):
        for statement in (f"UPDATE {table} SET user_id = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                months.service.owner.execute(statement)
        assert months.service.value("SELECT has_table_privilege('sluice_definer', %s, 'UPDATE')", table) is False


def test_a_month_is_closed_once_by_many_at_the_same_time(months: Months) -> None:
    months.at(1)
    months.answer()
    late = months.fail()
    months.at(2)
    reports = [months.service.maintenance().statements for _ in range(8)]

    def close_it(n: int) -> Any:
        return close_month(reports[n], "alice", datetime(2031, 1, 1, tzinfo=UTC).date(), actor="admin")

    def redrive() -> None:
        months.service.act("request.redrive", request_id=str(late), ttl_seconds=60, max_attempts=1, dry_run=False)

    found = run_concurrently([*[lambda n=n: close_it(n) for n in range(8)], redrive])

    # Before the redrive or, as the month has an unfinished request then, not at all.
    assert len({str(document) for document in found[:8] if document is not None}) <= 1
    assert months.service.value("SELECT count(*) FROM statements") <= 1
    months.service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    (claim,) = months.service.claim(late)
    months.service.settle(completed(late, claim["attempt"], prompt_tokens=MILLION, completion_tokens=0))
    totals = [Decimal(months.invoice(month)["total"]) for month in (1, 2)]
    assert sum(totals) == 2


def test_an_invoice_of_a_month_without_anything_closes_nothing(months: Months) -> None:
    months.at(2)
    assert (months.invoice(1)["status"], months.invoice(1)["lines"]) == ("final", [])
    assert months.service.value("SELECT count(*) FROM statements") == 0
    problem = administer("invoice.get", user_id="nobody", month="2031-01")["problem"]
    assert problem["code"] == "user_not_found"
