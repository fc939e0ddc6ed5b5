"""`sluice quotas`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import Null, given, limit_options, limits, plan_options
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, limit, number, record, table, text, time
from sluice_cli.vocabulary import PERIODS

_PLAN = (
    text("user_id"),
    text("tier"),
    number("unfinished"),
    number("max_unfinished"),
    number("file_bytes"),
    limit("max_file_bytes"),
    number("dispatch_window"),
    text("reset_frequency"),
    text("is_override"),
)
_PERIOD = (
    text("period"),
    number("requests_used"),
    limit("max_requests"),
    number("tokens_used"),
    number("tokens_reserved"),
    limit("max_tokens"),
    text("is_override"),
    time("period_start"),
    time("reset_at"),
)


@click.group(cls=Group)
def quotas() -> None:
    """Show a user's quota, and override the limits of the tier."""


@quotas.command()
@click.argument("user_id", metavar="USER")
@pass_session
def show(session: Session, user_id: str) -> None:
    """Show a user's limits and how much of them is used."""
    session.show("quota.get", {"user_id": user_id}, _show)


@quotas.command("set")
@click.argument("user_id", metavar="USER")
@limit_options
@plan_options
@pass_session
def set_quota(
    session: Session,
    /,
    user_id: str,
    max_unfinished: int | None,
    max_file_bytes: int | Null | None,
    dispatch_window: int | None,
    reset_frequency: str | None,
    **limit_values: object,
) -> None:
    """Override the tier's limits for a user; changes of the tier do not affect them. Omitted options stay unchanged.

    A limit is a number, or `unlimited`.
    """
    changes = given(
        max_unfinished=max_unfinished,
        max_file_bytes=max_file_bytes,
        dispatch_window=dispatch_window,
        reset_frequency=reset_frequency,
        limits=limits(limit_values),
    )
    if not changes:
        raise click.UsageError("Give at least one limit.")
    session.show("quota.set", {"user_id": user_id, **changes}, _show)


@quotas.command()
@click.argument("user_id", metavar="USER")
@click.option(
    "--period", "periods", type=click.Choice(tuple(PERIODS)), multiple=True, help="Only this period; may be repeated."
)
@pass_session
def clear(session: Session, user_id: str, periods: tuple[str, ...]) -> None:
    """Remove a user's own limits, so that the tier's apply again, for all periods or for those given."""
    session.show("quota.clear", given(user_id=user_id, periods=periods), _show)


def _show(quota: Row) -> str:
    return f"{record(_PLAN, quota)}\n\n{table(_PERIOD, quota.get('periods', []))}"
