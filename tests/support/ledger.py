"""The ledger of a test: whether it balances, and a clock that only moves when set."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier
from typing import Any, TypeVar
from uuid import UUID

from local.processes import wait_until
from sluice.db.connection import Connection
from sluice.domain.errors import SluiceError
from tests.support.service import Service

T = TypeVar("T")

# A second model with less overhead, as arguments of model.set.
SMALL: dict[str, Any] = {
    "model_id": "small",
    "backend": "bedrock",
    "backend_model": "small",
    "max_tokens_default": 16,
    "max_tokens_limit": 100,
    "overhead_tokens": 10,
    "timeout_seconds": 60,
    "is_default": False,
    "is_active": True,
}

# A request's id has the clock's millisecond; the rest is a counter, so ids are unique and in order.
_CLOCK = """
    CREATE TABLE test_clock (at timestamptz NOT NULL);
    CREATE SEQUENCE test_ids;
    CREATE OR REPLACE FUNCTION clock_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN (SELECT c.at FROM test_clock c);
    CREATE OR REPLACE FUNCTION request_id_now() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN (substr(uuidv7_floor(clock_now())::text, 1, 24) || lpad(to_hex(nextval('test_ids')), 12, '0'))::uuid;
    GRANT SELECT ON test_clock TO sluice_definer;
    GRANT USAGE ON SEQUENCE test_ids TO sluice_definer;
"""


def stop_the_clock(owner: Connection, at: datetime) -> None:
    """Stop the database's clock at a time, until set_clock(); creates partitions for it and three more months."""
    owner.execute(_CLOCK)
    owner.execute("INSERT INTO test_clock VALUES (%s)", (at,))
    owner.execute("SELECT partitions_ensure()")


def set_clock(owner: Connection, at: datetime) -> None:
    """Move a clock that was stopped, in either direction."""
    owner.execute("UPDATE test_clock SET at = %s", (at,))


def cancelled(request_id: UUID, attempt: int = 1) -> dict[str, Any]:
    """An outcome: cancelled."""
    return {"request_id": str(request_id), "attempt": attempt, "outcome": "cancelled"}


def wait_until_visible(service: Service) -> None:
    """Wait until rollups and seals can see everything committed so far.

    They stop at the oldest running transaction of the whole server, which may be autovacuum's.
    """
    wanted = service.value("SELECT coalesce(max(xact_id), 0) FROM audit_log")
    oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    assert wait_until(lambda: service.value(oldest) > wanted, 30), "another transaction does not end"


def seal(service: Service, limit: int = 10_000) -> str:
    """Seal the audit log, as one batch if the limit allows; returns the chain's head."""
    wait_until_visible(service)
    head: str = service.database("rollup").call_row("audit_seal", limit=limit)["head"]
    return head


def violations(service: Service, *, every: bool = True) -> list[dict[str, Any]]:
    """Violations that a full or an incremental check finds."""
    found: list[dict[str, Any]] = service.value("SELECT violations FROM ledger_verify(%s)", every)
    return found


def assert_books_balance(service: Service) -> None:
    assert violations(service) == []
    assert violations(service, every=False) == []


def run_concurrently(tasks: Sequence[Callable[[], T]]) -> list[T | SluiceError]:
    """Start tasks at the same instant, each in its own thread; returns answers or refusals."""
    barrier = Barrier(len(tasks))

    def run(task: Callable[[], T]) -> T | SluiceError:
        barrier.wait(timeout=60)
        try:
            return task()
        except SluiceError as refusal:
            return refusal

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))
