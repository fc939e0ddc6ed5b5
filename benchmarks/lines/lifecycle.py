"""A request from its submission to the answer that its client reads, step by step.

Against the seed's SQL. Prompts and answers of 1 kB, worker batches of ten, one status read of each ended request, one
statement at a time. The steps are done a hundred requests at a time, so that the cost of each can be told apart.
"""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.bench import Bench
from benchmarks.meter import HAS_CPU_TIMES, Cost
from benchmarks.report import Table
from benchmarks.sides import Side

BATCH = 10
_CHUNK = 100
USERS = 50
_NOTES = (
    (
        "Times are those of planning and execution of the statements that the clients send, in pg_stat_statements; CPU "
        "is that of the connections' server processes. Commits are those that wrote a commit record, for which a "
        "client waits until it is on disk. A full-page image is written for the first change of a page after a "
        "checkpoint: here most are in the round that is not counted."
    ),
    (
        "The seed's SQL keeps keys in plain text, has no audit log, no leases, no retries, no reservations and no "
        "costs, and its quotas can be exceeded."
    ),
)


def run(bench: Bench) -> Sequence[Table]:
    """Measure batches of one user each, and batches of ten users."""
    return [
        _measure(bench, "Lifecycle: ten requests of one user in a batch", lambda number: number // BATCH % USERS),
        _measure(bench, "Lifecycle: ten users in a batch", lambda number: number % USERS, _NOTES),
    ]


def _measure(bench: Bench, title: str, user_of: Callable[[int], int], notes: Sequence[str] = ()) -> Table:
    with bench.both(USERS) as sides:
        table = Table(title, [side.name for side in sides], notes=notes)
        for side, costs in bench.compare(sides, lambda side: lifecycles(bench, side, bench.effort.requests, user_of)):
            table.add(side.name, figures(costs))
        return table


def lifecycles(bench: Bench, side: Side, requests: int, user_of: Callable[[int], int]) -> Mapping[str, Cost]:
    """Do so many lifecycles, a multiple of 100; returns what each step cost, for one request.

    Args:
        user_of: the user of the request with this number.
    """
    meter = bench.meter(side)
    costs = {step: Cost() for step in ("submit", "claim", "settle", "status")}
    for first in range(0, requests, _CHUNK):
        users = [user_of(number) for number in range(first, first + _CHUNK)]
        with meter.measure() as submitting:
            accepted = [side.submit(user) for user in users]
        with meter.measure() as claiming:
            claimed = [side.claim(accepted[at : at + BATCH]) for at in range(0, _CHUNK, BATCH)]
        with meter.measure() as settling:
            for batch in claimed:
                side.settle(batch)
        with meter.measure() as reading:
            for user, request in zip(users, accepted, strict=True):
                side.status(user, request)
        for step, cost in zip(costs, (submitting, claiming, settling, reading), strict=True):
            costs[step] += cost
    return {step: cost / requests for step, cost in costs.items()}


def figures(costs: Mapping[str, Cost]) -> dict[str, float]:
    """The rows of a table, of a lifecycle's steps."""
    whole = sum(costs.values(), Cost())
    cpu = {"CPU of the server's processes, ms": whole.cpu_ms} if HAS_CPU_TIMES else {}
    return (
        {f"{step}: planning and execution, ms": cost.milliseconds for step, cost in costs.items()}
        | {"in all: planning and execution, ms": whole.milliseconds}
        | cpu
        | {
            "WAL, bytes": whole.wal_bytes,
            "of it full-page images, bytes": whole.image_bytes,
            "WAL records": whole.wal_records,
            "statements": whole.statements,
            "commits": whole.commits,
        }
    )
