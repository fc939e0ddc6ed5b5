"""The proof is proved: whatever is wrong in the books is found and named, and what is right is not called wrong."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from sluice.db.connection import Connection, Row
from sluice.db.queries import query
from sluice.errors import SluiceError
from sluice.services import rollup
from sluice.services.verify import verify
from tests.support.ledger import (
    SMALL,
    assert_books_balance,
    at_once,
    cancelled,
    seal,
    set_clock,
    settled_down,
    stop_the_clock,
    violations,
)
from tests.support.service import Service, completed, failed, retry

KEYS = {name: f"sluice_{name[0] * 43}" for name in ("alice", "bob", "carol", "dora")}
NOON = datetime(2031, 2, 2, 12, tzinfo=UTC)
Violation = tuple[str, str | None, str | None, str | None]  # invariant, user, request, period
ROLES = ("submit", "status", "worker", "rollup", "admin")


class Inside:
    """A database as verify() uses it, inside of a transaction that is open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, name: str, parameters: Mapping[str, Any] | None = None, *, repeatable: bool = False) -> list[Row]:
        assert repeatable
        cursor = self._connection.execute(query(name), parameters)
        return cursor.fetchall() if cursor.description else []

    def row(self, name: str, parameters: Mapping[str, Any] | None = None, *, repeatable: bool = False) -> Row:
        (row,) = self.rows(name, parameters, repeatable=repeatable)
        return row


@dataclass
class Books:
    """A service with a history, and the requests in it by their names."""

    service: Service
    keys: Mapping[str, bytes]
    ids: dict[str, UUID] = field(default_factory=dict)
    is_one_transaction: bool = False

    @property
    def prover(self) -> Any:
        return Inside(self.service.owner) if self.is_one_transaction else self.service.database("rollup")

    def at(self, *when: int) -> None:
        set_clock(self.service.owner, datetime(*when, tzinfo=UTC))

    def accept(self, name: str, user: str, model: str | None = None) -> UUID:
        parameters = {"max_tokens": 1} if model else {}
        self.ids[name] = self.service.submit(self.keys[user], model=model, parameters=parameters)
        return self.ids[name]

    def claim(self, *names: str) -> None:
        wanted = [self.ids[name] for name in names]
        assert [claim["request_id"] for claim in self.service.claim(*wanted)] == sorted(wanted)

    def answer(
        self, name: str, user: str, outcome: Callable[..., Any] = completed, model: str | None = None, **told: Any
    ) -> None:
        self.accept(name, user, model)
        self.claim(name)
        self.service.settle(outcome(self.ids[name], **told))

    def run(self, sql: str) -> None:
        """What nobody may do, done by somebody who can: past the triggers, with requests by their names."""
        with self.service.owner.transaction():
            self.service.owner.execute("SET LOCAL session_replication_role = replica")
            self.service.owner.execute(sql, self.ids)

    def sweep(self) -> dict[str, Any]:
        return self.service.database("rollup").row("request_sweep", {"at_most": 100})

    def rollup(self) -> None:
        settled_down(self.service)
        for task in ("rollup_usage", "rollup_stats"):
            self.service.database("rollup").row(task)

    def verify(self, *, full: bool = False, head: str | None = None) -> dict[str, Any]:
        return verify(self.prover, full=full, head=head)

    def found(self, *, every: bool = True) -> set[Violation]:
        """Violations as (invariant, user, request by its name, period)."""
        names = {str(request_id): name for name, request_id in self.ids.items()}
        return {
            (v["invariant"], v["user_id"], names.get(v["request_id"], v["request_id"]), v["period"])
            for v in violations(self.service, every=every)
        }


