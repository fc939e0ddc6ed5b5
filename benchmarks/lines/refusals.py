"""What it costs to refuse a request because a quota is used up.

Against the seed's SQL, which finds the user by the key and adds up the month's tokens.
"""

from collections.abc import Sequence

from benchmarks.bench import Bench
from benchmarks.meter import HAS_CPU_TIMES
from benchmarks.report import Table
from benchmarks.sides import COMPLETION_TOKENS, PROMPT_TOKENS, Compared

_EARLIER = 100


def run(bench: Bench) -> Sequence[Table]:
    """Measure refusals of one user with some answered requests."""
    with bench.both() as sides:
        table = Table(f"Refusals: a quota is used up (requests before: {_EARLIER})", [side.name for side in sides])
        for side in sides:
            for _ in range(0, _EARLIER, 10):
                side.answer([0] * 10)
            side.leave_tokens(0, _EARLIER * (PROMPT_TOKENS + COMPLETION_TOKENS))
        for side, figures in bench.compare(sides, lambda side: _refuse(bench, side)):
            table.add(side.name, figures)
        return [table]


def _refuse(bench: Bench, side: Compared) -> dict[str, float]:
    number = bench.effort.requests
    with bench.meter(side).measure() as cost:
        for _ in range(number):
            side.refuse(0)
    cost /= number
    cpu = {"CPU of the server's processes, ms": cost.cpu_ms} if HAS_CPU_TIMES else {}
    return (
        {"planning and execution, ms": cost.milliseconds}
        | cpu
        | {"WAL, bytes": cost.wal_bytes, "statements": cost.statements, "commits": cost.commits}
    )
