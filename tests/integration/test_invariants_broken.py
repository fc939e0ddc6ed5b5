"""Verification finds and names every kind of error: one at a time is injected."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.books import PERIODS, Books, Violation
from tests.support.ledger import (
    assert_books_balance,
)

# A violation in short form: invariant, user, and requests or periods.
Short = tuple[str, str | None, *tuple[str | None, ...]]


@dataclass(frozen=True)
class Wrong:
    """An injected error, and the violations that a full and an incremental check find."""

    sql: str
    full: frozenset[Violation]
    incremental: frozenset[Violation]


def wrong(
    sql: str,
    *found: Short,
    unseen: bool = False,
    seen: tuple[Short, ...] | None = None,
) -> Wrong:
    """Describe an injected error.

    Args:
        sql: what injects it.
        found: violations as (invariant, user, request or period, ...).
        unseen: an incremental check does not find it.
        seen: what an incremental check finds, if not the same.
    """
    every = frozenset(violation for short in found for violation in expanded(*short))
    part = (
        frozenset() if unseen else every if seen is None else frozenset(v for short in seen for v in expanded(*short))
    )
    return Wrong(sql, every, part)


def expanded(invariant: str, user: str | None, *where: str | None) -> Iterator[Violation]:
    of_request = invariant in {
        "request_settled_once",
        "inflight_is_what_is_unfinished",
        "result_is_kept",
        "object_is_kept",
        "rows_as_declared",
    }
    for each in where:
        yield (invariant, user, each, None) if of_request else (invariant, user, None, each)


ANSWERED = "request_id = %(answered)s"
COPY_AUDIT = (
    "INSERT INTO audit_log (audit_id, at, xact_id, actor, action, user_id, key_id, request_id, before, after)"
    " SELECT uuidv7(), at, {xact_id}, actor, action, user_id, key_id, request_id, before, after FROM audit_log"
    " WHERE request_id = %(answered)s AND action = '{action}'"
)

WRONGS = {
    # 0. a plan, three counters, terms; limits as they were set
    "a plan gone": wrong(
        "DELETE FROM quota_plans WHERE user_id = 'dora'",
        ("plan_is_whole", "dora", None),
    ),
    "a counter gone": wrong(
        "DELETE FROM quotas WHERE user_id = 'dora' AND quota_period = 'minute'",
        ("plan_is_whole", "dora", None),
    ),
    "terms of billing gone": wrong(
        "DELETE FROM billing_terms WHERE user_id = 'carol'",
        ("plan_is_whole", "carol", None),
    ),
    "more unfinished requests than the tier allows": wrong(
        "UPDATE quota_plans SET max_unfinished = max_unfinished + 1 WHERE user_id = 'bob'",
        ("plan_is_whole", "bob", None),
    ),
    "a limit raised past the audit log": wrong(
        "UPDATE quotas SET max_tokens = max_tokens + 1 WHERE user_id = 'bob' AND quota_period = 'monthly'",
        ("plan_is_whole", "bob", "monthly"),
    ),
    "a limit of one's own that nobody has set": wrong(
        "UPDATE quotas SET max_tokens = NULL, is_override = true WHERE user_id = 'bob' AND quota_period = 'daily'",
        ("plan_is_whole", "bob", "daily"),
    ),
    "more unfinished requests of one's own than anybody has set": wrong(
        "UPDATE quota_plans SET max_unfinished = 1000000, is_override = true WHERE user_id = 'bob'",
        ("plan_is_whole", "bob", None),
    ),
    "a minute longer than others": wrong(
        "UPDATE quotas SET reset_at = reset_at + interval '1 minute' WHERE user_id = 'bob' AND quota_period = 'minute'",
        ("plan_is_whole", "bob", "minute"),
    ),
    # 1. used + reserved <= limit
    "a limit that was always so low, as the audit log has it": wrong(
        "WITH a AS (UPDATE quotas SET max_requests = 1, is_override = true WHERE user_id = 'alice' AND quota_period = 'daily')"
        " INSERT INTO audit_log (actor, action, user_id, before, after)"
        " SELECT 'admin', 'quota.changed', 'alice', l, l"
        " FROM (SELECT jsonb_set(quota_limits('alice'), '{limits,daily,max_requests}', '1') AS l) AS limits",
        ("quota_within_limit", "alice", "daily"),
    ),
    "a request limit lowered past the audit log": wrong(
        "UPDATE quotas SET max_requests = 1 WHERE user_id = 'alice' AND quota_period = 'daily'",
        ("quota_within_limit", "alice", "daily"),
        ("plan_is_whole", "alice", "daily"),
    ),
    "a token limit lowered past the audit log": wrong(
        "UPDATE quotas SET max_tokens = tokens_used + tokens_reserved - 1 WHERE user_id = 'bob' AND quota_period = 'monthly'",
        ("quota_within_limit", "bob", "monthly"),
        ("plan_is_whole", "bob", "monthly"),
    ),
    "a limit lowered in a period that is over": wrong(
        "UPDATE quotas SET max_requests = 0 WHERE user_id = 'dora' AND quota_period = 'daily'",
        ("quota_within_limit", "dora", "daily"),
        ("plan_is_whole", "dora", "daily"),
        seen=(("plan_is_whole", "dora", "daily"),),
    ),
    # 2. reserved = the sum
    "a token too much reserved": wrong(
        "UPDATE quotas SET tokens_reserved = tokens_reserved + 1 WHERE user_id = 'alice' AND quota_period = 'minute'",
        ("quota_reserved_is_the_sum", "alice", "minute"),
    ),
    "a token too few reserved": wrong(
        "UPDATE quotas SET tokens_reserved = tokens_reserved - 1 WHERE user_id = 'bob' AND quota_period = 'monthly'",
        ("quota_reserved_is_the_sum", "bob", "monthly"),
    ),
    "a token reserved for nobody in a period that is over": wrong(
        "UPDATE quotas SET tokens_reserved = 1 WHERE user_id = 'dora' AND quota_period = 'daily'",
        ("quota_reserved_is_the_sum", "dora", "daily"),
        unseen=True,
    ),
    # 3. used = the sum
    "a request too much counted": wrong(
        "UPDATE quotas SET requests_used = requests_used + 1 WHERE user_id = 'carol' AND quota_period = 'daily'",
        ("quota_used_is_the_sum", "carol", "daily"),
    ),
    "a request too few counted": wrong(
        "UPDATE quotas SET requests_used = requests_used - 1 WHERE user_id = 'bob' AND quota_period = 'minute'",
        ("quota_used_is_the_sum", "bob", "minute"),
    ),
    "a token too few counted": wrong(
        "UPDATE quotas SET tokens_used = tokens_used - 1 WHERE user_id = 'carol' AND quota_period = 'monthly'",
        ("quota_used_is_the_sum", "carol", "monthly"),
    ),
    "a token too much counted in a period that is over": wrong(
        "UPDATE quotas SET tokens_used = tokens_used + 1 WHERE user_id = 'dora' AND quota_period = 'minute'",
        ("quota_used_is_the_sum", "dora", "minute"),
        unseen=True,
    ),
    # 4. usage by model and day = the sum
    "a token too much in the usage of a model": wrong(
        "UPDATE usage_by_model SET prompt_tokens = prompt_tokens + 1"
        " WHERE user_id = 'carol' AND period = 'daily' AND period_start = '2031-02-01'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        ("usage_adds_up", "carol", "daily 2031-02-01", "monthly 2031-02-01 nova-micro"),
        seen=(("usage_adds_up", "carol", "daily 2031-02-01", "monthly 2031-02-01 nova-micro"),),
    ),
    "a token moved from prompts to answers": wrong(
        "UPDATE usage_by_model SET prompt_tokens = prompt_tokens + 1, completion_tokens = completion_tokens - 1"
        " WHERE user_id = 'alice' AND period = 'daily' AND period_start = '2031-01-30' AND model_id = 'small'",
        ("usage_is_the_sum", "alice", "2031-01-30 small"),
        ("usage_adds_up", "alice", "monthly 2031-01-01 small"),
        unseen=True,
    ),
    "a request too much in all of a day's and a month's usage alike": wrong(
        "WITH a AS (UPDATE usage SET requests_count = requests_count + 1 WHERE user_id = 'carol' AND period_start = '2031-02-01')"
        " UPDATE usage_by_model SET requests_count = requests_count + 1 WHERE user_id = 'carol' AND period_start = '2031-02-01'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        unseen=True,
    ),
    "the usage of a day gone": wrong(
        "WITH a AS (DELETE FROM usage_by_model WHERE user_id = 'carol' AND period_start = '2031-02-01')"
        " DELETE FROM usage WHERE user_id = 'carol' AND period_start = '2031-02-01'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        unseen=True,
    ),
    "usage of nothing": wrong(
        "INSERT INTO usage_by_model (user_id, model_id, period, period_start, requests_count)"
        " VALUES ('dora', 'small', 'daily', '2031-02-02', 1)",
        ("usage_is_the_sum", "dora", "2031-02-02 small"),
        ("usage_adds_up", "dora", "daily 2031-02-02", "monthly 2031-02-01 small"),
    ),
    "a rollup that left something out": wrong(
        "UPDATE rollup_watermarks SET xact_id = (SELECT max(xact_id) FROM audit_log WHERE request_id = %(today)s) + 1"
        " WHERE task = 'usage'",
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
        ("usage_is_the_sum", "erin", "2031-02-02 nova-micro"),
    ),
    "a rollup that counted something twice": wrong(
        "UPDATE rollup_watermarks SET xact_id = (SELECT max(xact_id) FROM audit_log WHERE request_id = %(february)s)"
        " WHERE task = 'usage'",
        ("usage_is_the_sum", "carol", "2031-02-01 nova-micro"),
        unseen=True,
    ),
    # 5. usage = the sum of its parts
    "a token too much in the usage of a day": wrong(
        "UPDATE usage SET tokens_used = tokens_used + 1 WHERE user_id = 'carol' AND period = 'daily' AND period_start = '2031-02-01'",
        ("usage_adds_up", "carol", "daily 2031-02-01"),
    ),
    "a request too few in the usage of a month": wrong(
        "UPDATE usage SET requests_count = requests_count - 1 WHERE user_id = 'carol' AND period = 'monthly' AND period_start = '2031-02-01'",
        ("usage_adds_up", "carol", "monthly 2031-02-01"),
    ),
    "a token too much in the usage of a model in a month that is over": wrong(
        "UPDATE usage_by_model SET completion_tokens = completion_tokens + 1"
        " WHERE user_id = 'bob' AND period = 'monthly' AND model_id = 'small'",
        ("usage_adds_up", "bob", "monthly 2031-01-01", "monthly 2031-01-01 small"),
        unseen=True,
    ),
    # 6. accepted once, settled once, as audited
    "no audit row of a settlement": wrong(
        f"DELETE FROM audit_log WHERE {ANSWERED} AND action = 'request.completed'",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "no audit row of an acceptance": wrong(
        "DELETE FROM audit_log WHERE request_id = %(expired)s AND action = 'request.queued'",
        ("request_settled_once", "alice", "expired"),
        unseen=True,
    ),
    "no audit row of a settlement of today": wrong(
        "DELETE FROM audit_log WHERE request_id = %(today)s AND action = 'request.completed'",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
    ),
    "a second audit row of a settlement": wrong(
        COPY_AUDIT.format(xact_id="xact_id", action="request.completed"),
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "a second settlement": wrong(
        COPY_AUDIT.format(xact_id="pg_current_xact_id()::text::bigint", action="request.completed"),
        ("request_settled_once", "alice", "answered"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro"),
    ),
    "a second acceptance": wrong(
        COPY_AUDIT.format(xact_id="pg_current_xact_id()::text::bigint", action="request.queued"),
        ("request_settled_once", "alice", "answered"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro"),
    ),
    "a settlement of another kind, audited for an unfinished request": wrong(
        "UPDATE audit_log SET action = 'request.failed' WHERE request_id = %(running)s AND action = 'request.processing'",
        ("request_settled_once", "bob", "running"),
    ),
    "other tokens in the audit row": wrong(
        f"UPDATE audit_log SET after = after || '{{\"prompt_tokens\": 8}}' WHERE {ANSWERED} AND action = 'request.completed'",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "another status in the audit row": wrong(
        "UPDATE audit_log SET after = after || '{\"status\": \"cancelled\"}' WHERE request_id = %(rejected)s AND action = 'request.failed'",
        ("request_settled_once", "carol", "rejected"),
    ),
    "another status of the request": wrong(
        "UPDATE requests SET status = 'cancelled', error_code = 'x' WHERE request_id = %(refused)s",
        ("request_settled_once", "bob", "refused"),
        unseen=True,
    ),
    "another model of the request": wrong(
        "UPDATE requests SET model_id = 'small' WHERE request_id = %(expired)s",
        ("request_settled_once", "alice", "expired"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro", "2031-01-30 small"),
        unseen=True,
    ),
    "another key of the request": wrong(
        f"UPDATE requests SET key_id = NULL WHERE {ANSWERED}",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "another reservation of the request": wrong(
        f"UPDATE requests SET reserved_tokens = reserved_tokens - 1 WHERE {ANSWERED}",
        ("request_settled_once", "alice", "answered"),
        unseen=True,
    ),
    "a token of the request moved from the prompt to the answer": wrong(
        "UPDATE requests SET prompt_tokens = prompt_tokens - 1, completion_tokens = completion_tokens + 1 WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
    ),
    "other tokens of the request": wrong(
        f"UPDATE requests SET prompt_tokens = 8, total_tokens = 11 WHERE {ANSWERED}",
        ("request_settled_once", "alice", "answered"),
        ("usage_is_the_sum", "alice", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "other tokens of a request of today": wrong(
        "UPDATE requests SET prompt_tokens = 8, total_tokens = 11 WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("usage_is_the_sum", "alice", "2031-02-02 small"),
        ("quota_used_is_the_sum", "alice", *PERIODS),
    ),
    "another user of the request": wrong(
        "UPDATE requests SET user_id = 'dora' WHERE request_id = %(refused)s",
        ("request_settled_once", "dora", "refused"),
        ("usage_is_the_sum", "bob", "2031-01-30 nova-micro"),
        ("usage_is_the_sum", "dora", "2031-01-30 nova-micro"),
        ("quota_used_is_the_sum", "dora", *PERIODS),
        unseen=True,
    ),
    "a request gone": wrong(
        "DELETE FROM requests WHERE request_id = %(refused)s",
        ("request_settled_once", "bob", "refused"),
        ("usage_is_the_sum", "bob", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "a request of today gone": wrong(
        "DELETE FROM requests WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
        ("result_is_kept", None, "today"),
        ("quota_used_is_the_sum", "alice", *PERIODS),
        seen=(("result_is_kept", None, "today"), ("quota_used_is_the_sum", "alice", *PERIODS)),
    ),
    "a request that nobody accepted": wrong(
        "INSERT INTO requests (request_id, user_id, model_id, status, created_at, updated_at, completed_at, error_code,"
        " estimated_tokens, reserved_tokens) SELECT %(unaccepted)s, 'alice', 'small', 'failed', t, t, t, 'x', 1, 1"
        " FROM uuid_extract_timestamp(%(unaccepted)s) AS t",
        ("request_settled_once", "alice", "unaccepted"),
        ("usage_is_the_sum", "alice", "2031-01-30 small"),
        unseen=True,
    ),
    # 7. an inflight row for every unfinished request, and no other
    "a request forgotten": wrong(
        "DELETE FROM inflight WHERE request_id = %(forgotten)s",
        ("inflight_is_what_is_unfinished", "bob", "forgotten"),
        unseen=True,
    ),
    "a request of today forgotten": wrong(
        "DELETE FROM inflight WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
        ("quota_reserved_is_the_sum", "alice", *PERIODS),
    ),
    "a finished request in flight": wrong(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (%(answered)s, 'alice', 3, now())",
        ("inflight_is_what_is_unfinished", "alice", "answered"),
    ),
    "nothing in flight": wrong(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (%(unaccepted)s, 'alice', 3, now())",
        ("inflight_is_what_is_unfinished", "alice", "unaccepted"),
    ),
    "another attempt in flight": wrong(
        "UPDATE inflight SET attempt = 2 WHERE request_id = %(running)s",
        ("inflight_is_what_is_unfinished", "bob", "running"),
    ),
    "another state in flight": wrong(
        "UPDATE inflight SET status = 'queued', lease_until = NULL WHERE request_id = %(forgotten)s",
        ("inflight_is_what_is_unfinished", "bob", "forgotten"),
    ),
    "another user in flight": wrong(
        "UPDATE inflight SET user_id = 'dora' WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "dora", "waiting"),
    ),
    "another attempt of the request": wrong(
        "UPDATE requests SET attempts = 2 WHERE request_id = %(running)s",
        ("inflight_is_what_is_unfinished", "bob", "running"),
    ),
    "another state of the request": wrong(
        "UPDATE requests SET status = 'processing' WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
    ),
    "a request ended past the door": wrong(
        "UPDATE requests SET status = 'cancelled', completed_at = created_at WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
        ("request_settled_once", "alice", "waiting"),
    ),
    "a prompt gone": wrong(
        "DELETE FROM prompts WHERE request_id = %(forgotten)s",
        ("inflight_is_what_is_unfinished", "bob", "forgotten"),
    ),
    "webhooks that nobody looks for": wrong(
        "INSERT INTO webhook_endpoints (user_id, url, name, event_types, secret, created_at, updated_at)"
        " VALUES ('erin', 'https://example.com', 'x', '{}', 'whsec_x', clock_now(), clock_now())",
        ("plan_is_whole", "erin", None),
    ),
    # 8. budgets: used and reserved are the sums, within the limit
    "an amount that nobody spent": wrong(
        "UPDATE budgets SET amount_used = amount_used + 0.0000001", ("budget_is_the_sum", "erin", "monthly budget")
    ),
    "an amount reserved twice": wrong(
        "UPDATE budgets SET amount_reserved = amount_reserved + 0.0000001",
        ("budget_is_the_sum", "erin", "monthly budget"),
    ),
    "budgets that submit does not look at": wrong(
        "UPDATE quota_plans SET has_budgets = false WHERE user_id = 'erin'", ("budget_is_the_sum", "erin", None)
    ),
    "a budget lowered past the audit log": wrong(
        "UPDATE budgets SET max_amount = amount_used / 2", ("budget_within_limit", "erin", "monthly budget")
    ),
    # 9. usage by key is usage, usage by tag that of the requests with the tag
    "another key's token": wrong(
        "UPDATE usage_by_attribute SET prompt_tokens = prompt_tokens + 1 WHERE user_id = 'carol' AND day = '2031-01-30'",
        ("keys_add_up", "carol", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "usage by key gone": wrong(
        "DELETE FROM usage_by_attribute WHERE attribute = 'key' AND user_id = 'erin'",
        ("keys_add_up", "erin", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "a tag's token": wrong(
        "UPDATE usage_by_attribute SET prompt_tokens = prompt_tokens - 1 WHERE attribute = 'tag:project'",
        ("tags_add_up", "erin", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    "usage by tag gone": wrong(
        "DELETE FROM usage_by_attribute WHERE attribute = 'tag:project'",
        ("tags_add_up", "erin", "2031-01-30 nova-micro"),
        unseen=True,
    ),
    # 10. statements are those that were audited, and what they billed adds up
    "another total": wrong(
        "UPDATE statements SET document = document || '{\"total\": \"0.00001\"}' WHERE user_id = 'alice'",
        ("statement_is_kept", "alice", "2031-01"),
    ),
    "a statement gone": wrong(
        "DELETE FROM statements WHERE user_id = 'alice'", ("statement_is_kept", "alice", "2031-01")
    ),
    "a statement that nobody gave out": wrong(
        "INSERT INTO statements (user_id, month, document, digest, closed_at)"
        " SELECT 'bob', month, document, digest, closed_at FROM statements WHERE user_id = 'dora'",
        ("statement_is_kept", "bob", "2031-01"),
    ),
    "a token that was billed and is not in the statement": wrong(
        "UPDATE billed_usage SET prompt_tokens = prompt_tokens + 1 WHERE user_id = 'dora'",
        ("statement_is_kept", "dora", "2031-01"),
    ),
    # 10a. a request that asks for others is unfinished, and so is whom one follows
    "a question that nobody asks any more": wrong(
        "INSERT INTO answer_cache (user_id, fingerprint, cache_scope, model_id, leader_id)"
        " SELECT user_id, sha256('x'), cache_scope_of_all(), model_id, request_id FROM requests"
        " WHERE request_id = %(today)s",
        ("inflight_is_what_is_unfinished", "alice", "today"),
    ),
    "a request that waits for nobody": wrong(
        "UPDATE inflight SET follows = %(today)s, dispatched_at = NULL WHERE request_id = %(waiting)s",
        ("inflight_is_what_is_unfinished", "alice", "waiting"),
    ),
    # 10b. what is charged by model adds up, and is in the attempts
    "a charge without a call": wrong(
        "UPDATE requests SET charges = jsonb_build_array(jsonb_build_object('model_id', model_id,"
        " 'prompt_tokens', prompt_tokens, 'completion_tokens', completion_tokens, 'cached_tokens', cached_tokens,"
        " 'reasoning_tokens', reasoning_tokens)) WHERE request_id = %(today)s",
        ("request_settled_once", "alice", "today"),
    ),
    "a charge that is not written down": wrong(
        "INSERT INTO attempts (request_id, attempt, call, model_id, backend, prompt_tokens, completion_tokens,"
        " is_charged, begun_at, ended_at) VALUES (%(today)s, 1, 1, 'small', 'bedrock', 1, 1, true, now(), now())",
        ("request_settled_once", "alice", "today"),
    ),
    "an object of nobody's input": wrong(
        "INSERT INTO objects (object_id, object_class, user_id, request_id, key, mime_type, byte_length, sha256)"
        " VALUES (%(unaccepted)s, 'inputs', 'alice', %(today)s, 'inputs/x', 'x', 1, sha256(''))",
        ("object_is_kept", "alice", "today"),
    ),
    # 11. every completed request has its result
    "a result gone": wrong(
        f"DELETE FROM results WHERE {ANSWERED}", ("result_is_kept", "alice", "answered"), unseen=True
    ),
    "a result of today gone": wrong(
        "DELETE FROM results WHERE request_id = %(today)s", ("result_is_kept", "alice", "today")
    ),
    "a result of another request": wrong(
        f"UPDATE results SET request_id = %(once)s WHERE {ANSWERED}",
        ("result_is_kept", "alice", "answered"),
        ("result_is_kept", "dora", "once"),
        seen=(("result_is_kept", "dora", "once"),),
    ),
    "a second result": wrong(
        "INSERT INTO results (result_id, request_id, output) VALUES (%(unaccepted)s, %(today)s, '{\"items\": []}')",
        ("result_is_kept", "alice", "today"),
    ),
    "a result of a request that failed": wrong(
        "INSERT INTO results (result_id, request_id, output) VALUES (%(unaccepted)s, %(rejected)s, '{\"items\": []}')",
        ("result_is_kept", "carol", "rejected"),
    ),
    "another result of the request": wrong(
        "UPDATE requests SET result_id = uuidv7() WHERE request_id = %(today)s",
        ("result_is_kept", "alice", "today"),
    ),
    "an answer of another user in the cache": wrong(
        "INSERT INTO answer_cache (user_id, fingerprint, cache_scope, model_id, request_id, result_id, answered_at)"
        " SELECT 'bob', sha256('x'), cache_scope_of_all(), model_id, request_id, result_id, completed_at"
        " FROM requests WHERE request_id = %(today)s",
        ("result_is_kept", "bob", "today"),
    ),
    # 12. rows are as their tables declare them, though PostgreSQL does not enforce it
    "a request that was started before it was accepted": wrong(
        f"UPDATE requests SET started_at = created_at - interval '1 day' WHERE {ANSWERED}",
        ("rows_as_declared", "alice", "answered"),
        unseen=True,
    ),
    "more lost attempts than failed ones": wrong(
        "UPDATE inflight SET lost_attempts = failed_attempts + 1 WHERE request_id = %(waiting)s",
        ("rows_as_declared", "alice", "waiting"),
    ),
}


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
    assert len(alone) == 16