def make_history(books: Books) -> None:
    """Four users, two models, three days of two months; everything that can become of a request; the last day not rolled up."""
    service = books.service
    books.at(2031, 1, 30, 10)
    books.answer("answered", "alice")
    books.answer("overrun", "alice", model="small", prompt_tokens=20, completion_tokens=30)
    books.accept("expired", "alice")
    books.answer("refused", "bob", failed)
    books.answer(
        "too_large", "bob", failed, "small", prompt_tokens=5, completion_tokens=9, error_code="result_too_large"
    )
    books.answer("dropped", "carol", cancelled)
    service.settle(cancelled(books.accept("unwanted", "carol"), 0))
    books.answer("once", "dora")
    for name, user in (("lost", "bob"), ("retried", "carol"), ("worn_out", "carol")):
        books.accept(name, user)
    books.claim("lost", "retried", "worn_out")
    service.settle(*[retry(books.ids[name], after=10) for name in ("retried", "worn_out")])
    books.at(2031, 1, 30, 10, 2)
    assert books.sweep() == {"requeued": 1, "failed": 0, "expired": 0, "cancelled": 0}
    books.claim("lost", "retried", "worn_out")
    flush = [completed(books.ids["lost"], 2), completed(books.ids["retried"], 2), retry(books.ids["worn_out"], 2)]
    assert [row["kind"] for row in service.settle(*flush) if row["kind"] != "dispatch"] == [
        "settled",
        "settled",
        "requeued",
    ]
    (late,) = service.settle(completed(books.ids["lost"], 1))
    assert late["kind"] == "superseded"
    books.claim("worn_out")
    service.settle(retry(books.ids["worn_out"], 3))
    books.at(2031, 1, 30, 11, 30)
    assert books.sweep() == {"requeued": 0, "failed": 0, "expired": 1, "cancelled": 0}
    books.rollup()
    seal(service)

    books.at(2031, 1, 31, 23, 59, 30)
    books.accept("over_midnight", "alice")
    books.accept("forgotten", "bob")
    books.claim("over_midnight", "forgotten")
    books.at(2031, 2, 1, 0, 0, 30)
    service.settle(completed(books.ids["over_midnight"]))
    books.answer("february", "carol")
    books.rollup()
    seal(service)
    assert books.verify()["balanced"]

    set_clock(service.owner, NOON)
    books.answer("today", "alice", model="small")
    books.accept("waiting", "alice")
    books.accept("running", "bob")
    books.claim("running")
    books.answer("rejected", "carol", failed, prompt_tokens=4, completion_tokens=0)
    set_clock(service.owner, NOON + timedelta(seconds=30))
    settled_down(service)
    seal(service)
    # Results get their ids by the machine's clock: here too, as if it had been what it is said to be.
    books.run("UPDATE requests SET result_id = request_id WHERE result_id IS NOT NULL")
    books.run("UPDATE results SET result_id = request_id")
    books.ids["nobody"] = service.value("SELECT uuidv7_floor('2031-01-30 10:00:00+00')")
    statuses = {row["status"] for row in service.rows("SELECT DISTINCT status FROM requests")}
    assert statuses == {"completed", "failed", "cancelled", "expired", "queued", "processing"}


@pytest.fixture(scope="module")
def history(server_dsn: str, create_database: Callable[..., str], template_database: str) -> tuple[str, Books]:
    """The database with the history: to be copied, not to be changed."""
    name = create_database(template_database)
    with closing(Service(make_conninfo(server_dsn, dbname=name))) as service:
        stop_the_clock(service.owner, datetime(2031, 1, 30, 9, tzinfo=UTC))
        tiers = {"alice": "premium", "bob": "standard", "carol": "basic", "dora": "basic"}
        books = Books(service, {user: service.add_user(user, key, tiers[user]) for user, key in KEYS.items()})
        service.act("model.set", **SMALL)
        make_history(books)
    return name, books


@pytest.fixture
def books(server_dsn: str, history: tuple[str, Books]) -> Iterator[Books]:
    """A copy of the history."""
    template, made = history
    name = f"{template}_copy"
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        with closing(Service(make_conninfo(server_dsn, dbname=name))) as service:
            yield Books(service, made.keys, dict(made.ids))
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def untouched(server_dsn: str, history: tuple[str, Books]) -> Iterator[Books]:
    """The history itself, for one connection and one transaction, which is rolled back."""
    name, made = history
    with (
        closing(Service(make_conninfo(server_dsn, dbname=name))) as service,
        service.owner.transaction(force_rollback=True),
    ):
        yield Books(service, made.keys, dict(made.ids), is_one_transaction=True)


# What is wrong is found and named ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """One thing made wrong, and what a full check finds; an incremental one finds the same unless told otherwise."""

    sql: str
    full: frozenset[Violation]
    incremental: frozenset[Violation]


PERIODS = ("minute", "daily", "monthly")


