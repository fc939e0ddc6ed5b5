"""Reads and submissions with many old requests behind them, all of this month, and all new figures from them.

Against the seed's SQL, which adds up the user's month at each submission, and computes usage and statistics from all
rows. There are fifty users, each with the same number of requests.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from benchmarks.bench import Bench
from benchmarks.fill import Known, fill
from benchmarks.report import Table
from benchmarks.sides import Compared

USERS = 50
_BATCH = 10
_NOTES = (
    (
        "All old requests are of this month and of fifty users. History is the newest ten requests. The seed's SQL "
        "adds up the user's month at each submission."
    ),
)
_ROLLUP_NOTES = (
    (
        "Times are those that the task waits. Sluice's rollups add what is new, by user, model, key and tag, by day "
        "and month; the seed's compute the month's usage and the view of statistics from all requests."
    ),
)


def run(bench: Bench) -> Sequence[Table]:
    """Measure status, history and submit at each depth."""
    table = Table("Old requests: what reads and submissions cost", ["Sluice", "the seed's SQL"], notes=_NOTES)
    for depth in bench.effort.depths:
        with bench.both(USERS) as sides:
            known = {side.name: _fill(side, depth) for side in sides}
            for side, figures in bench.compare(sides, partial(_operations, bench, known)):
                table.add(side.name, {f"{name}, {depth:,} old requests, ms": ms for name, ms in figures.items()})
    table.rows.sort(key=lambda row: row.name.partition(",")[0])
    return [table]


def rollups(bench: Bench) -> Sequence[Table]:
    """Measure usage and statistics after a minute's new requests."""
    depth = bench.effort.depths[-1]
    title = f"Usage and statistics: {bench.effort.requests} new requests after {depth:,} old ones"
    with bench.both(USERS, checks_quotas=False) as sides:
        table = Table(title, [side.name for side in sides], notes=_ROLLUP_NOTES)
        for side in sides:
            _fill(side, depth)
            side.roll_up()
            side.refresh_statistics()
        for side, figures in bench.compare(sides, lambda side: _rollups(bench, side)):
            table.add(side.name, figures)
        return [table]


def _fill(side: Compared, number: int) -> Known:
    now = datetime.now(UTC)
    return fill(side, number, now.replace(day=1, hour=0, minute=0, second=0, microsecond=0), now)


def _operations(bench: Bench, known: Mapping[str, Known], side: Compared) -> dict[str, float]:
    meter = bench.meter(side)
    number = USERS
    with meter.measure() as reading:
        for user, request in known[side.name][:number]:
            side.status(user, request)
    with meter.measure() as listing:
        for user in range(USERS):
            side.history(user)
    with meter.measure() as submitting:
        accepted = [side.submit(user % USERS) for user in range(number)]
    side.settle(side.claim(accepted))
    return {
        "status": reading.milliseconds / number,
        "history": listing.milliseconds / USERS,
        "submit": submitting.milliseconds / number,
    }


def _rollups(bench: Bench, side: Compared) -> dict[str, float]:
    for number in range(0, bench.effort.requests, _BATCH):
        side.answer([user % USERS for user in range(number, number + _BATCH)])
    with bench.meter(side).measure() as cost:
        began = time.perf_counter()
        side.roll_up()
        between = time.perf_counter()
        side.refresh_statistics()
        end = time.perf_counter()
    return {
        "usage, ms": 1000 * (between - began),
        "statistics, ms": 1000 * (end - between),
        "both: WAL, bytes": cost.wal_bytes,
    }
