"""Verification finds and names every kind of error: one at a time is injected."""

import re

import pytest

from tests.support.books import Books
from tests.support.ledger import (
    assert_books_balance,
)
from tests.support.wrongs.counters import COUNTERS
from tests.support.wrongs.requests import REQUESTS
from tests.support.wrongs.usage import USAGE

WRONGS = COUNTERS | USAGE | REQUESTS


def test_a_healthy_history_balances(books: Books) -> None:
    assert_books_balance(books.service)
    assert books.verify(full=True)["balanced"]
    checked = books.service.value("SELECT checked FROM ledger_verify(true)")
    assert checked == {"quotas": 15, "requests": len(books.ids) - 1, "inflight": 3}


@pytest.mark.parametrize("case", WRONGS)
def test_only_the_injected_violation_is_found(untouched: Books, case: str) -> None:
    untouched.run(WRONGS[case].sql)

    assert untouched.found() == WRONGS[case].full
    assert untouched.found(every=False) == WRONGS[case].incremental


def test_each_invariant_has_a_case_that_breaks_it_alone(untouched: Books) -> None:
    """Otherwise an invariant could be dropped or never fail unnoticed."""
    source = untouched.service.value("SELECT prosrc FROM pg_proc WHERE proname = 'ledger_verify'")
    alone = {min(names) for names in ({v[0] for v in case.full} for case in WRONGS.values()) if len(names) == 1}
    assert alone == set(re.findall(r"SELECT '(\w+)'", source))
    assert len(alone) == 17
