"""What every line is given: the server, how much to do, and rounds that alternate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.meter import Meter
from benchmarks.seed_sql import SeedSide
from benchmarks.server import BenchmarkServer
from benchmarks.sides import Side, SluiceSide

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        rounds: that are counted; one more is done before them.
        requests: in each round of a side, where a line does not say otherwise; a multiple of 100.
        seconds: of each round of a side, where a line measures how much is done in a time.
        depths: how many old requests there are, one after the other, where that is what a line is about.
    """

    rounds: int
    requests: int
    seconds: float
    depths: Sequence[int]


FULL = Effort(rounds=5, requests=500, seconds=5.0, depths=(10_000, 1_000_000))
QUICK = Effort(rounds=2, requests=100, seconds=1.0, depths=(10_000,))


@dataclass(frozen=True)
class Bench:
    """The server and the effort of a run."""

    server: BenchmarkServer
    effort: Effort

    @contextmanager
    def sluice(self, users: int = 1) -> Iterator[SluiceSide]:
        """Sluice on a database of its own."""
        with self.server.database("sluice") as dbname, SluiceSide(self.server, dbname, users) as side:
            yield side

    @contextmanager
    def seed(self, users: int = 1, *, checks_quotas: bool = True) -> Iterator[SeedSide]:
        """The seed's SQL on a database of its own."""
        with (
            self.server.database("seed") as dbname,
            SeedSide(self.server, dbname, users, checks_quotas=checks_quotas) as side,
        ):
            yield side

    def meter(self, side: Side) -> Meter:
        """Measures what a side costs."""
        return Meter(self.server, side.dbname, side.backends)

    def rounds(self, sides: Sequence[Side], work: Callable[[Side], T]) -> Iterator[tuple[Side, T]]:
        """Let each side do its work in turns; yields what came of it, without the first round's.

        Every second round begins with the last side. Before each turn the side's database is vacuumed and analysed.
        """
        self.server.checkpoint()
        for number in range(self.effort.rounds + 1):
            for side in sides if number % 2 == 0 else reversed(sides):
                self.server.settle_down(side.dbname)
                done = work(side)
                if number > 0:
                    yield side, done
