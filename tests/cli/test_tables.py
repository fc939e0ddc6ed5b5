"""Tables and records: whatever a cell contains, each row is one line and complete."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_cli.tables import Listing, number, printable, record, table, text, time

COLUMNS = (text("name"), number("count"), text("other"))


@settings(deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_row_is_one_complete_line(names: list[str]) -> None:
    rows = [{"name": name, "count": 1, "other": "end"} for name in names]
    lines = table(COLUMNS, rows).split("\n")
    assert len(lines) == 1 + len(rows)
    for line, name in zip(lines[1:], names, strict=True):
        assert line.startswith(printable(name))
        assert line.split()[-2:] == ["1", "end"]
    for row, name in zip(rows, names, strict=True):
        shown = record(COLUMNS, row).split("\n")
        assert shown == [f"name   {printable(name)}".rstrip(), "count  1", "other  end"]


@settings(deadline=None, derandomize=True)
@given(st.text())
def test_only_unprintable_characters_are_escaped(value: str) -> None:
    shown = printable(value)
    assert shown.isprintable()
    assert (shown == value) == value.isprintable()


def test_empty_record_and_empty_table() -> None:
    assert record([text("a")], {"a": ""}) == "a"
    assert table(COLUMNS, []) == "name  count  other"


def test_later_pages_keep_the_columns_without_a_header() -> None:
    listing = Listing((text("a"), text("b")))
    assert listing.page([{"a": "long-word", "b": "x"}]) == "a          b\nlong-word  x"
    assert listing.page([{"a": "s", "b": "x"}]) == "s          x"
    assert listing.page([]) == ""


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2027-01-01T01:00:00+01:00", "2027-01-01T00:00:00Z"),
        ("2027-01-01 00:00:00.999+00:00", "2027-01-01T00:00:00Z"),
        (None, "-"),
        ("later", "later"),
        (12, "12"),
    ],
)
def test_times_are_shown_in_utc(moment: object, shown: str) -> None:
    assert record([time("at")], {"at": moment}) == f"at  {shown}"
