"""`sluice requests`."""

from collections import Counter

import click

from sluice_cli.groups import Group
from sluice_cli.options import AT_MOST, REQUEST_ID, TIME, given
from sluice_cli.paging import fetch_with, pages, show_pages
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, number, record, table, text, time
from sluice_cli.vocabulary import FINISH_REASONS, STATUSES

_REQUEST = (
    time("created_at"),
    text("request_id"),
    text("user_id"),
    text("model_id"),
    text("status"),
    text("finish_reason"),
    number("attempts"),
    text("error_code"),
    text("last_error"),
    text("waits_for"),
    time("waits_until"),
    time("completed_at"),
)
_DETAILS = (
    text("request_id"),
    text("user_id"),
    text("key_id"),
    text("model_id"),
    text("api"),
    text("status"),
    text("finish_reason"),
    text("empty_reason"),
    text("error_code"),
    text("error_message"),
    number("attempts"),
    number("failed_attempts"),
    number("max_attempts"),
    text("last_error"),
    text("waits_for"),
    time("waits_until"),
    time("created_at"),
    time("expires_at"),
    time("started_at"),
    time("completed_at"),
    time("erased_at"),
    number("processing_time_ms"),
    number("reserved_tokens"),
    number("prompt_tokens"),
    number("completion_tokens"),
    number("cached_tokens"),
    number("reasoning_tokens"),
    text("fallbacks"),
    text("answered_by"),
    text("cached_from"),
    text("completion_window"),
    time("due_at"),
)
_CALL = (
    number("attempt"),
    text("model"),
    text("backend"),
    text("cause", null="answered"),
    number("http_status"),
    number("prompt_tokens"),
    number("completion_tokens"),
    text("is_charged", "charged"),
    text("cost.amount", "cost"),
    text("cost.currency", "currency"),
    time("begun_at"),
    time("ended_at"),
)
_CANCELLED = (text("request_id"), text("user_id"), text("status"))
_TOTAL = (text("outcome"), number("requests"))
_LEFT = (text("request_id"), text("outcome"))


@click.group(cls=Group)
def requests() -> None:
    """List, show and cancel requests, and redrive failed ones."""


@requests.command("list")
@click.option("--user", metavar="USER", help="Only requests of this user.")
@click.option("--status", type=click.Choice(STATUSES), help="Only requests with this status.")
@click.option("--reason", metavar="CODE", help="Only requests that failed for this reason, like model_unavailable.")
@click.option(
    "--finish-reason",
    type=click.Choice(FINISH_REASONS),
    help="Only completed requests whose model stopped for this reason.",
)
@click.option("--from", "start", type=TIME, help="Only requests accepted at this time or later.")
@click.option("--to", "end", type=TIME, help="Only requests accepted before this time.")
@click.option("--after", metavar="ID", type=REQUEST_ID, help="Start after this request, with older ones.")
@click.option("--limit", type=AT_MOST, metavar="N", help="Show at most this many.")
@pass_session
def list_requests(
    session: Session,
    user: str | None,
    status: str | None,
    reason: str | None,
    finish_reason: str | None,
    start: str | None,
    end: str | None,
    after: str | None,
    limit: int | None,
) -> None:
    """List requests, newest first, except those of archived months.

    finish_reason is why the model of a completed request stopped; last_error is why the last attempt failed; waits_for
    is what an unfinished request is waiting for.
    """
    filters = given(user_id=user, status=status, error_code=reason, finish_reason=finish_reason, start=start, end=end)
    fetched = pages(fetch_with(session, "request.list", filters, rows="requests", cursor="before"), after, limit)
    show_pages(session, fetched, _REQUEST, lambda rows, cursor: {"requests": rows, "next_cursor": cursor})


@requests.command()
@click.argument("request_id", metavar="ID", type=REQUEST_ID)
@pass_session
def show(session: Session, request_id: str) -> None:
    """Show a request, archived or not, without its prompt and its result.

    empty_reason is why a completed request has no text. Below are the calls of models, if one failed or had to be
    repeated.
    """
    session.show("request.get", {"request_id": request_id}, _show_details)


@requests.command()
@click.argument("request_id", metavar="ID", type=REQUEST_ID)
@pass_session
def cancel(session: Session, request_id: str) -> None:
    """Cancel a request that is not finished."""
    result = session.show("request.cancel", {"request_id": request_id}, lambda found: record(_CANCELLED, found))
    if result.get("status") == "processing":
        session.note("A worker is processing it: it is cancelled when the worker is done, and the result is discarded.")


@requests.command()
@click.argument("request_id", metavar="[ID]", required=False, type=REQUEST_ID)
@click.option("--reason", metavar="CODE", help="All requests that failed for this reason, like model_unavailable.")
@click.option("--from", "start", type=TIME, help="Only requests that failed at this time or later.")
@click.option("--to", "end", type=TIME, help="Only requests that failed before this time.")
@click.option("--user", metavar="USER", help="Only requests of this user.")
@click.option("--dry-run", is_flag=True, help="Only list the requests; change nothing.")
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
    """Redrive a failed request, or all requests that failed for a reason in a period: queue them again.

    Each request gets new attempts and a new lifetime. With --reason, requests that cannot be queued again are listed
    with the reason and stay as they are.
    """
    needed = {"--reason": reason, "--from": start, "--to": end}
    if request_id is not None:
        if others := [name for name, value in (needed | {"--user": user, "--dry-run": dry_run}).items() if value]:
            raise click.UsageError(f"ID is a single request and cannot be combined with {' or '.join(others)}.")
        _note_sent(session, session.show("request.redrive", {"request_id": request_id}, _show_redriven))
        return
    if missing := [name for name, value in needed.items() if value is None]:
        raise click.UsageError(
            f"Give the ID of one request, or --reason, --from and --to for many: {missing[0]} is missing."
        )
    _redrive_many(session, given(error_code=reason, start=start, end=end, user_id=user, dry_run=dry_run or None))


def _show_details(found: Row) -> str:
    parts = [record(_DETAILS, found)]
    if calls := found.get("calls"):
        parts.append(table(_CALL, calls))
    return "\n\n".join(parts)


def _redrive_many(session: Session, arguments: Row) -> None:
    # By id: a request that failed more than once in the period may be on more than one page.
    rows: dict[str, Row] = {}
    result: Row = {}
    try:
        for page in pages(fetch_with(session, "request.redrive", arguments, rows="requests"), None, None):
            rows |= {str(row.get("request_id")): row for row in page.rows}
            redriven = sum(row.get("outcome") == "redriven" for row in rows.values())
            result = {"redriven": redriven, "requests": list(rows.values()), "next_cursor": page.next}
    finally:
        # The first pages are done, even if the next one fails.
        if result:
            session.print(result, _show_redriven)
            _note_sent(session, result)


def _show_redriven(result: Row) -> str:
    """Show the number of requests by outcome, and those that were not queued."""
    rows = result.get("requests", [])
    counts = Counter(str(row.get("outcome")) for row in rows) or {"redriven": 0}
    parts = [table(_TOTAL, [{"outcome": outcome, "requests": n} for outcome, n in sorted(counts.items())])]
    if left := [row for row in rows if row.get("outcome") != "redriven"]:
        parts.append(table(_LEFT, left))
    return "\n\n".join(parts)


def _note_sent(session: Session, result: Row) -> None:
    if result.get("redriven"):
        session.note("The recovery task sends them to the queue within a minute.")
