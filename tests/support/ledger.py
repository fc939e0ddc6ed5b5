"""The books of a test: whether they balance, and a clock that stands until it is moved."""

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

# A model beside the one that is shipped, with less overhead, as model.set takes it.
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

# The request's id is of the clock's millisecond; what follows counts, so that none is made twice and all are in order.
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
    """From now on the database believes in this time, until set_clock(); with partitions for it, and three months more."""
    owner.execute(_CLOCK)
    owner.execute("INSERT INTO test_clock VALUES (%s)", (at,))
    owner.execute("SELECT partitions_ensure()")


def set_clock(owner: Connection, at: datetime) -> None:
    """Move a clock that was stopped, in either direction."""
    owner.execute("UPDATE test_clock SET at = %s", (at,))


def cancelled(request_id: UUID, attempt: int = 1) -> dict[str, Any]:
    """An outcome: nobody wants it any more."""
    return {"request_id": str(request_id), "attempt": attempt, "outcome": "cancelled"}


def settled_down(service: Service) -> None:
    """Return when the rollups and the seal can see whatever was committed until now.

    They stop at the oldest transaction that still runs, on the whole server: it may be one of autovacuum's.
    """
    wanted = service.value("SELECT coalesce(max(xact_id), 0) FROM audit_log")
    oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    assert wait_until(lambda: service.value(oldest) > wanted, 30), "a transaction of somebody else does not end"


def seal(service: Service, limit: int = 10_000) -> str:
    """Seal what is in the audit log, as one batch where the limit allows; the chain's head."""
    settled_down(service)
    head: str = service.database("rollup").call_row("audit_seal", limit=limit)["head"]
    return head


def violations(service: Service, *, every: bool = True) -> list[dict[str, Any]]:
    """What breaks an invariant: of everything, or of what an incremental check looks at."""
    found: list[dict[str, Any]] = service.value("SELECT violations FROM ledger_verify(%s)", every)
    return found


def assert_books_balance(service: Service) -> None:
    assert violations(service) == []
    assert violations(service, every=False) == []


def at_once(tasks: Sequence[Callable[[], T]]) -> list[T | SluiceError]:
    """What tasks answer, or are refused with, that are let go together, each in a thread of its own."""
    gate = Barrier(len(tasks))

    def run(task: Callable[[], T]) -> T | SluiceError:
        gate.wait(timeout=60)
        try:
            return task()
        except SluiceError as refusal:
            return refusal

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))
