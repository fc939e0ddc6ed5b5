"""Lists that take more than one call: read to the end, or to a limit, and printed page by page."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import click

from sluice_cli.options import given
from sluice_cli.session import Session
from sluice_cli.tables import Column, Listing, Row

# A response of Lambda holds 6 MB, which is 12 kB for each row.
PAGE_ROWS = 500


@dataclass(frozen=True)
class Page:
    """Some rows of a list, and the cursor for the next page, or None at the end."""

    rows: list[Row]
    next: str | None


# Called with a cursor and the number of rows wanted.
Fetch = Callable[[str | None, int], Page]


def fetch_with(
    session: Session, operation: str, arguments: Mapping[str, object], *, rows: str, cursor: str = "after"
) -> Fetch:
    """Return what fetches the pages of an operation whose result has a `next_cursor`.

    Args:
        session: the current run.
        operation: its name.
        arguments: of the operation, the same for all pages.
        rows: the member of the result that holds the rows.
        cursor: the argument that takes the cursor.
    """

    def fetch(after: str | None, limit: int) -> Page:
        found = session.run(operation, {**arguments, **given(**{cursor: after}, limit=limit)})
        return Page(found.get(rows, []), found.get("next_cursor"))

    return fetch


def pages(fetch: Fetch, after: str | None, limit: int | None) -> Iterator[Page]:
    """Fetch page after page.

    Args:
        fetch: fetches one page.
        after: the cursor to start from.
        limit: how many rows to fetch altogether; None for all.
    """
    wanted = limit
    while True:
        page = fetch(after, PAGE_ROWS if wanted is None else min(wanted, PAGE_ROWS))
        yield page
        if wanted is not None:
            wanted -= len(page.rows)
        if page.next is None or wanted == 0:
            return
        after = page.next


def show_pages(
    session: Session,
    fetched: Iterable[Page],
    columns: Sequence[Column],
    as_result: Callable[[list[Row], str | None], object],
) -> None:
    """Print a table page by page, so that the first lines appear before the last page is fetched.

    Args:
        session: the current run.
        fetched: the pages.
        columns: of the table.
        as_result: builds the JSON result from all rows and the last cursor.
    """
    if session.as_json:
        found = list(fetched)
        rows = [row for page in found for row in page.rows]
        session.print_json(as_result(rows, found[-1].next))
        return
    listing = Listing(columns)
    cursor: str | None = None
    for page in fetched:
        if shown := listing.page(page.rows):
            click.echo(shown)
        cursor = page.next
    if cursor is not None:
        session.note(f"There may be more: --after {cursor}")
