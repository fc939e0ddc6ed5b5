"""Claim and settle by the size of a worker's batch, against the seed's SQL with the same batches."""

from collections.abc import Sequence
from functools import partial

from benchmarks.bench import Bench
from benchmarks.meter import Cost
from benchmarks.report import Table
from benchmarks.sides import Compared

SIZES = (1, 2, 5, 10)
_USERS = 50
_CHUNK = 100


def run(bench: Bench) -> Sequence[Table]:
    """Measure each size."""
    with bench.both(_USERS) as sides:
        table = Table("Claim and settle by batch size, for each request", [side.name for side in sides])
        for size in SIZES:
            for side, cost in bench.compare(sides, partial(_work, bench, size)):
                table.add(
                    side.name,
                    {
                        f"batches of {size}: planning and execution, ms": cost.milliseconds,
                        f"batches of {size}: WAL, bytes": cost.wal_bytes,
                        f"batches of {size}: commits": cost.commits,
                    },
                )
        return [table]


def _work(bench: Bench, size: int, side: Compared) -> Cost:
    whole = Cost()
    for first in range(0, bench.effort.requests, _CHUNK):
        accepted = [side.submit(number % _USERS) for number in range(first, first + _CHUNK)]
        with bench.meter(side).measure() as cost:
            for at in range(0, _CHUNK, size):
                side.settle(side.claim(accepted[at : at + size]))
        whole += cost
    return whole / bench.effort.requests
