"""The figures of a run: as tables, for a person and for docs/benchmarks.md."""

import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.server import SETTINGS, BenchmarkServer

PAGE: Final = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- begin: written by make bench -->"
END: Final = "<!-- end: written by make bench -->"


@dataclass
class Row:
    """A figure of every side, once for each round.

    Attributes:
        name: what it is, with its unit.
        values: by side; round n of one side belongs to round n of the others.
    """

    name: str
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, side: str, value: float) -> None:
        """Add a round's figure."""
        self.values.setdefault(side, []).append(value)


@dataclass
class Table:
    """What one line measured.

    Attributes:
        title: what was measured, in a few words.
        sides: the columns; ratios are those of the first to each of the others.
        notes: what a reader must know to read the figures: what a side does not do.
    """

    title: str
    sides: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    notes: Sequence[str] = ()

    def row(self, name: str) -> Row:
        """The row of this name, added at the end if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        self.rows.append(Row(name))
        return self.rows[-1]

    def add(self, side: str, figures: Mapping[str, float]) -> None:
        """Add the figures of one side's round, by name of the row."""
        for name, value in figures.items():
            self.row(name).add(side, value)

    def markdown(self) -> str:
        """The table: median and spread (smallest to largest round) of each side, and ratios."""
        first, *others = self.sides
        header = ["", *self.sides, *(f"{first} ÷ {other}" for other in others)]
        lines = [header, ["---", *("---:" for _ in header[1:])]]
        for row in self.rows:
            cells = [_spread(row.values.get(side, [])) for side in self.sides]
            ratios = [_ratio(row.values.get(first, []), row.values.get(other, [])) for other in others]
            lines.append([row.name, *cells, *ratios])
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return "\n\n".join([f"### {self.title}", table, *self.notes])


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return _number(values[0])
    middle, low, high = map(_number, _spread_of(values))
    return f"{middle} ({low} to {high})"


def _spread_of(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if other]
    if not pairs:
        return "-"
    middle, low, high = (f"{value:.2f}" if value >= 0.1 else f"{value:.2g}" for value in _spread_of(pairs))
    return f"**{middle}** ({low} to {high})"


def _number(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine(server: BenchmarkServer, rounds: int) -> str:
    """Where and with what the figures were measured."""
    row = server.admin.execute("SELECT split_part(version(), ' on ', 1) AS version").fetchone()
    assert row is not None
    return listed(
        surroundings(row["version"])
        | {
            "rounds": f"{rounds}, after one that is not counted; each round measures every side, in alternating order",
            "settings": ", ".join(f"`{name} = {value}`" for name, value in SETTINGS.items()),
        }
    )


def surroundings(postgres: str) -> dict[str, str]:
    """Date, code, machine and versions.

    Args:
        postgres: the server's name and version.
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"],
        cwd=PAGE.parent,
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "Sluice": f"commit {commit or 'unknown'}",
        "machine": f"{_processor()}, {cpu_count()} processors, {platform.system()} {platform.release()}",
        "versions": f"{postgres}, Python {platform.python_version()}, psycopg {version('psycopg')}",
    }


def listed(facts: Mapping[str, str]) -> str:
    """Facts as a list."""
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(sections: Iterable[str], page: Path = PAGE) -> None:
    """Replace the generated part of the page.

    Raises:
        ValueError: the page lacks one of its two markers.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} needs the lines {BEGIN} and {END}: between them the report is written.")
    page.write_text("\n\n".join([before + begin, *sections, end + after]), encoding="utf-8")
