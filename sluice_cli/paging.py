"""Lists that are longer than one answer: followed to the end, or to a limit, and shown as they come."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import click

from sluice_cli.session import Session
from sluice_cli.tables import Column, Listing, Row

# An answer of Lambda holds 6 MB: 12 kB for each row.
PAGE_ROWS = 500


@dataclass(frozen=True)
class Page:
    """Some rows of a list, and the cursor after which it goes on, or None at its end."""

    rows: list[Row]
    next: str | None


# Takes a cursor and the number of rows wanted.
Fetch = Callable[[str | None, int], Page]


def pages(fetch: Fetch, after: str | None, limit: int | None) -> Iterator[Page]:
    """Fetch page after page, `limit` rows altogether."""
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
    """Print a table page by page, so that who reads the first lines need not wait for the last.

    As JSON all pages are one result, which `as_result` makes of their rows and the last cursor.
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
