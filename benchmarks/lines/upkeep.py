"""The verification of the ledger and the audit chain, for each new request.

The seed's SQL has neither, so they stand beside what the request itself has cost.
"""

from collections.abc import Sequence

from benchmarks.bench import Bench
from benchmarks.report import Table
from benchmarks.sides import SluiceSide
from sluice.services.verify import verify

USERS = 50
_BATCH = 10
_SEAL_LIMIT = 10_000


def run(bench: Bench) -> Sequence[Table]:
    """Measure both after each round's new requests."""
    with bench.server.database("sluice") as address, SluiceSide(address, USERS) as sluice:
        table = Table("Verification and audit chain, for each new request", [sluice.name])
        for side, figures in bench.compare([sluice], lambda side: _keep_up(bench, side)):
            table.add(side.name, figures)
        return [table]


def _keep_up(bench: Bench, side: SluiceSide) -> dict[str, float]:
    number = bench.effort.requests
    meter = bench.meter(side)
    with meter.measure() as answering:
        for first in range(0, number, _BATCH):
            side.answer([user % USERS for user in range(first, first + _BATCH)])
    with meter.measure() as sealing:
        while side.maintenance.seal_audit(_SEAL_LIMIT).is_more:
            pass
    with meter.measure() as checking:
        found = verify(side.maintenance)
    assert found["balanced"]
    assert not found["full"]
    return {
        "submit, claim and settle: planning and execution, ms": answering.milliseconds / number,
        "chain: planning and execution, ms": sealing.milliseconds / number,
        "chain: WAL, bytes": sealing.wal_bytes / number,
        "verification: planning and execution, ms": checking.milliseconds / number,
    }
