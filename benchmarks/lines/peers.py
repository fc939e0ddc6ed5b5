"""Job queues on PostgreSQL that do the same requests in the same run, against what Sluice and the seed's SQL do.

procrastinate and pgqueuer, see benchmarks/peers.py.
"""

from collections.abc import Mapping, Sequence

from benchmarks.bench import Bench
from benchmarks.lines.lifecycle import figures, lifecycles
from benchmarks.meter import Cost
from benchmarks.peers import PgQueuer, Procrastinate
from benchmarks.report import Table
from benchmarks.sides import Side

_USERS = 50
_NOTES = (
    (
        "procrastinate and pgqueuer are queues: a job is accepted, handed out once, tried again and finished; the "
        "answer goes into a table beside it. They have no API keys, quotas, reservations, prices, usage or audit log "
        "that can be proved, and no history by user. They run with their own workers and settings, with prepared "
        "statements, which the two others do without because RDS Proxy does not share them; a worker runs once for a "
        "hundred jobs."
    ),
)


def run(bench: Bench) -> Sequence[Table]:
    """Measure all four."""
    with (
        bench.both(_USERS) as (sluice, seed),
        bench.server.database("procrastinate") as one,
        bench.server.database("pgqueuer") as other,
        Procrastinate(one) as procrastinate,
        PgQueuer(other) as pgqueuer,
    ):
        sides: Sequence[Side] = (sluice, seed, procrastinate, pgqueuer)
        table = Table("Peers: the same requests in job queues", [side.name for side in sides], notes=_NOTES)
        for side, costs in bench.compare(
            sides, lambda side: lifecycles(bench, side, bench.effort.requests, lambda number: number % _USERS)
        ):
            table.add(side.name, figures(_steps(costs)))
        return [table]


def _steps(costs: Mapping[str, Cost]) -> Mapping[str, Cost]:
    """Claim and settle as one: a queue's worker does both."""
    return {
        "submit": costs["submit"],
        "claim and settle": costs["claim"] + costs["settle"],
        "status": costs["status"],
    }
