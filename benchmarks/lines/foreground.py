"""A request whose client waits for the answer: accepted and claimed in one call, and settled.

Beside the way through the queue (accepted, claimed and settled, each in a call of its own), with workers' batches of
one request, as few requests make them, and of ten. Prompts and answers of 1 kB.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from benchmarks.bench import Bench
from benchmarks.meter import HAS_CPU_TIMES, Cost
from benchmarks.report import Table
from benchmarks.server import Address
from benchmarks.sides import SluiceSide, submission
from sluice.db.ledger import Ledger
from sluice.domain.requests import Claim

USERS = 50
_CHUNK = 100
_LEASE_SECONDS = 60
_NOTES = (
    (
        "The queue's messages are not in it, nor the statements with which its client asks for the answer, one at "
        "least: a client that waits is told by the function that ran its request."
    ),
)


class QueueSide(SluiceSide):
    """The way through the queue, with a worker's batches of some size."""

    def __init__(self, address: Address, users: int, batch: int) -> None:
        super().__init__(address, users)
        self.name = f"the queue, batches of {batch}"
        self._batch = batch

    def accept(self, user: int) -> UUID:
        """Accept a request."""
        return self.submit(user)

    def finish(self, accepted: Sequence[Any]) -> None:
        """Claim and settle what was accepted."""
        for first in range(0, len(accepted), self._batch):
            self.settle(self.claim(accepted[first : first + self._batch]))


class ForegroundSide(QueueSide):
    """Requests that are claimed as they are accepted, and settled one by one."""

    def __init__(self, address: Address, users: int) -> None:
        super().__init__(address, users, 1)
        self.name = "foreground"
        self.front = Ledger(self.database("openai"))
        self.worker = Ledger(self.database("foreground"))

    def accept(self, user: int) -> Any:
        run = self.front.run(self.keys[user], submission(), self.limits, _LEASE_SECONDS)
        assert run.claim is not None, run.outcome
        return Claim.from_json(run.claim)

    def claim(self, requests: Sequence[Any]) -> list[Claim]:
        return list(requests)


def run(bench: Bench) -> Sequence[Table]:
    """Measure the three, of fifty users."""
    with (
        bench.server.database("foreground") as one,
        bench.server.database("single") as two,
        bench.server.database("batched") as three,
        ForegroundSide(one, USERS) as foreground,
        QueueSide(two, USERS, 1) as single,
        QueueSide(three, USERS, 10) as batched,
    ):
        sides: list[QueueSide] = [foreground, single, batched]
        table = Table("Foreground: a request whose client waits", [side.name for side in sides], notes=_NOTES)
        for side, figures in bench.compare(sides, lambda side: _work(bench, side)):
            table.add(side.name, figures)
        return [table]


def _work(bench: Bench, side: QueueSide) -> Mapping[str, float]:
    cost = Cost()
    for first in range(0, bench.effort.requests, _CHUNK):
        with bench.meter(side).measure() as its:
            side.finish([side.accept(number % USERS) for number in range(first, first + _CHUNK)])
        cost += its
    cost /= bench.effort.requests
    cpu = {"CPU of the server's processes, ms": cost.cpu_ms} if HAS_CPU_TIMES else {}
    return {
        "statements": cost.statements,
        "commits": cost.commits,
        "planning and execution, ms": cost.milliseconds,
        **cpu,
        "WAL, bytes": cost.wal_bytes,
    }
