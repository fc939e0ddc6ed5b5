"""What a request costs the database, in counts that do not depend on the machine, so that they cannot creep up.

Times are measured by benchmarks/, never here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from sluice.db.connection import ASSUME_ROLE, Database, Row
from sluice.db.ledger import Ledger
from sluice.domain.documents import Input, Output
from sluice.domain.requests import Claim, Outcome, Submission
from tests.support.service import LIMITS, Service

BATCH = 10
BATCHES = 10
REQUESTS = BATCH * BATCHES


@dataclass(frozen=True)
class Cost:
    """Of one step of one request, in worker batches of ten.

    Attributes:
        statements: that the function sends.
        commits: transactions that wrote something, for which a client waits until it is on disk.
        audit_rows: that are written.
        wal_records: at most so many records of write-ahead log, without those of commits.
        buffers: at most so many pages that are looked at, the same page each time.
    """

    statements: float
    commits: float
    audit_rows: float
    wal_records: float
    buffers: float


COSTS = {
    "submit": Cost(statements=1, commits=1, audit_rows=1, wal_records=16, buffers=48),
    "claim": Cost(statements=0.1, commits=0.1, audit_rows=1, wal_records=7, buffers=17),
    "settle": Cost(statements=0.1, commits=0.1, audit_rows=1, wal_records=9, buffers=22),
    "status": Cost(statements=1, commits=0, audit_rows=0, wal_records=0.1, buffers=24),
}

_WORK = """
    SELECT coalesce(sum(wal_records), 0)::float AS wal_records,
           coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float AS buffers
    FROM pg_stat_statements
    WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND query ~ '"request_'"""


class CountingConnection(psycopg.Connection[Row]):
    """Counts the statements of its caller, and how many of them wrote something."""

    statements = 0
    commits = 0

    def execute(self, *arguments: Any, **options: Any) -> psycopg.Cursor[Row]:
        if self.info.transaction_status != TransactionStatus.IDLE:
            return super().execute(*arguments, **options)
        with self.transaction():
            cursor = super().execute(*arguments, **options)
            written = super().execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL AS it_is").fetchone()
        assert written is not None
        self.statements += 1
        self.commits += written["it_is"]
        return cursor


@pytest.fixture
def connect(dsn: str) -> Iterator[Callable[[str], CountingConnection]]:
    with ExitStack() as stack:

        def make(role: str) -> CountingConnection:
            connection = CountingConnection.connect(dsn, autocommit=True, prepare_threshold=None, row_factory=dict_row)
            stack.enter_context(connection)
            connection.execute(ASSUME_ROLE, {"role": f"sluice_{role}"})
            return connection

        yield make


class Steps:
    """The steps of requests, through the ledger."""

    def __init__(self, service: Service, key: bytes, connect: Callable[[str], CountingConnection]) -> None:
        self.service, self.key = service, key
        self.connections = {role: connect(role) for role in ("submit", "worker", "status")}
        self.ids: list[UUID] = []
        self.claims: list[list[Claim]] = []
        self.measured: dict[str, Cost] = {}

    def ledger(self, role: str) -> Ledger:
        return Ledger(Database(lambda: self.connections[role]))

    def measure(self, name: str, step: Callable[[], None]) -> None:
        before = self._read()
        step()
        self.measured[name] = Cost(*(now - then for now, then in zip(self._read(), before, strict=True)))

    def _read(self) -> tuple[float, ...]:
        work = self.service.rows(_WORK)[0]
        counts = (
            sum(connection.statements for connection in self.connections.values()),
            sum(connection.commits for connection in self.connections.values()),
            self.service.value("SELECT count(*) FROM audit_log"),
            work["wal_records"],
            work["buffers"],
        )
        return tuple(count / REQUESTS for count in counts)

    def all(self) -> None:
        """The life of a hundred requests."""
        self.measure("submit", self._submit)
        self.measure("claim", self._claim)
        self.measure("settle", self._settle)
        self.measure("status", self._show)

    def _submit(self) -> None:
        ledger, submission = self.ledger("submit"), Submission(input=Input.of_prompt("why? " * 200))
        admissions = [ledger.submit(self.key, submission, LIMITS) for _ in range(REQUESTS)]
        self.ids = [each.request_id for each in admissions if each.request_id is not None]
        assert len(self.ids) == REQUESTS

    def _claim(self) -> None:
        ledger = self.ledger("worker")
        self.claims = [ledger.claim(self.ids[at : at + BATCH], 60) for at in range(0, REQUESTS, BATCH)]
        assert sum(map(len, self.claims)) == REQUESTS

    def _settle(self) -> None:
        ledger, output = self.ledger("worker"), Output.of_text("because " * 120, "stop")
        for claims in self.claims:
            ledger.settle(
                [Outcome(claim.request_id, claim.attempt, "completed", output, "00" * 32, 300, 100) for claim in claims]
            )

    def _show(self) -> None:
        ledger = self.ledger("status")
        assert all(ledger.show(self.key, request_id).output is not None for request_id in self.ids)


def test_no_step_costs_more(service: Service, alice: bytes, connect: Callable[[str], CountingConnection]) -> None:
    service.act("quota.set", user_id="alice", max_unfinished=10_000, dispatch_window=10_000)
    steps = Steps(service, alice, connect)
    steps.all()  # caches are filled, and the key was used
    service.owner.execute("VACUUM (ANALYZE)")
    steps.all()  # statements are planned again
    steps.all()
    for step, most in COSTS.items():
        found = steps.measured[step]
        counts = (found.statements, found.commits, found.audit_rows)
        assert counts == pytest.approx((most.statements, most.commits, most.audit_rows)), step
        assert found.wal_records <= most.wal_records, step
        assert found.buffers <= most.buffers, step
