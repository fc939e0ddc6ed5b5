"""Verification finds cached and reasoning tokens that do not add up: one error at a time is injected."""

import pytest

from tests.support.books import Books
from tests.support.wrongs.wrong import wrong

JANUARY = "user_id = 'alice' AND model_id = 'small' AND {} = '2031-01-30'"
BY_DAY = f"UPDATE usage_by_model SET {{0}} = {{0}} + 1 WHERE period = 'daily' AND {JANUARY.format('period_start')}"

WRONGS = {
    "a cached token too much in a day": wrong(
        BY_DAY.format("cached_tokens"),
        ("usage_is_the_sum", "alice", "2031-01-30 small"),
        ("usage_adds_up", "alice", "monthly 2031-01-01 small"),
        unseen=True,
    ),
    "a reasoning token too much in a day": wrong(
        BY_DAY.format("reasoning_tokens"),
        ("usage_is_the_sum", "alice", "2031-01-30 small"),
        ("usage_adds_up", "alice", "monthly 2031-01-01 small"),
        unseen=True,
    ),
    "a cached token too few in a month": wrong(
        "UPDATE usage_by_model SET cached_tokens = 4 WHERE user_id = 'alice' AND model_id = 'small' AND period = 'monthly'",
        ("usage_adds_up", "alice", "monthly 2031-01-01 small"),
        unseen=True,
    ),
    "a cached token of a key": wrong(
        f"UPDATE usage_by_attribute SET cached_tokens = 4 WHERE attribute = 'key' AND {JANUARY.format('day')}",
        ("keys_add_up", "alice", "2031-01-30 small"),
        unseen=True,
    ),
    "a reasoning token of a tag": wrong(
        "UPDATE usage_by_attribute SET reasoning_tokens = 1 WHERE attribute = 'tag:project'",
        ("tags_add_up", "erin", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "a cached token of the request": wrong(
        "UPDATE requests SET cached_tokens = 1 WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
    ),
    "no reasoning tokens of the request": wrong(
        "UPDATE requests SET reasoning_tokens = NULL WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
    ),
    "other cached tokens in the audit row": wrong(
        "UPDATE audit_log SET after = after || '{\"cached_tokens\": 4}'"
        " WHERE request_id = %(overrun)s AND action = 'request.completed'",
        ("request_settled_once", "alice", "overrun"),
        unseen=True,
    ),
    "a cached token of a prompt that is not known": wrong(
        "UPDATE requests SET cached_tokens = 1 WHERE request_id = %(waiting)s",
        ("rows_as_declared", "alice", "waiting"),
        ("request_settled_once", "alice", "waiting"),
        ("usage_is_the_sum", "alice", "2031-02-02 nova-micro"),
    ),
    "more reasoning than was written": wrong(
        "UPDATE requests SET reasoning_tokens = 4 WHERE request_id = %(today)s",
        ("rows_as_declared", "alice", "today"),
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
    ),
    "cached tokens that were billed as others": wrong(
        "UPDATE billed_usage SET cached_tokens = 0 WHERE attribute = '' AND user_id = 'alice'",
        ("statement_is_kept", "alice", "2031-01"),
    ),
}


@pytest.mark.parametrize("case", WRONGS)
def test_only_the_injected_violation_is_found(untouched: Books, case: str) -> None:
    untouched.run(WRONGS[case].sql)

    assert untouched.found() == WRONGS[case].full
    assert untouched.found(every=False) == WRONGS[case].incremental


def test_a_violation_names_the_parts(untouched: Books) -> None:
    untouched.run(WRONGS["a cached token of a key"].sql)
    (found,) = untouched.verify(full=True)["violations"]
    assert found["expected"].endswith("prompt tokens 20 (cached 5), completion tokens 30 (reasoning 6)")
    assert found["actual"].endswith("prompt tokens 20 (cached 4), completion tokens 30 (reasoning 6)")
