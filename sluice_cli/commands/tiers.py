"""`sluice tiers`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import DURATION, Null, given, limit_options, limits, plan_options
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, limit, number, record, table, text
from sluice_cli.vocabulary import PERIODS

_TIER = (
    text("tier"),
    *(
        limit(f"limits.{period}.max_{kind}", f"{period}_{kind}")
        for period in PERIODS
        for kind in ("requests", "tokens")
    ),
    number("max_unfinished"),
    limit("max_file_bytes"),
    number("dispatch_window"),
    text("reset_frequency"),
    text("price_list"),
    number("cache_max_age"),
    number("users"),
)


@click.group(cls=Group)
def tiers() -> None:
    """Show and configure tiers and their limits."""


@tiers.command("list")
@pass_session
def list_tiers(session: Session) -> None:
    """List the tiers."""
    session.show("tier.list", {}, lambda found: table(_TIER, found))


@tiers.command()
@click.argument("tier", metavar="TIER")
@pass_session
def show(session: Session, tier: str) -> None:
    """Show a tier."""
    session.show("tier.get", {"tier": tier}, lambda found: record(_TIER, found))


@tiers.command("set")
@click.argument("tier", metavar="TIER")
@limit_options
@plan_options
@click.option("--price-list", help="The price list for its users.")
@click.option("--cache-max-age", type=DURATION, help="Age, like 1h, up to which answers are given again; 0s: none.")
@pass_session
def set_tier(
    session: Session,
    /,
    tier: str,
    max_unfinished: int | None,
    max_file_bytes: int | Null | None,
    dispatch_window: int | None,
    reset_frequency: str | None,
    price_list: str | None,
    cache_max_age: int | None,
    **limit_values: object,
) -> None:
    """Create a tier, or change the given settings of one.

    A limit is a number, or `unlimited`; a new tier needs one for each period. Changes apply to the tier's users, except
    where they have limits of their own.
    """
    arguments = given(
        tier=tier,
        max_unfinished=max_unfinished,
        max_file_bytes=max_file_bytes,
        dispatch_window=dispatch_window,
        reset_frequency=reset_frequency,
        price_list=price_list,
        cache_max_age=cache_max_age,
        limits=limits(limit_values),
    )
    session.show("tier.set", arguments, _show_changed)


def _show_changed(tier: Row) -> str:
    return record((*_TIER, number("users_changed")), tier)