def wrong(
    sql: str,
    *found: tuple[str | None, ...],
    unseen: bool = False,
    seen: tuple[tuple[str | None, ...], ...] | None = None,
) -> Wrong:
    """found: (invariant, user, request or period, ...). unseen: by an incremental check; seen: what that finds."""
    every = frozenset(violation for short in found for violation in spelt_out(*short))
    part = (
        frozenset() if unseen else every if seen is None else frozenset(v for short in seen for v in spelt_out(*short))
    )
    return Wrong(sql, every, part)


def spelt_out(invariant: str, user: str | None, *where: str | None) -> Iterator[Violation]:
    of_request = invariant in {"request_settled_once", "inflight_is_what_is_unfinished", "result_is_kept"}
    for place in where:
        yield (invariant, user, place, None) if of_request else (invariant, user, None, place)


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
        " estimated_tokens, reserved_tokens) SELECT %(nobody)s, 'alice', 'small', 'failed', t, t, t, 'x', 1, 1"
        " FROM uuid_extract_timestamp(%(nobody)s) AS t",
        ("request_settled_once", "alice", "nobody"),
        ("usage_is_the_sum", "alice", "2031-01-30 small"),
        unseen=True,
    ),
    # 7. an inflight row for every unfinished request, and none else
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
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (%(nobody)s, 'alice', 3, now())",
        ("inflight_is_what_is_unfinished", "alice", "nobody"),
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
    # 8. every completed request has its result
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
        "INSERT INTO results (result_id, request_id, content) VALUES (%(nobody)s, %(today)s, 'another')",
        ("result_is_kept", "alice", "today"),
    ),
    "a result of a request that failed": wrong(
        "INSERT INTO results (result_id, request_id, content) VALUES (%(nobody)s, %(rejected)s, 'an answer')",
        ("result_is_kept", "carol", "rejected"),
    ),
    "another result of the request": wrong(
        "UPDATE requests SET result_id = uuidv7() WHERE request_id = %(today)s",
        ("result_is_kept", "alice", "today"),
    ),
}


def test_a_healthy_history_balances(books: Books) -> None:
    assert_books_balance(books.service)
    assert books.verify(full=True)["balanced"]
    checked = books.service.value("SELECT checked FROM books_check(true)")
    assert checked == {"quotas": 12, "requests": len(books.ids) - 1, "inflight": 3}


@pytest.mark.parametrize("case", WRONGS)
def test_what_is_wrong_is_found_and_nothing_else(untouched: Books, case: str) -> None:
    untouched.run(WRONGS[case].sql)

    assert untouched.found() == WRONGS[case].full
    assert untouched.found(every=False) == WRONGS[case].incremental


def test_each_invariant_is_broken_alone_by_some_case(untouched: Books) -> None:
    """Otherwise one of them could be dropped, or never fail, and no test would tell."""
    source = untouched.service.value("SELECT prosrc FROM pg_proc WHERE proname = 'books_check'")
    alone = {min(names) for names in ({v[0] for v in case.full} for case in WRONGS.values()) if len(names) == 1}
    assert alone == set(re.findall(r"SELECT '(\w+)'", source))
    assert len(alone) == 9


# What is right is not called wrong --------------------------------------------------------------------------------

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


def test_a_limit_lowered_in_an_earlier_period_excuses_nothing_in_this_one(books: Books) -> None:
    lower_for_the_user(books.service)
    books.service.act(
        "quota.set", user_id="alice", limits={period: {"max_requests": 9, "max_tokens": 2000} for period in PERIODS}
    )
    books.at(2031, 3, 1, 12)
    books.accept("march", "alice")
    assert_books_balance(books.service)

    books.run("UPDATE quotas SET max_requests = 0 WHERE user_id = 'alice'")

    assert books.found() == {(i, "alice", None, p) for i in ("quota_within_limit", "plan_is_whole") for p in PERIODS}


