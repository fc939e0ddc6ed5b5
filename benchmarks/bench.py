"""What every line is given: the server, how much to do, and rounds that alternate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.meter import Meter
from benchmarks.seed_sql import SeedSide
from benchmarks.server import BenchmarkServer
from benchmarks.sides import Compared, Side, SluiceSide

T = TypeVar("T")
AnySide = TypeVar("AnySide", bound=Side)


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        rounds: that are counted; one more is done before them.
        requests: in each round of a side, where a line does not say otherwise; a multiple of 100.
        seconds: of each round of a side, where a line measures how much is done in a time.
        depths: how many old requests there are, one after the other, where that is what a line is about.
        month: how many requests there are in a month that is archived.
        months: how many months there are, one after the other, where that is what a line is about.
    """

    rounds: int
    requests: int
    seconds: float
    depths: Sequence[int]
    month: int
    months: Sequence[int]


FULL = Effort(rounds=5, requests=500, seconds=5.0, depths=(10_000, 1_000_000), month=100_000, months=(6, 36, 120))
QUICK = Effort(rounds=2, requests=100, seconds=1.0, depths=(10_000,), month=5_000, months=(6,))


@dataclass(frozen=True)
class Bench:
    """The server and the effort of a run."""

    server: BenchmarkServer
    effort: Effort

    @contextmanager
    def both(self, users: int = 1, *, checks_quotas: bool = True) -> Iterator[tuple[Compared, Compared]]:
        """Sluice and the seed's SQL, each on a new database.

        Args:
            checks_quotas: False leaves the sum of the month's tokens out of the seed's submissions.
        """
        with (
            self.server.database("sluice") as one,
            self.server.database("seed") as other,
            SluiceSide(one, users) as sluice,
            SeedSide(other, users, checks_quotas=checks_quotas) as seed,
        ):
            yield sluice, seed

    def meter(self, side: Side) -> Meter:
        """Measures what a side costs."""
        return Meter(self.server.admin, side.address.dbname)

    def rounds(self, sides: Sequence[AnySide]) -> Iterator[tuple[AnySide, bool]]:
        """Let the sides take turns, with whether the turn counts: not in the first round.

        Every second round begins with the last side. Before each turn the side's database is vacuumed and analysed.
        """
        self.server.admin.execute("CHECKPOINT")
        for number in range(self.effort.rounds + 1):
            for side in sides if number % 2 == 0 else reversed(sides):
                with side.address.connect() as connection:
                    connection.execute("VACUUM (ANALYZE)")
                yield side, number > 0

    def compare(self, sides: Sequence[AnySide], work: Callable[[AnySide], T]) -> Iterator[tuple[AnySide, T]]:
        """The rounds that count, each with what came of the work."""
        for side, counts in self.rounds(sides):
            done = work(side)
            if counts:
                yield side, done
