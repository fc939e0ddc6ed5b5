"""`sluice audit`."""

import datetime as dt

import click

from sluice_cli.groups import Group
from sluice_cli.options import AT_MOST, DURATION, TIME, given
from sluice_cli.paging import fetch_with, pages, show_pages
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import text, time

_ENTRY = (
    time("at"),
    text("actor"),
    text("action"),
    text("user_id"),
    text("key_id"),
    text("request_id"),
    text("audit_id"),
    text("invocation"),
    text("before"),
    text("after"),
)

_BEGINNING = dt.datetime(1971, 1, 1, tzinfo=dt.UTC)


@click.group(cls=Group)
def audit() -> None:
    """Show who changed what."""


@audit.command("list")
@click.option("--user", metavar="USER", help="Only entries about this user.")
@click.option("--request", metavar="ID", help="Only entries about this request.")
@click.option("--action", help="Only entries of this action, like key.create.")
@click.option("--start", type=TIME, help="Only entries at this time or later.")
@click.option("--end", type=TIME, help="Only entries before this time.")
@click.option("--since", type=DURATION, help="Instead of --start: the last 30m, 24h or 7d, for example.")
@click.option("--after", metavar="AUDIT_ID", help="Start after this entry.")
@click.option("--limit", type=AT_MOST, metavar="N", help="Show at most this many.")
@pass_session
def list_entries(
    session: Session,
    user: str | None,
    request: str | None,
    action: str | None,
    start: str | None,
    end: str | None,
    since: int | None,
    after: str | None,
    limit: int | None,
) -> None:
    """List entries of the audit log, oldest first."""
    if since is not None:
        if start is not None:
            raise click.UsageError("--start and --since cannot be combined.")
        # Nothing is older, and the service reads no earlier time.
        start = max(dt.datetime.now(dt.UTC) - dt.timedelta(seconds=since), _BEGINNING).isoformat()
    filters = given(user_id=user, request_id=request, action=action, start=start, end=end)
    fetched = pages(fetch_with(session, "audit.list", filters, rows="entries"), after, limit)
    show_pages(session, fetched, _ENTRY, lambda rows, cursor: {"entries": rows, "next_cursor": cursor})
