"""Every order of two workers, recovery, dispatch, expiring leases and a cancellation over two requests of one user;
and over two or three equal ones, of which one asks for all. One user in two has an endpoint of webhooks.

Each step is a call of the database's functions. A savepoint undoes it once everything that can follow has been explored;
each step is taken once from each state. The states, answers and next states must equal those of the model in
tests/support/interleavings.py. Calls follow one another here: test_ledger_at_once.py tests concurrent transactions.
With SLUICE_EXAMPLES each worker claims twice, which takes some minutes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from sluice.db.connection import Connection
from sluice.domain.documents import Output
from tests.support.database import call
from tests.support.deliveries import add_endpoint
from tests.support.interleavings import (
    ENDED,
    MAX_ATTEMPTS,
    TOKENS,
    Action,
    Answer,
    Item,
    Items,
    Model,
    State,
    Worker,
    explore,
    followed,
)
from tests.support.ledger import set_clock, stop_the_clock
from tests.support.records import TOLD_AS
from tests.support.service import Service

CLAIMS = 2 if "SLUICE_EXAMPLES" in os.environ else 1
NOON = datetime(2031, 1, 30, 12, tzinfo=UTC)
LEASE_SECONDS, PAUSE_SECONDS = 60, 30
_ITEMS = """
    SELECT r.status, r.attempts AS attempt, coalesce(i.failed_attempts, 0) AS failed_attempts,
           coalesce(i.lost_attempts, 0) AS lost_attempts,
           i.dispatched_at IS NOT NULL AS is_dispatched, coalesce(i.not_before > clock_now(), false) AS is_paused,
           coalesce(i.lease_until < clock_now(), false) AS is_lapsed, i.cancel_requested_at IS NOT NULL AS is_cancel_requested,
           s.content::integer AS answered_by, r.total_tokens AS tokens,
           (SELECT count(*) FROM audit_log a WHERE a.request_id = r.request_id
            AND a.action IN ('request.completed', 'request.failed', 'request.cancelled', 'request.expired',
                             'request.cached')) AS ends,
           ARRAY(SELECT v.event_type::text FROM webhook_events v WHERE v.request_id = r.request_id) AS told,
           i.follows, r.cached_from AS source
    FROM requests r
    LEFT JOIN inflight i ON i.request_id = r.request_id
    LEFT JOIN results s ON s.request_id = r.request_id
    ORDER BY r.request_id
"""


class Ledger:
    """The machine in the database. Like the model, it answers with positions of requests instead of ids.

    Args:
        has_endpoint: the requests' user has an endpoint of webhooks that wants to be told everything.
    """

    def __init__(
        self, sql: Connection, key_hash: bytes, ids: list[UUID], workers: tuple[Worker, ...], *, has_endpoint: bool
    ) -> None:
        self.sql = sql
        self.key_hash = key_hash
        self.ids = ids
        self.has_endpoint = has_endpoint
        self.now = NOON
        self.ending: set[Items] = set()  # states known to lead to the end of every request
        self.trail = [State(self.items(), workers)]
        self.sql.execute("SAVEPOINT state_1")

    def rows(self, name: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        return call(self.sql, name, **parameters)

    def items(self) -> Items:
        rows = self.sql.execute(_ITEMS).fetchall()
        for row in rows:
            is_told = self.has_endpoint and row["status"] in ENDED
            assert row.pop("told") == ([TOLD_AS[row["status"]]] if is_told else []), "told once, as it ends"
        links = [{name: self.ids.index(row[name]) for name in ("follows", "source") if row[name]} for row in rows]
        return tuple(
            Item(**row | {"follows": None, "source": None} | link) for row, link in zip(rows, links, strict=True)
        )

    def state(self) -> State:
        return self.trail[-1]

    @contextmanager
    def trying(self, action: Action) -> Iterator[Answer]:
        now = self.now
        answer = self.apply(self.state(), action)
        self.trail.append(followed(self.state(), action, answer, self.items()))
        self.sql.execute(f"SAVEPOINT state_{len(self.trail)}")
        yield answer
        self.trail.pop()
        self.sql.execute(f"ROLLBACK TO state_{len(self.trail)}")
        self.now = now

    def apply(self, state: State, action: Action) -> Answer:
        match action:
            case ("claim", _):
                return self.claim()
            case ("settle", n, outcomes):
                return self.settle(dict(zip(state.workers[n].holds, outcomes, strict=True)))
            case ("recover",):
                return tuple(self.rows("request_recover", limit=100)[0].values())
            case ("dispatch",):
                return self.positions(row["request_id"] for row in self.rows("request_dispatch", limit=100))
            case ("time",):
                self.now += timedelta(seconds=LEASE_SECONDS + 1)
                set_clock(self.sql, self.now)
            case ("cancel", position):
                (row,) = self.rows("request_cancel", key_hash=self.key_hash, request_id=self.ids[position])
                return row["outcome"], row["status"], self.positions(row["send"])
        return None

    def positions(self, ids: Iterable[UUID]) -> tuple[int, ...]:
        return tuple(sorted(self.ids.index(each) for each in ids))

    def claim(self) -> Answer:
        rows = self.rows("request_claim", ids=self.ids, lease_seconds=LEASE_SECONDS)
        return tuple((self.ids.index(row["request_id"]), row["attempt"]) for row in rows)

    def settle(self, flush: dict[tuple[int, int], str]) -> Answer:
        outcomes = [_outcome(self.ids[n], attempt, outcome) for (n, attempt), outcome in flush.items()]
        rows = self.rows("request_settle", outcomes=Jsonb(outcomes), actor="worker")
        return tuple(sorted((row["kind"], self.ids.index(row["request_id"]), row["status"]) for row in rows))

    def check(self, dispatch_window: int, seen: set[Any], state: State) -> None:
        """Check the invariants of a state; requests that all workers have left must still end."""
        assert sum(item.is_dispatched for item in state.items) <= dispatch_window
        for item in state.items:
            assert item.ends == (item.status in ENDED), "each ends once"
            is_answered = item.status == "completed" and item.source is None
            assert item.answered_by == (item.attempt if is_answered else None), "the fencing token"
            assert item.source is None or state.items[item.source].answered_by, "an answer of an equal request"
            assert item.follows is None or state.items[item.follows].status not in ENDED, "a leader that is unfinished"
        # The ledger depends on nothing else.
        booked = tuple((item.status, item.attempt, item.tokens) for item in state.items)
        if booked not in seen:
            self.assert_books_balance()
        seen.add(booked)
        is_left = not any(worker.holds or worker.claims_left for worker in state.workers)
        if is_left and not _all_ended(state.items) and state.items not in seen:
            seen.add(state.items)
            with self.sql.transaction(force_rollback=True):
                self.assert_everything_ends()

    def assert_books_balance(self) -> None:
        assert self.rows("ledger_verify", full=True)[0]["violations"] == []

    def assert_everything_ends(self) -> None:
        """Recovery and an answering worker make progress until every request has ended."""
        now = self.now
        passed: set[Items] = set()
        while not _all_ended(items := self.recovered()) and items not in self.ending:
            assert items not in passed, "nothing has changed"
            passed.add(items)
            self.settle(dict.fromkeys(self.claim(), "completed"))
        self.ending |= passed
        self.now = now

    def recovered(self) -> Items:
        """The requests after a minute's recovery."""
        for step in ("time", "recover", "dispatch"):
            self.apply(self.state(), (step,))
        return self.items()