def test_a_model_may_report_more_than_was_reserved_and_only_that_much_is_excused(books: Books) -> None:
    reserved = len("hello") + 10 + 1
    state = books.service.rows("SELECT * FROM quota_state('carol', clock_now())")
    used = {row["period"]: row["tokens_used"] + row["tokens_reserved"] for row in state}
    books.service.act(
        "quota.set", user_id="carol", limits={period: {"max_tokens": used[period] + reserved} for period in PERIODS}
    )
    books.at(2031, 2, 2, 12, 0, 31)
    books.answer("longer", "carol", model="small", prompt_tokens=reserved, completion_tokens=30)

    assert_books_balance(books.service)
    with pytest.raises(SluiceError, match="used up"):
        books.accept("too_late", "carol", "small")
    # What the limit was before is forgotten, so that nothing but the overrun excuses.
    books.run("UPDATE audit_log SET before = after WHERE user_id = 'carol' AND action = 'quota.changed'")
    assert_books_balance(books.service)
    books.run("UPDATE quotas SET max_tokens = max_tokens - 1 WHERE user_id = 'carol'")
    books.run(
        "UPDATE audit_log SET before = l, after = l FROM (SELECT quota_limits('carol')) AS now (l) WHERE user_id = 'carol' AND action = 'quota.changed'"
    )
    assert books.found() == {("quota_within_limit", "carol", None, period) for period in PERIODS}


def test_what_crosses_a_midnight_and_a_month_balances_on_either_side(books: Books) -> None:
    books.at(2031, 2, 3)
    books.sweep()
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
    books.sweep()
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


def test_a_settlement_that_comes_long_after_its_periods_balances(books: Books) -> None:
    books.at(2031, 2, 20, 12)
    books.answer("later", "bob")
    (row,) = books.service.settle(completed(books.ids["forgotten"]))
    assert row["kind"] == "settled"

    assert_books_balance(books.service)
    books.service.settle(completed(books.ids["forgotten"]))
    books.service.settle(failed(books.ids["forgotten"]))
    assert_books_balance(books.service)


def test_a_claim_that_was_lost_a_month_ago_is_ended_all_the_same(books: Books) -> None:
    """The schedules stood still, a database was restored: whatever the reason, the sweep must get over it."""
    books.at(2031, 3, 15, 12)
    assert books.sweep() == {"requeued": 0, "failed": 2, "expired": 1, "cancelled": 0}
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


def test_archived_months_balance_and_are_looked_at(books: Books) -> None:
    books.at(2031, 2, 3)
    books.sweep()
    books.at(2031, 5, 15, 12)
    archived = books.service.rows("SELECT archive_months(interval '30 days') AS name")
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


def test_what_is_rolled_up_later_or_twice_balances_all_the_while(books: Books) -> None:
    for _ in range(2):
        books.rollup()
        assert_books_balance(books.service)
    books.answer("another", "alice", model="small")
    assert_books_balance(books.service)
    books.rollup()
    assert_books_balance(books.service)


# The incremental check, and its watermark -------------------------------------------------------------------------


def watermark(books: Books) -> int:
    return books.service.value("SELECT xact_id FROM rollup_watermarks WHERE task = 'verify'")


def test_a_request_of_an_earlier_day_is_looked_at_when_it_was_touched_and_once_only(books: Books) -> None:
    books.service.settle(completed(books.ids["forgotten"]))
    tokens = "UPDATE requests SET prompt_tokens = prompt_tokens + 1, total_tokens = total_tokens + 1 WHERE request_id = %(forgotten)s"
    books.run(tokens)
    wrong_tokens = {
        ("request_settled_once", "bob", "forgotten", None),
        ("usage_is_the_sum", "bob", None, "2031-01-31 nova-micro"),
    }
    assert books.found(every=False) == books.found() == wrong_tokens
    books.run(tokens.replace("+", "-"))
    settled_down(books.service)
    assert books.verify()["balanced"]

    books.run(tokens)

    assert books.found(every=False) == set(), (
        "nobody has touched it since the last check, as far as the audit log knows"
    )
    assert books.found() == wrong_tokens


def test_the_watermark_moves_when_all_is_well_and_only_then(books: Books) -> None:
    first = watermark(books)
    assert books.verify()["balanced"]
    second = watermark(books)
    assert second > first

    books.service.settle(completed(books.ids["running"]))
    books.run("UPDATE quotas SET tokens_used = tokens_used + 1 WHERE user_id = 'bob' AND quota_period = 'daily'")
    for full in (False, True):
        report = books.verify(full=full)
        assert (report["balanced"], report["full"], report["audit"]["problem"]) == (False, full, None)
        assert {v["invariant"] for v in report["violations"]} == {"quota_used_is_the_sum"}
        assert watermark(books) == second

    books.run("UPDATE quotas SET tokens_used = tokens_used - 1 WHERE user_id = 'bob' AND quota_period = 'daily'")
    assert books.verify()["balanced"]
    assert watermark(books) > second


