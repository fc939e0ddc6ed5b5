"""`sluice webhooks`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import AT_MOST, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, number, record, table, text, time
from sluice_cli.vocabulary import WEBHOOK_STATES

_ENDPOINT = (
    text("endpoint_id"),
    text("user_id"),
    text("name"),
    text("url"),
    text("event_types"),
    text("secret_hint"),
    time("disabled_at", null="enabled"),
    text("disabled_reason"),
    number("failures"),
    time("paused_until"),
    time("created_at"),
)
_EVENT = (
    text("event_id"),
    text("event_type"),
    text("data_id"),
    text("endpoint_id", null="the request's own URL"),
    text("state"),
    number("attempts"),
    number("status_code"),
    number("latency_ms"),
    text("last_cause"),
    time("next_attempt_at"),
    time("created_at"),
)


@click.group(cls=Group)
def webhooks() -> None:
    """Show where users are told how their requests ended, and what was sent."""


@webhooks.command("list")
@click.argument("user_id", metavar="USER")
@pass_session
def list_endpoints(session: Session, user_id: str) -> None:
    """List a user's endpoints, newest first."""
    session.show("webhook.list", {"user_id": user_id}, lambda found: table(_ENDPOINT, found))


@webhooks.command()
@click.argument("user_id", metavar="USER")
@click.option("--status", type=click.Choice(WEBHOOK_STATES), help="Only events in this state.")
@click.option("--limit", type=AT_MOST, metavar="N", help="Show at most this many; default: 100.")
@pass_session
def deliveries(session: Session, user_id: str, status: str | None, limit: int | None) -> None:
    """List a user's latest events, with the last attempt at each. With --json, every attempt."""
    arguments = given(user_id=user_id, state=status, limit=limit)
    session.show("webhook.deliveries", arguments, lambda found: table(_EVENT, found))


@webhooks.command()
@click.argument("event_id", metavar="EVENT")
@pass_session
def redeliver(session: Session, event_id: str) -> None:
    """Send an event again, within a minute. It keeps its id, and its schedule begins again."""
    session.show("webhook.redeliver", {"event_id": event_id}, lambda event: record(_EVENT, event))


@webhooks.command()
@click.argument("endpoint_id", metavar="ENDPOINT")
@pass_session
def enable(session: Session, endpoint_id: str) -> None:
    """Send to an endpoint again that was disabled."""
    session.show("webhook.enable", {"endpoint_id": endpoint_id}, _show)


@webhooks.command()
@click.argument("endpoint_id", metavar="ENDPOINT")
@pass_session
def disable(session: Session, endpoint_id: str) -> None:
    """Send nothing more to an endpoint. What was to be sent is dead."""
    session.show("webhook.disable", {"endpoint_id": endpoint_id}, _show)


@webhooks.command()
@click.argument("endpoint_id", metavar="ENDPOINT")
@pass_session
def delete(session: Session, endpoint_id: str) -> None:
    """Delete an endpoint. What was to be sent is dead."""
    session.show("webhook.delete", {"endpoint_id": endpoint_id}, _show)


def _show(endpoint: Row) -> str:
    return record(_ENDPOINT, endpoint)