def _all_ended(items: Items) -> bool:
    return all(item.status in ENDED for item in items)


def _outcome(request_id: UUID, attempt: int, outcome: str) -> dict[str, Any]:
    given: dict[str, Any] = {"request_id": str(request_id), "attempt": attempt, "outcome": outcome}
    if outcome == "completed":
        given |= {
            "output": Output.of_text(str(attempt)).to_json(),
            "fingerprint": "00" * 32,
            "prompt_tokens": TOKENS,
            "completion_tokens": 0,
        }
    if outcome == "retry":
        given |= {"error_code": "model_unavailable", "error_message": "Away.", "retry_after": PAUSE_SECONDS}
    return given


@pytest.mark.parametrize("dispatch_window", [1, 2])
def test_every_interleaving_equals_the_model(service: Service, dispatch_window: int) -> None:
    key_hash = service.add_user()
    stop_the_clock(service.owner, NOON)
    has_endpoint = dispatch_window == 1
    if has_endpoint:
        add_endpoint(service, key_hash, "https://example.com/hooks")
    service.act("quota.set", user_id="alice", dispatch_window=dispatch_window)
    ids = [service.submit(key_hash) for _ in range(2)]
    service.owner.execute("UPDATE inflight SET max_attempts = %s, expires_at = %s", (MAX_ATTEMPTS, NOON + timedelta(1)))
    workers = (Worker(CLAIMS),) * 2

    with service.owner.transaction(force_rollback=True):
        ledger = Ledger(service.owner, key_hash, sorted(ids), workers, has_endpoint=has_endpoint)
        seen: set[Any] = set()
        found = explore(ledger, lambda state: ledger.check(dispatch_window, seen, state))
    expected = explore(Model(dispatch_window, State((Item(),) * 2, workers)), lambda _: None)

    print(f"dispatch window {dispatch_window}: {len(found.steps)} states, {found.transitions} transitions")
    assert found.steps.keys() == expected.steps.keys()
    assert found.steps == expected.steps


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_interleaving_of_equal_requests_equals_the_model(service: Service, count: int) -> None:
    key_hash = service.add_user()
    stop_the_clock(service.owner, NOON)
    has_endpoint = count == 2
    if has_endpoint:
        add_endpoint(service, key_hash, "https://example.com/hooks")
    asked: dict[str, Any] = {"parameters": {"temperature": 0}, "cache": {"max_age": 3600}}
    ids = [service.submit(key_hash, **asked) for _ in range(count)]
    service.owner.execute("UPDATE inflight SET max_attempts = %s, expires_at = %s", (MAX_ATTEMPTS, NOON + timedelta(1)))
    workers = (Worker(1),) * 2

    with service.owner.transaction(force_rollback=True):
        ledger = Ledger(service.owner, key_hash, sorted(ids), workers, has_endpoint=has_endpoint)
        seen: set[Any] = set()
        found = explore(ledger, lambda state: ledger.check(10, seen, state))
    leader, *followers = Item(), *(Item(follows=0) for _ in range(count - 1))
    expected = explore(Model(10, State((leader, *followers), workers)), lambda _: None)

    print(f"{count} equal requests: {len(found.steps)} states, {found.transitions} transitions")
    assert found.steps.keys() == expected.steps.keys()
    assert found.steps == expected.steps
