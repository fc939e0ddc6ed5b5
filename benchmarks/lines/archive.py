"""A month goes to the archive while submissions go on: how long the slowest of them takes.

Against the seed's SQL, which copies the rows and deletes them. One client submits without a pause.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event

from benchmarks.bench import Bench
from benchmarks.fill import fill
from benchmarks.report import Table
from benchmarks.seed_sql import SeedSide
from benchmarks.sides import Compared, Side, SluiceSide

_BEFORE_AND_AFTER_SECONDS = 0.2
_NOTES = (
    (
        "Sluice detaches the month's partition from one table and attaches it to another: for a moment nothing else "
        "may use the table, and no row is written. The deleted rows of the seed's SQL still have to be vacuumed."
    ),
)


def run(bench: Bench) -> Sequence[Table]:
    """Measure one month in each round, the oldest first."""
    with bench.both(10) as sides:
        title = f"Archive while submissions go on (requests in the month: {bench.effort.month:,})"
        table = Table(title, [side.name for side in sides], notes=_NOTES)
        clients: dict[str, Callable[[], Side]] = {
            SluiceSide.name: partial(SluiceSide, sides[0].address, 10, is_new=False),
            SeedSide.name: partial(SeedSide, sides[1].address, 10, is_new=False, checks_quotas=False),
        }
        # Each round has a month of its own.
        month = {side.name: bench.effort.rounds + 3 for side in sides}
        for side, counts in bench.rounds(sides):
            month[side.name] -= 1
            start = _months_ago(month[side.name])
            fill(side, bench.effort.month, start, start + timedelta(days=27))
            with clients[side.name]() as client:
                figures = _archive(bench, side, client)
            if counts:
                table.add(side.name, figures)
        return [table]


def _months_ago(number: int) -> datetime:
    now = datetime.now(UTC)
    months = 12 * now.year + now.month - 1 - number
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def _archive(bench: Bench, side: Compared, client: Side) -> dict[str, float]:
    stop = Event()
    client.answer([0])  # connects
    with ThreadPoolExecutor(1) as pool:
        submissions = pool.submit(_submit_until, stop, client)
        try:
            time.sleep(_BEFORE_AND_AFTER_SECONDS)
            with bench.meter(side).measure() as cost:
                began = time.perf_counter()
                side.archive()
                took = time.perf_counter() - began
            time.sleep(_BEFORE_AND_AFTER_SECONDS)
        finally:
            stop.set()
        times = submissions.result()
    return {
        "archiving, ms": 1000 * took,
        "slowest submission meanwhile, ms": 1000 * max(times),
        "WAL with that of the submissions, bytes": cost.wal_bytes,
    }


def _submit_until(stop: Event, client: Side) -> list[float]:
    times = []
    while not stop.is_set():
        began = time.perf_counter()
        client.submit(0)
        times.append(time.perf_counter() - began)
    return times