def test_the_watermark_stays_where_the_audit_log_is_wrong(books: Books) -> None:
    before = watermark(books)
    books.run("UPDATE audit_log SET actor = 'nobody' WHERE request_id = %(today)s AND action = 'request.queued'")

    report = books.verify()

    assert (report["balanced"], report["violations"], report["audit"]["problem"]["kind"]) == (False, [], "altered")
    assert watermark(books) == before


def test_an_incremental_check_begins_at_the_batches_that_are_new(books: Books) -> None:
    batches = books.verify(full=True)["audit"]["batches"]
    assert batches == 3
    books.answer("another", "alice")
    seal(books.service)

    assert books.verify()["audit"]["batches"] == 1
    assert books.verify(full=True)["audit"]["batches"] == 4


def test_a_commit_that_comes_after_a_check_is_in_the_next_one(books: Books) -> None:
    with psycopg.connect(books.service.dsn) as slow:
        slow.execute("SELECT request_settle(%s, 'worker')", (Jsonb([completed(books.ids["forgotten"])]),))
        books.answer("meanwhile", "alice")
        assert books.verify()["balanced"]
        slow.commit()
    books.run("DELETE FROM results WHERE request_id = %(forgotten)s")

    assert books.found(every=False) == {("result_is_kept", "bob", "forgotten", None)}


# The audit log and its chain --------------------------------------------------------------------------------------

QUEUED = "request_id = %(over_midnight)s AND action = 'request.queued'"  # of the second batch of three

# What makes a column of that row another, and what the row is then.
ALTERATIONS = {
    "audit_id": ("overlay(audit_id::text PLACING 'ffffffffffff' FROM 25)::uuid", "missing"),
    "at": ("at + interval '1 microsecond'", "altered"),
    "xact_id": ("xact_id + 1", "altered"),
    "actor": ("'somebody'", "altered"),
    "action": ("'request.accepted'", "altered"),
    "user_id": ("'bob'", "altered"),
    "key_id": ("NULL", "altered"),
    "request_id": ("uuidv7()", "altered"),
    "before": ("'null'", "altered"),
    "after": ("after || '{\"reserved_tokens\": 1}'", "altered"),
    "invocation": ("uuidv7()", "altered"),
}
CHAIN_ALTERATIONS = {
    "batch_no": "20",
    "built_at": "built_at - interval '1 microsecond'",
    "xact_low": "xact_low - 1",
    "xact_high": "xact_high - 1",
    "xact_next": "xact_next + 1",
    "audit_ids": "audit_ids[2:] || audit_ids[1]",
    "digests": "digests[2:] || digests[1]",
    "previous_hash": "sha256('x')",
    "hash": "sha256('x')",
}


def sealed(books: Books) -> list[UUID]:
    """The sealed rows' ids in the chain's order."""
    rows = books.service.rows(
        "SELECT e.id FROM audit_chain c, unnest(c.audit_ids) WITH ORDINALITY AS e (id, n) ORDER BY c.batch_no, e.n"
    )
    return [row["id"] for row in rows]


def problem(books: Books, head: str | None = None) -> tuple[str, str | None, int | None] | None:
    found = books.verify(full=True, head=head)["audit"]["problem"]
    return found and (found["kind"], found["audit_id"], found["batch_no"])


def columns(books: Books, table: str) -> set[str]:
    rows = books.service.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", table
    )
    return {row["attname"] for row in rows}


def test_an_audit_log_as_it_was_sealed_is_in_order(untouched: Books) -> None:
    head = untouched.service.value("SELECT audit_head()")
    report = untouched.verify(full=True, head=head)["audit"]
    count = untouched.service.value("SELECT count(*) FROM audit_log")
    assert report == {"batches": 3, "rows": count, "head": head, "problem": None}
    assert len(sealed(untouched)) == count


def test_every_column_of_the_audit_log_and_of_the_chain_is_tried(untouched: Books) -> None:
    assert columns(untouched, "audit_log") == set(ALTERATIONS)
    assert columns(untouched, "audit_chain") == set(CHAIN_ALTERATIONS)


