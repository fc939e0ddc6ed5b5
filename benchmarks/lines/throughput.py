"""How many requests eight clients get answered at the same time, without reads: fifty users', and one user's.

Against the seed's SQL without its sum of the month's tokens, which would grow with every request. Each client is a
process that submits, claims and settles ten requests and begins again; they share the machine with the server.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.bench import Bench
from benchmarks.clients import Clients
from benchmarks.meter import HAS_CPU_TIMES
from benchmarks.report import Table
from benchmarks.seed_sql import SeedSide
from benchmarks.sides import SluiceSide

CLIENTS = 8
USERS = 50
_NOTES = (
    (
        "Client and server share the machine's processors. What the clients' own part takes is Python and the driver: "
        "the seed's SQL sends five times as many statements. One user's requests wait for that user's lock in Sluice, "
        "and for the user's row of quotas in the seed's SQL, which checks no quota here and can exceed it."
    ),
)


def run(bench: Bench) -> Sequence[Table]:
    """Measure fifty users, and one."""
    with (
        bench.both(USERS) as (sluice, seed),
        Clients(partial(SluiceSide, sluice.address, USERS, is_new=False), CLIENTS) as ours,
        Clients(partial(SeedSide, seed.address, USERS, is_new=False, checks_quotas=False), CLIENTS) as theirs,
    ):
        clients = {sluice.name: ours, seed.name: theirs}
        table = Table("Throughput: eight clients, no reads", [sluice.name, seed.name], notes=_NOTES)
        spread = [[user for user in range(USERS) if user % CLIENTS == client] for client in range(CLIENTS)]
        for who, users in (("fifty users", spread), ("one user", [[0]] * CLIENTS)):
            for side, counts in bench.rounds((sluice, seed)):
                with bench.meter(side).measure() as cost:
                    number, speed, client_seconds = clients[side.name].work(bench.effort.seconds, users)
                if counts:
                    figures = {
                        "lifecycles a second": speed,
                        "a client's processor for each, ms": 1000 * client_seconds / number,
                        "commits for each": cost.commits / number,
                    }
                    if HAS_CPU_TIMES:
                        figures["the server's processors for each, ms"] = cost.cpu_ms / number
                    table.add(side.name, {f"{who}: {name}": value for name, value in figures.items()})
        return [table]
