"""`sluice requests`."""

from collections import Counter

import click

from sluice_cli.groups import Group
from sluice_cli.options import AT_MOST, TIME, given
from sluice_cli.paging import Page, pages, show_pages
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, number, record, table, text, time
from sluice_cli.vocabulary import STATUSES

_REQUEST = (
    time("created_at"),
    text("request_id"),
    text("user_id"),
    text("model_id"),
    text("status"),
    number("attempts"),
    text("error_code"),
    text("last_error"),
    text("waits_for"),
    time("waits_until"),
    time("completed_at"),
)
_CANCELLED = (text("request_id"), text("user_id"), text("status"))
_TOTAL = (text("outcome"), number("requests"))
_LEFT = (text("request_id"), text("outcome"))


@click.group(cls=Group)
def requests() -> None:
    """Find requests, cancel them, and queue failed ones again."""


@requests.command("list")
@click.option("--user", metavar="USER", help="Only this user's.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those in this state.")
@click.option("--reason", metavar="CODE", help="Only those that failed for this reason, like model_unavailable.")
@click.option("--from", "start", type=TIME, help="Only those accepted at this time or later.")
@click.option("--to", "end", type=TIME, help="Only those accepted before this time.")
@click.option("--after", metavar="ID", help="Begin after this request: with those that are older.")
@click.option("--limit", type=AT_MOST, metavar="N", help="Show at most so many.")
@pass_session
def list_requests(
    session: Session,
    user: str | None,
    status: str | None,
    reason: str | None,
    start: str | None,
    end: str | None,
    after: str | None,
    limit: int | None,
) -> None:
    """List requests, newest first, but for those of archived months.

    last_error is why the last attempt came to nothing, waits_for what a request that is not finished waits for.
    """
    filters = given(user_id=user, status=status, error_code=reason, start=start, end=end)

    def fetch(cursor: str | None, rows: int) -> Page:
        found = session.run("request.list", {**filters, **given(before=cursor, limit=rows)})
        return Page(found.get("requests", []), found.get("next_cursor"))

    fetched = pages(fetch, after, limit)
    show_pages(session, fetched, _REQUEST, lambda rows, cursor: {"requests": rows, "next_cursor": cursor})


@requests.command()
@click.argument("request_id", metavar="ID")
@pass_session
def cancel(session: Session, request_id: str) -> None:
    """Cancel a request that has not ended."""
    result = session.show("request.cancel", {"request_id": request_id}, lambda found: record(_CANCELLED, found))
    if result.get("status") == "processing":
        session.note("A worker is at it: the request is cancelled when that has answered, and the answer is dropped.")


@requests.command()
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--reason", metavar="CODE", help="All that failed for this reason, like model_unavailable.")
@click.option("--from", "start", type=TIME, help="Those that failed at this time or later.")
@click.option("--to", "end", type=TIME, help="Those that failed before this time.")
@click.option("--user", metavar="USER", help="Only this user's.")
@click.option("--dry-run", is_flag=True, help="Only show which would be queued again, and why others would not.")
@pass_session
def redrive(
    session: Session,
    request_id: str | None,
    reason: str | None,
    start: str | None,
    end: str | None,
    user: str | None,
    dry_run: bool,
) -> None:
    """Queue a failed request again, or all that failed for a reason in a period.

    Each gets new attempts and a new lifetime. Those of many that can not be queued again are listed with why not; they
    stay as they are.
    """
    needed = {"--reason": reason, "--from": start, "--to": end}
    if request_id is not None:
        if others := [name for name, value in (needed | {"--user": user, "--dry-run": dry_run}).items() if value]:
            raise click.UsageError(f"ID is one request and takes no {' or '.join(others)}.")
        _note_sent(session, session.show("request.redrive", {"request_id": request_id}, _show_redriven))
        return
    if missing := [name for name, value in needed.items() if value is None]:
        raise click.UsageError(
            f"Name a request by its ID, or many by --reason, --from and --to: no {missing[0]} is given."
        )
    _redrive_many(session, given(error_code=reason, start=start, end=end, user_id=user, dry_run=dry_run or None))


def _redrive_many(session: Session, arguments: Row) -> None:
    def fetch(cursor: str | None, rows: int) -> Page:
        found = session.run("request.redrive", {**arguments, **given(after=cursor, limit=rows)})
        return Page(found.get("requests", []), found.get("next_cursor"))

    # By id: what has failed more than once in the period may be on more than one page.
    rows: dict[str, Row] = {}
    result: Row = {}
    try:
        for page in pages(fetch, None, None):
            rows |= {str(row.get("request_id")): row for row in page.rows}
            redriven = sum(row.get("outcome") == "redriven" for row in rows.values())
            result = {"redriven": redriven, "requests": list(rows.values()), "next_cursor": page.next}
    finally:
        # What the first pages did is done, whatever became of the next.
        if result:
            session.print(result, _show_redriven)
            _note_sent(session, result)


def _show_redriven(result: Row) -> str:
    """How many there are of each outcome, and which are not queued."""
    rows = result.get("requests", [])
    counts = Counter(str(row.get("outcome")) for row in rows) or {"redriven": 0}
    parts = [table(_TOTAL, [{"outcome": outcome, "requests": n} for outcome, n in sorted(counts.items())])]
    if left := [row for row in rows if row.get("outcome") != "redriven"]:
        parts.append(table(_LEFT, left))
    return "\n\n".join(parts)


def _note_sent(session: Session, result: Row) -> None:
    if result.get("redriven"):
        session.note("The recovery task sends them within a minute.")
