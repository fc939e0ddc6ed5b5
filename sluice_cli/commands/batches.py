"""`sluice batches`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import AT_MOST, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, number, record, table, text, time
from sluice_cli.vocabulary import BATCH_STATUSES

_LISTED = (
    text("batch_id"),
    text("user_id"),
    text("endpoint"),
    text("status"),
    number("total"),
    number("completed"),
    number("failed"),
    number("running"),
    text("waits_for"),
    time("created_at"),
    time("expires_at"),
)
_BATCH = (
    *_LISTED,
    text("completion_window"),
    time("in_progress_at"),
    time("finalizing_at"),
    time("cancelling_at"),
    text("cancel_reason"),
    time("ended_at"),
    text("fault"),
)


@click.group(cls=Group)
def batches() -> None:
    """Show batches of requests, and cancel them."""


@batches.command("list")
@click.option("--user", "user_id", metavar="USER", help="Only this user's.")
@click.option("--status", type=click.Choice(BATCH_STATUSES), help="Only batches in this state.")
@click.option("--limit", type=AT_MOST, metavar="N", help="Show at most this many; default: 100.")
@pass_session
def list_batches(session: Session, user_id: str | None, status: str | None, limit: int | None) -> None:
    """List batches, newest first. waits_for says which limit the next line waits for."""
    arguments = given(user_id=user_id, status=status, limit=limit)
    session.show("batch.list", arguments, lambda found: table(_LISTED, found))


@batches.command()
@click.argument("batch_id", metavar="BATCH")
@pass_session
def show(session: Session, batch_id: str) -> None:
    """Show a batch; of one that failed, the first thing that is wrong in its file. With --json, all of them."""
    session.show("batch.show", {"batch_id": batch_id}, _show)


@batches.command()
@click.argument("batch_id", metavar="BATCH")
@pass_session
def cancel(session: Session, batch_id: str) -> None:
    """Cancel a batch: nothing more of it is started. What was answered is in its output file all the same."""
    session.show("batch.cancel", {"batch_id": batch_id}, _show)


def _show(batch: Row) -> str:
    return record(_BATCH, batch)
