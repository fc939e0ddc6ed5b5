"""Results as text for people: tables, and records with one field per line.

Lines are never cut or wrapped: output is piped and searched, and values copied from a terminal must be complete. So a
table that is too wide for the terminal is shown as records, and in a pipe a table is as wide as it needs to be.
"""

import datetime as dt
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

_GAP: Final = 2
_ABSENT: Final = "-"


@dataclass(frozen=True)
class Column:
    """A column of a table, or a field of a record.

    Attributes:
        title: the field's name in JSON, if it has one.
        cell: returns its text for a row.
        is_number: True to align it right.
    """

    title: str
    cell: Callable[[Row], str]
    is_number: bool = False


def text(path: str, title: str | None = None, *, null: str = _ABSENT) -> Column:
    """A column for the member at a dotted path; `null` is shown for null."""
    return Column(title or path, lambda row: _text(member(row, path, null)))


def number(path: str, title: str | None = None, *, null: str = _ABSENT) -> Column:
    """A column for a count or an amount."""
    return Column(title or path, lambda row: _text(member(row, path, null)), is_number=True)


def limit(path: str, title: str | None = None) -> Column:
    """A column for a number that may be unlimited."""
    return number(path, title, null="unlimited")


def time(path: str, title: str | None = None, *, null: str = _ABSENT) -> Column:
    """A column for a time, shown in UTC to the second."""
    return Column(title or path, lambda row: _time(member(row, path, null)))


def member(row: Row, path: str, null: object = None) -> Any:
    """Return the member at a dotted path, `null` for null, or "-" if an older or newer service does not send it."""
    value: Any = row
    for name in path.split("."):
        if value is None:
            return null
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return null if value is None else value


def record(columns: Sequence[Column], row: Row) -> str:
    """Return a row as text, one field per line."""
    lines = [[printable(column.title), printable(column.cell(row))] for column in columns]
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for width, style in zip(_widths(lines), ("bold", ""), strict=True):
        grid.add_column(width=width, style=style)
    return _render(grid, lines)


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return a header and a line for each row."""
    return Listing(columns).page(rows)


class Listing:
    """A table that is printed page by page; columns never get narrower."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._titles = [printable(column.title) for column in columns]
        self._widths = [0 for _ in columns]
        self._has_header = False

    def page(self, rows: Sequence[Row]) -> str:
        """Return the text of the next rows; the first page begins with the header."""
        lines = [[printable(column.cell(row)) for column in self._columns] for row in rows]
        self._widths = _widths([self._titles, *lines], self._widths)
        has_header, self._has_header = self._has_header, True
        if _is_too_wide(sum(self._widths) + _GAP * (len(self._widths) - 1)):
            records = "\n\n".join(record(self._columns, row) for row in rows)
            return f"\n{records}" if has_header and rows else records
        made = Table(box=None, show_header=not has_header, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
        for column, title, width in zip(self._columns, self._titles, self._widths, strict=True):
            made.add_column(Text(title), justify="right" if column.is_number else "left", width=width)
        return _render(made, lines)


def printable(value: str) -> str:
    """Escape unprintable characters, so that a value stays on one line and cannot control the terminal."""
    if value.isprintable():
        return value
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in value)


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(_text(each) for each in value) or _ABSENT
        case Mapping():
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


def _time(value: object) -> str:
    try:
        return f"{dt.datetime.fromisoformat(str(value)).astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    except ValueError:
        return str(value)


def _is_too_wide(width: int) -> bool:
    return sys.stdout.isatty() and width > shutil.get_terminal_size().columns


def _widths(lines: Sequence[Sequence[str]], least: Sequence[int] = ()) -> list[int]:
    """Return how wide each column must be."""
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    return [max(pair) for pair in zip(widths, least, strict=True)] if least else widths


def _render(made: Table, lines: Sequence[Sequence[str]]) -> str:
    """Return the text of a table with these lines; the columns have fixed widths."""
    for line in lines:
        made.add_row(*map(Text, line))
    # rich shortens values that do not fit; at this width all of them fit.
    width = sum((column.width or 0) + _GAP for column in made.columns)
    console = Console(file=sys.stdout, highlight=False, width=width)
    with console.capture() as captured:
        console.print(made)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