@pytest.mark.parametrize("column", ALTERATIONS)
def test_an_altered_column_is_found(untouched: Books, column: str) -> None:
    (row,) = untouched.service.owner.execute(f"SELECT audit_id FROM audit_log WHERE {QUEUED}", untouched.ids).fetchall()
    value, kind = ALTERATIONS[column]

    untouched.run(f'UPDATE audit_log SET "{column}" = {value} WHERE {QUEUED}')

    assert problem(untouched) == (kind, str(row["audit_id"]), 2)


@pytest.mark.parametrize(
    ("xact_id", "kind", "batch"),
    [("(SELECT min(xact_id) FROM audit_log)", "inserted", 1), ("(SELECT max(xact_id) FROM audit_log)", "altered", 2)],
)
def test_a_row_moved_to_another_batch_is_found(untouched: Books, xact_id: str, kind: str, batch: int) -> None:
    (row,) = untouched.service.owner.execute(f"SELECT audit_id FROM audit_log WHERE {QUEUED}", untouched.ids).fetchall()
    untouched.run(f"UPDATE audit_log SET xact_id = {xact_id} WHERE {QUEUED}")
    assert problem(untouched) == (kind, str(row["audit_id"]), batch)


@pytest.mark.parametrize(("place", "batch"), [(0, 1), (0.5, 1), (0.9, 3), (1, 3)])
def test_a_deleted_row_is_found(untouched: Books, place: float, batch: int) -> None:
    rows = sealed(untouched)
    gone = rows[round(place * (len(rows) - 1))]
    untouched.run(f"DELETE FROM audit_log WHERE audit_id = '{gone}'")

    assert problem(untouched) == ("missing", str(gone), batch)


def test_of_several_wrong_rows_the_first_is_named(untouched: Books) -> None:
    rows = sealed(untouched)
    untouched.ids |= {"first": rows[3], "second": rows[4], "later": rows[-1]}
    untouched.run("DELETE FROM audit_log WHERE audit_id = %(later)s")
    untouched.run("UPDATE audit_log SET actor = 'x' WHERE audit_id = %(second)s")
    assert problem(untouched) == ("altered", str(rows[4]), 1)
    untouched.run("DELETE FROM audit_log WHERE audit_id = %(first)s")
    assert problem(untouched) == ("missing", str(rows[3]), 1)


INSERTED = "INSERT INTO audit_log (audit_id, at, xact_id, actor, action, user_id) SELECT {audit_id}, {at}, {xact_id}, 'admin', 'quota.changed', 'alice' RETURNING audit_id"
AN_HOUR_AGO = {"audit_id": "uuidv7(interval '-1 hour')", "at": "clock_timestamp() - interval '1 hour'"}
NOW = {"audit_id": "uuidv7()", "at": "clock_timestamp()"}
CURRENT = "pg_current_xact_id()::text::bigint"


@pytest.mark.parametrize(
    ("row", "batch"),
    [
        (NOW | {"xact_id": "(SELECT min(xact_id) FROM audit_log)"}, 1),
        (AN_HOUR_AGO | {"xact_id": "(SELECT max(xact_id) FROM audit_log)"}, 3),
        (NOW | {"xact_id": f"{CURRENT} + 1000"}, None),
        (AN_HOUR_AGO | {"xact_id": CURRENT}, None),
        (NOW | AN_HOUR_AGO | {"at": "clock_timestamp()", "xact_id": CURRENT}, None),
        (AN_HOUR_AGO | {"audit_id": "uuidv7()", "xact_id": CURRENT}, None),
    ],
    ids=["old transaction", "old", "transaction to come", "old, of a new transaction", "old id only", "old time only"],
)
def test_an_inserted_row_is_found_before_and_after_the_next_seal(
    books: Books, row: dict[str, str], batch: int | None
) -> None:
    """A row that somebody adds to the past has either a transaction of the past or is older than what was sealed before it."""
    books.service.owner.execute(
        "SELECT partition_create('audit_log', 'audit_id', date_trunc('month', (now() - interval '1 hour') AT TIME ZONE 'UTC')::date)"
    )
    audit_id = books.service.value(INSERTED.format(**row))

    assert problem(books) == ("inserted", str(audit_id), batch)
    if row["xact_id"] == CURRENT:
        seal(books.service)
        assert problem(books) == ("inserted", str(audit_id), 4)


