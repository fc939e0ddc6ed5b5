"""Every line of the benchmarks, as short as it can be: it gives figures, and its counts are right. Nothing is timed."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.bench import Bench, Effort
from benchmarks.lines import LINES
from benchmarks.report import Table
from benchmarks.server import running_server

TINY = Effort(rounds=1, requests=100, seconds=0.2, depths=(1000,), month=500, months=(6,))
# Of each request in batches of ten, in every run: statements that a client sends, and commits that are written.
COUNTS = {"Sluice": (2.2, 1.2), "the seed's SQL": (9.0, 1.2)}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with running_server() as server:
        yield Bench(server, TINY)


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_gives_figures_for_every_side(bench: Bench, line: str) -> None:
    tables = LINES[line](bench)
    assert tables
    for table in tables:
        assert table.rows
        for row in table.rows:
            assert set(row.values) == set(table.sides), row.name
            assert all(len(values) == TINY.rounds for values in row.values.values()), row.name
            assert all(math.isfinite(value) and value >= 0 for values in row.values.values() for value in values)
        assert table.markdown().startswith(f"### {table.title}\n")


@pytest.mark.slow
def test_counts_are_those_of_the_designs(bench: Bench) -> None:
    for table in LINES["lifecycle"](bench):
        for side, (statements, commits) in COUNTS.items():
            assert table.row("statements").values[side] == [pytest.approx(statements, abs=0.02)]
            assert table.row("commits").values[side] == [pytest.approx(commits, abs=0.02)]
        assert table.row("WAL, bytes").values["Sluice"][0] > 1000


@pytest.mark.slow
def test_a_client_that_waits_costs_one_statement_less(bench: Bench) -> None:
    (table,) = LINES["foreground"](bench)
    # Of each request: accepted and claimed, settled; accepted, claimed, settled; accepted, a tenth of both.
    for name in ("statements", "commits"):
        found = {side: values[0] for side, values in table.row(name).values.items()}
        assert found == pytest.approx(
            {"foreground": 2, "the queue, batches of 1": 3, "the queue, batches of 10": 1.2}, abs=0.02
        )


def test_the_table_has_medians_spreads_and_ratios_of_the_same_round() -> None:
    table = Table("T", ["a", "b"])
    for ours, theirs in ((1, 2), (2, 8), (9, 12)):
        table.add("a", {"x": ours})
        table.add("b", {"x": theirs})
    assert "| x | 2 (1 to 9) | 8 (2 to 12) | **0.50** (0.25 to 0.75) |" in table.markdown()


def test_only_the_generated_part_of_the_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nafter\n")
    report.write(["new"], page)
    assert page.read_text() == f"before\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\nafter\n"


def test_a_page_without_the_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before")
    with pytest.raises(ValueError, match=r"page\.md needs the lines"):
        report.write(["new"], page)
    assert page.read_text() == "before"
