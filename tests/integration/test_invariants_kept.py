"""Verification accepts legal states: lowered limits, overruns, midnights, archived months, clocks set back."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from sluice.domain.errors import SluiceError
from tests.support.books import PERIODS, Books
from tests.support.ledger import (
    assert_books_balance,
)
from tests.support.service import Service, completed, failed, retry

TINY = {period: {"max_requests": 1, "max_tokens": 1} for period in PERIODS}


def lower_for_the_user(service: Service) -> None:
    service.act("quota.set", user_id="alice", limits=TINY)


def lower_for_the_tier(service: Service) -> None:
    service.act("tier.set", tier="premium", limits=TINY)


def lower_by_another_tier(service: Service) -> None:
    service.act("tier.set", tier="tiny", limits=TINY)
    service.act("user.update", user_id="alice", tier="tiny")


def lower_by_clearing_what_was_raised(service: Service) -> None:
    service.act("quota.set", user_id="alice", limits={period: {"max_tokens": 10**9} for period in PERIODS})
    service.act("tier.set", tier="premium", limits=TINY)
    service.act("quota.clear", user_id="alice")


LOWERINGS = [lower_for_the_user, lower_for_the_tier, lower_by_another_tier, lower_by_clearing_what_was_raised]


@pytest.mark.parametrize("lower", LOWERINGS)
def test_a_limit_may_be_lowered_below_what_is_used(books: Books, lower: Callable[[Service], None]) -> None:
    lower(books.service)

    assert_books_balance(books.service)
    with pytest.raises(SluiceError, match="quota"):
        books.accept("too_late", "alice")
    books.claim("waiting")
    books.service.settle(completed(books.ids["waiting"]))
    assert_books_balance(books.service)


def test_a_limit_lowered_in_an_earlier_period_does_not_excuse_this_one(books: Books) -> None:
    lower_for_the_user(books.service)
    books.service.act(
        "quota.set", user_id="alice", limits={period: {"max_requests": 9, "max_tokens": 2000} for period in PERIODS}
    )
    books.at(2031, 3, 1, 12)
    books.accept("march", "alice")
    assert_books_balance(books.service)

    books.run("UPDATE quotas SET max_requests = 0 WHERE user_id = 'alice'")

    assert books.found() == {(i, "alice", None, p) for i in ("quota_within_limit", "plan_is_whole") for p in PERIODS}


def test_a_reported_overrun_is_excused_exactly(books: Books) -> None:
    reserved = len("hello") + 10 + 1
    state = books.service.rows("SELECT * FROM quota_state('carol', clock_now())")
    used = {row["quota_period"]: row["tokens_used"] + row["tokens_reserved"] for row in state}
    books.service.act(
        "quota.set", user_id="carol", limits={period: {"max_tokens": used[period] + reserved} for period in PERIODS}
    )
    books.at(2031, 2, 2, 12, 0, 31)
    books.answer("longer", "carol", model="small", prompt_tokens=reserved, completion_tokens=30)

    assert_books_balance(books.service)
    with pytest.raises(SluiceError, match="used up"):
        books.accept("too_late", "carol", "small")
    # Forget the earlier limit, so that only the overrun is an excuse.
    books.run("UPDATE audit_log SET before = after WHERE user_id = 'carol' AND action = 'quota.changed'")
    assert_books_balance(books.service)
    books.run("UPDATE quotas SET max_tokens = max_tokens - 1 WHERE user_id = 'carol'")
    books.run(
        "UPDATE audit_log SET before = l, after = l FROM (SELECT quota_limits('carol')) AS now (l) WHERE user_id = 'carol' AND action = 'quota.changed'"
    )
    assert books.found() == {("quota_within_limit", "carol", None, period) for period in PERIODS}


def test_requests_across_midnight_and_month_end_balance(books: Books) -> None:
    books.at(2031, 2, 3)
    books.recover()
    books.at(2031, 2, 28, 23, 59, 59)
    for name in ("early", "never", "again"):
        books.accept(name, "dora")
    books.claim("early", "again")
    for when in ((2031, 3, 1), (2031, 3, 1, 0, 0, 1)):
        books.at(*when)
        assert_books_balance(books.service)
    books.service.settle(completed(books.ids["early"]), retry(books.ids["again"], after=1))
    assert_books_balance(books.service)
    books.answer("march", "dora")
    assert_books_balance(books.service)
    books.at(2031, 3, 1, 0, 59, 59)
    books.recover()
    books.rollup()

    assert_books_balance(books.service)
    usage = books.service.rows(
        "SELECT period_start::text AS day, requests_count FROM usage WHERE user_id = 'dora' AND period = 'daily' ORDER BY 1"
    )
    assert [(row["day"], row["requests_count"]) for row in usage] == [
        ("2031-01-30", 1),
        ("2031-02-28", 3),
        ("2031-03-01", 1),
    ]


def test_a_settlement_long_after_its_periods_balances(books: Books) -> None:
    books.at(2031, 2, 20, 12)
    books.answer("later", "bob")
    (row,) = books.service.settle(completed(books.ids["forgotten"]))
    assert row["kind"] == "settled"

    assert_books_balance(books.service)
    books.service.settle(completed(books.ids["forgotten"]))
    books.service.settle(failed(books.ids["forgotten"]))
    assert_books_balance(books.service)


def test_a_claim_lost_a_month_ago_is_ended(books: Books) -> None:
    """For example after schedules were disabled or a backup was restored."""
    books.at(2031, 3, 15, 12)
    assert books.recover() == {"requeued": 0, "failed": 2, "expired": 1, "cancelled": 0}
    assert_books_balance(books.service)


def test_a_clock_that_was_set_back_leaves_the_books_balanced(books: Books) -> None:
    books.at(2031, 3, 1, 0, 0, 1)
    books.accept("ahead", "alice")
    books.at(2031, 2, 28, 23, 59, 58)
    books.answer("back", "alice")
    books.claim("ahead")
    books.service.settle(completed(books.ids["ahead"]))

    assert_books_balance(books.service)
    assert books.service.value("SELECT created_at FROM requests WHERE request_id = %s", books.ids["back"]) >= datetime(
        2031, 3, 1, tzinfo=UTC
    )
    books.at(2031, 3, 1, 0, 0, 2)
    books.accept("on_time", "alice")
    assert_books_balance(books.service)


def test_archived_months_balance_and_are_verified(books: Books) -> None:
    books.at(2031, 2, 3)
    books.recover()
    books.at(2031, 5, 15, 12)
    archived = books.service.rows("SELECT archive_months(30) AS name")
    assert {"requests_y2031m01", "requests_y2031m02"} <= {row["name"] for row in archived}
    assert_books_balance(books.service)
    assert books.service.value("SELECT count(*) FROM requests") == 0
    (late,) = books.service.settle(completed(books.ids["answered"], 2))
    assert late["kind"] == "superseded"
    books.rollup()
    assert_books_balance(books.service)

    books.run("UPDATE requests_archive SET prompt_tokens = 8, total_tokens = 11 WHERE request_id = %(answered)s")

    assert books.found() == {
        ("request_settled_once", "alice", "answered", None),
        ("usage_is_the_sum", "alice", None, "2031-01-30 nova-micro"),
    }


def test_late_or_repeated_rollups_balance(books: Books) -> None:
    for _ in range(2):
        books.rollup()
        assert_books_balance(books.service)
    books.answer("another", "alice", model="small")
    assert_books_balance(books.service)
    books.rollup()
    assert_books_balance(books.service)