@pytest.mark.parametrize("column", CHAIN_ALTERATIONS)
def test_an_altered_batch_is_found(untouched: Books, column: str) -> None:
    untouched.run(f"UPDATE audit_chain SET {column} = {CHAIN_ALTERATIONS[column]} WHERE batch_no = 2")
    assert problem(untouched) == ("chain", None, 3 if column == "batch_no" else 2)


def test_a_batch_altered_with_its_own_hash_is_found_at_the_next(untouched: Books) -> None:
    untouched.run(
        "UPDATE audit_chain SET digests = digests[2:] || digests[1], audit_ids = audit_ids[2:] || audit_ids[1] WHERE batch_no = 2"
    )
    untouched.run("UPDATE audit_chain c SET hash = audit_chain_hash(c) WHERE batch_no = 2")
    assert problem(untouched) == ("chain", None, 3)


@pytest.mark.parametrize(("batch", "found_at"), [(1, 2), (2, 3)])
def test_a_deleted_batch_is_found_at_the_next(untouched: Books, batch: int, found_at: int) -> None:
    untouched.run(f"DELETE FROM audit_chain WHERE batch_no = {batch}")
    assert problem(untouched) == ("chain", None, found_at)


def test_the_last_batch_deleted_is_found_by_the_watermark_and_by_whoever_has_noted_the_head(books: Books) -> None:
    head = books.service.value("SELECT audit_head()")
    books.run("DELETE FROM audit_chain WHERE batch_no = 3")
    assert problem(books) == ("chain", None, 3)
    books.run("UPDATE rollup_watermarks SET xact_id = (SELECT max(xact_high) FROM audit_chain) WHERE task = 'audit'")
    assert problem(books) is None, "nothing in the database can tell any more"
    assert problem(books, head) == ("head", None, 3)
    seal(books.service)
    assert problem(books, head) == ("head", None, 3)


def test_a_chain_written_anew_is_found_by_whoever_has_noted_a_head(books: Books) -> None:
    first, second = (
        row["head"]
        for row in books.service.rows(
            "SELECT batch_no || ':' || encode(hash, 'hex') AS head FROM audit_chain ORDER BY batch_no LIMIT 2"
        )
    )
    assert problem(books, first) is None, "an older head is as good, for what is before it"
    books.run(f"UPDATE audit_log SET actor = 'somebody' WHERE {QUEUED}")
    books.run("DELETE FROM audit_chain WHERE batch_no > 1")
    seal(books.service)

    assert problem(books) is None
    assert problem(books, first) is None
    assert problem(books, second) == ("head", None, 2)


def test_a_head_of_elsewhere_is_told(untouched: Books) -> None:
    assert problem(untouched, "3:" + "00" * 32) == ("head", None, 3)
    assert problem(untouched, "4" + untouched.service.value("SELECT audit_head()")[1:]) == ("head", None, 4)


def test_rows_of_a_transaction_that_is_open_while_others_are_sealed_are_sealed_later(books: Books) -> None:
    """Its rows are older than the seal, and so is the transaction: it had begun before."""
    with psycopg.connect(books.service.dsn) as slow, psycopg.connect(books.service.dsn) as idle:
        slow.execute("INSERT INTO submissions (user_id, prompt) VALUES ('bob', 'slow')")
        idle.execute("SELECT pg_current_xact_id()")
        books.answer("meanwhile", "alice")
        head = books.service.database("rollup").row("audit_seal", {"at_most": 1000})["head"]
        assert head.startswith("3:"), "nothing is sealed beyond a transaction that still runs"
        assert problem(books) is None
        slow.commit()
        books.answer("after", "alice")
        idle.execute("INSERT INTO submissions (user_id, prompt) VALUES ('dora', 'idle')")
        assert books.service.database("rollup").row("audit_seal", {"at_most": 1000})["sealed"] == 1
        assert problem(books) is None
        idle.commit()
    seal(books.service)

    assert problem(books) is None
    assert len(sealed(books)) == books.service.value("SELECT count(*) FROM audit_log")
    assert len(set(sealed(books))) == len(sealed(books))


