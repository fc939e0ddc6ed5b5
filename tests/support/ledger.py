"""The books of a test: whether they balance, and a clock that stands until it is moved."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier
from typing import Any, TypeVar

from sluice.db.connection import Connection
from sluice.errors import SluiceError
from tests.support.service import Service

T = TypeVar("T")

# The request's id is of the clock's millisecond; what follows is a UUIDv7's of now, so it is not made twice.
_CLOCK = """
    CREATE TABLE test_clock (at timestamptz NOT NULL);
    CREATE OR REPLACE FUNCTION clock_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN (SELECT c.at FROM test_clock c);
    CREATE OR REPLACE FUNCTION request_id_now() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN (substr(uuidv7_floor(clock_now())::text, 1, 14) || substr(uuidv7()::text, 15))::uuid;
"""


def stop_the_clock(owner: Connection, at: datetime) -> None:
    """From now on the database believes in this time, until set_clock(); with partitions for it, and three months more."""
    owner.execute(_CLOCK)
    owner.execute("INSERT INTO test_clock VALUES (%s)", (at,))
    owner.execute("SELECT partitions_ensure()")


def set_clock(owner: Connection, at: datetime) -> None:
    """Move a clock that was stopped, in either direction."""
    owner.execute("UPDATE test_clock SET at = %s", (at,))


def violations(service: Service, *, every: bool = True) -> list[dict[str, Any]]:
    """What breaks an invariant: of everything, or of what an incremental check looks at."""
    return service.value("SELECT violations FROM books_check(%s)", every)


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
