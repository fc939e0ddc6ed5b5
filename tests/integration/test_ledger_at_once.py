"""The ledger under concurrent calls: real connections act randomly on a few requests, each with its own seed.

The outcome depends on timing, but dispatch windows always hold, nothing deadlocks, and finally every request has ended
once and the books balance. With SLUICE_EXAMPLES=200 ten seeds are tried.
"""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Event
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.support.database import call
from tests.support.ledger import assert_books_balance, run_concurrently
from tests.support.records import PERIODS
from tests.support.service import Service, completed, failed, retry, submission

ACTORS, STEPS, WINDOW = 6, 80, 2
NAMES = ("ann", "bob", "cyd")
SEEDS = max(1, int(os.environ.get("SLUICE_EXAMPLES", "0")) // 20)


class Actor:
    """A connection that acts as client, worker, recovery task and operator in turn.

    Attributes:
        held: requests and attempts that it has claimed and not settled.
        settled: outcomes that it has reported, to be repeated.
    """

    def __init__(self, service: Service, keys: list[bytes], known: list[UUID], seed: int) -> None:
        self.sql = psycopg.connect(service.dsn, autocommit=True, row_factory=dict_row)
        self.keys = keys
        self.known = known
        self.random = Random(seed)
        self.held: list[tuple[UUID, int]] = []
        self.settled: list[dict[str, Any]] = []
        self.acts: dict[Callable[[], None], int] = {
            self.submit: 3,
            self.claim: 8,
            self.settle: 6,
            self.settle_again: 2,
            self.cancel: 2,
            self.recover: 2,
            self.send: 2,
            self.redrive: 2,
        }

    def run(self) -> None:
        with self.sql:
            for _ in range(STEPS):
                (act,) = self.random.choices(list(self.acts), weights=list(self.acts.values()))
                act()

    def rows(self, name: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        return call(self.sql, name, **parameters)

    def some(self) -> list[UUID]:
        """Some of the newest requests, in any order, as messages arrive."""
        newest = self.known[-24:]
        return self.random.sample(newest, min(len(newest), self.random.randint(1, 8)))

    def submit(self) -> None:
        asked = submission(ttl_seconds=None, longest_seconds=3600)
        (row,) = self.rows("request_submit", key_hash=self.random.choice(self.keys), submission=asked)
        self.known.append(row["request_id"])

    def claim(self) -> None:
        """With a long lease, or one so short that it soon expires."""
        rows = self.rows("request_claim", ids=self.some(), lease_seconds=self.random.choice([0.05, 0.05, 600]))
        self.held += [(row["request_id"], row["attempt"]) for row in rows]

    def settle(self) -> None:
        """In time or late; some of it never."""
        self.random.shuffle(self.held)
        flush = [self.outcome(*claim) for claim in self.held[:4]]
        self.held = self.held[5:]
        self.settled += flush
        self.flush(flush)

    def settle_again(self) -> None:
        self.flush(self.random.sample(self.settled, min(len(self.settled), 4)))

    def flush(self, outcomes: list[dict[str, Any]]) -> None:
        if outcomes:
            self.rows("request_settle", outcomes=Jsonb(outcomes), actor="worker")

    def outcome(self, request_id: UUID, attempt: int) -> dict[str, Any]:
        released = {"request_id": str(request_id), "attempt": attempt, "outcome": "released"}
        outcomes = [
            completed(request_id, attempt),
            failed(request_id, attempt),
            retry(request_id, attempt),
            released,
        ]
        (outcome,) = self.random.choices(outcomes, weights=[3, 1, 4, 2])
        return outcome

    def cancel(self) -> None:
        self.rows("request_cancel", key_hash=self.random.choice(self.keys), request_id=self.some()[0])

    def recover(self) -> None:
        self.rows("request_recover", limit=self.random.choice([2, 100]))
        self.rows("request_dispatch", limit=self.random.choice([2, 100]))

    def send(self) -> None:
        """Send messages again, or report them unsent."""
        match self.random.choice(["redispatch", "resend", "undispatch"]):
            case "redispatch":
                self.rows("request_redispatch", queue_depth=0, grace_seconds=0, long_seconds=0, limit=5)
            case "resend":
                self.rows("request_resend", ids=self.some())
            case "undispatch":
                self.rows("request_undispatch", ids=self.some())

    def redrive(self) -> None:
        """One request, if possible, or the first that the model rejected."""
        now = datetime.now(UTC)
        hour = timedelta(hours=1)
        arguments: dict[str, Any] = {"ttl_seconds": 3600, "max_attempts": 2}
        if self.random.randint(0, 2):
            arguments |= {"error_code": "model_rejected", "limit": 50}
            arguments |= {"start": (now - hour).isoformat(), "end": (now + hour).isoformat()}
        else:
            arguments |= {"request_id": str(self.some()[0])}
        try:
            self.rows("admin_run", operation="request.redrive", arguments=Jsonb(arguments), invocation=None)
        except psycopg.Error as refused:
            if refused.sqlstate != "SL409":
                raise


def watch(service: Service, over: Event) -> tuple[int, list[dict[str, Any]]]:
    """Watch the dispatch windows: how many times they were read, and the users that exceeded them."""
    with psycopg.connect(service.dsn, autocommit=True, row_factory=dict_row) as sql:
        found: list[dict[str, Any]] = []
        looked = 0
        is_last = False
        while not is_last:
            is_last = over.is_set()
            looked += 1
            found += sql.execute(
                "SELECT user_id, count(*) AS dispatched FROM inflight WHERE dispatched_at IS NOT NULL"
                " GROUP BY 1 HAVING count(*) > %s",
                (WINDOW,),
            ).fetchall()
    return looked, found


def drain(service: Service, known: list[UUID]) -> None:
    """Finish what the actors left: recovery, and a worker that answers."""
    service.owner.execute("UPDATE inflight SET lease_until = now() - interval '1 s' WHERE status = 'processing'")
    rollup = service.database("rollup")
    for _ in known:
        rollup.call("request_recover", limit=1000)
        rollup.call("request_dispatch", limit=1000)
        claims = service.claim(*known)
        if not claims:
            break
        service.settle(*[completed(claim["request_id"], claim["attempt"]) for claim in claims])
    assert service.value("SELECT count(*) FROM inflight") == 0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_concurrent_calls_end_each_request_once_and_the_books_balance(service: Service, seed: int) -> None:
    unlimited: dict[str, Any] = {period: {"max_requests": None, "max_tokens": None} for period in PERIODS}
    keys = [service.add_user(name, "sluice_" + name[0] * 43, **unlimited) for name in NAMES]
    for name in NAMES:
        service.act("quota.set", user_id=name, max_unfinished=1000, dispatch_window=WINDOW)
    known = [service.submit(key) for key in keys for _ in range(3)]
    actors = [Actor(service, keys, known, 100 * seed + n) for n in range(ACTORS)]
    over = Event()

    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch, service, over)
        try:
            run_concurrently([actor.run for actor in actors])
        finally:
            over.set()
    looked, too_much = watched.result()

    assert looked > STEPS
    assert too_much == []
    drain(service, known)
    assert_books_balance(service)
    audited = Counter(
        (row["request_id"], row["action"]) for row in service.rows("SELECT request_id, action FROM audit_log")
    )
    ended = Counter(dict.fromkeys(known, 0))
    for (request_id, action), times in audited.items():
        if action in {"request.completed", "request.failed", "request.cancelled", "request.expired"}:
            ended[request_id] += times
        elif action == "request.redriven":
            ended[request_id] -= times
    assert set(ended.values()) == {1}
    happened = {action.removeprefix("request.") for _, action in audited}
    assert happened >= {"completed", "failed", "cancelled", "redriven", "requeued", "superseded"}
    assert service.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