def test_seals_at_once_take_turns(books: Books) -> None:
    for n in range(5):
        books.answer(f"more{n}", "alice")
    settled_down(books.service)
    doors = [books.service.database("rollup") for _ in range(6)]

    rows = at_once([partial(door.row, "audit_seal", {"at_most": 4}) for door in doors])

    assert sum(row["sealed"] for row in rows if isinstance(row, dict)) == 15
    assert len({row["head"] for row in rows if isinstance(row, dict) and row["sealed"]}) >= 4
    assert problem(books) is None
    assert sorted(sealed(books)) == sorted(
        row["audit_id"] for row in books.service.rows("SELECT audit_id FROM audit_log")
    )


def test_a_long_log_is_sealed_in_batches_and_compared_in_steps(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    books.run("DELETE FROM audit_chain")
    settled_down(books.service)
    batches, is_more = 0, True
    while is_more:
        row = books.service.database("rollup").row("audit_seal", {"at_most": 8})
        assert 0 < row["sealed"] <= 8
        batches, is_more = batches + 1, row["is_more"]

    monkeypatch.setattr("sluice.services.verify.CHAIN_STEP", 2)
    assert batches > 2 * 2, "several statements compare"
    report = books.verify(full=True)["audit"]
    count = books.service.value("SELECT count(*) FROM audit_log")
    assert (report["batches"], report["rows"], report["problem"]) == (batches, count, None)
    last = sealed(books)[-1]
    books.run(f"DELETE FROM audit_log WHERE audit_id = '{last}'")
    assert problem(books) == ("missing", str(last), batches)


def test_a_transaction_of_more_rows_than_a_batch_is_sealed_whole(books: Books) -> None:
    books.service.owner.execute("SELECT pg_current_xact_id()")
    with books.service.owner.transaction():
        books.service.owner.execute("INSERT INTO audit_log (actor, action) SELECT 'x', 'x' FROM generate_series(1, 9)")
    settled_down(books.service)

    assert books.service.database("rollup").row("audit_seal", {"at_most": 5})["sealed"] == 9
    assert problem(books) is None


def test_the_task_seals_all_there_is_whatever_the_transactions_lengths(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "SEAL_AT_MOST", 4)
    for _ in range(4):
        with books.service.owner.transaction():
            books.service.owner.execute(
                "INSERT INTO audit_log (actor, action) SELECT 'x', 'x' FROM generate_series(1, 3)"
            )
    settled_down(books.service)

    report = rollup.run(books.service.rollup(), ["audit"])

    assert report["audit"]["sealed"] == 12


APPEND_ONLY = {
    "update": "UPDATE {} SET {} = {}",
    "delete": "DELETE FROM {}",
    "truncate": "TRUNCATE {}",
    "merge": "MERGE INTO {0} t USING {0} s ON t.{1} = s.{1} WHEN MATCHED THEN DELETE",
}


def append_only_tables(books: Books) -> dict[str, str]:
    """With a column of each."""
    partitions = books.service.rows(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'audit_log'::regclass"
    )
    return {"audit_log": "audit_id", "audit_chain": "batch_no"} | {row["name"]: "audit_id" for row in partitions}


@pytest.mark.parametrize("act", APPEND_ONLY)
def test_nobody_changes_the_audit_log_not_even_its_owner(untouched: Books, act: str) -> None:
    tables = append_only_tables(untouched)
    assert len(tables) > 4
    for table, column in tables.items():
        if act != "truncate" and not untouched.service.value(f"SELECT count(*) FROM {table}"):
            continue  # a trigger for each row, and there is none
        with pytest.raises(pg.InsufficientPrivilege, match="append-only"), untouched.service.owner.transaction():
            untouched.service.owner.execute(APPEND_ONLY[act].format(table, column, column))


def test_an_audit_row_is_not_replaced_by_one_of_the_same_id(untouched: Books) -> None:
    with pytest.raises(pg.InsufficientPrivilege, match="append-only"):
        untouched.service.owner.execute(
            "INSERT INTO audit_log SELECT * FROM audit_log LIMIT 1 ON CONFLICT (audit_id) DO UPDATE SET actor = 'x'"
        )


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_any_right_on_the_audit_log(untouched: Books, role: str) -> None:
    for table in append_only_tables(untouched):
        rights = untouched.service.value(
            "SELECT array_agg(r) FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS r"
            " WHERE has_table_privilege(%s, %s, r)",
            f"sluice_{role}",
            table,
        )
        assert rights is None
