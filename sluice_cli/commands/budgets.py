"""`sluice budgets`."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sluice_cli.groups import Group
from sluice_cli.options import AMOUNT, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, number, table, text, time

F = TypeVar("F", bound=Callable[..., Any])

_BUDGET = (
    text("key_id", "key", null="all"),
    text("model", null="all"),
    text("period"),
    text("currency"),
    number("max_amount"),
    number("amount_used"),
    number("amount_reserved"),
    time("reset_at"),
)


@click.group(cls=Group)
def budgets() -> None:
    """Show and set limits in money for a user, one of the user's keys, or a model."""


def _scope_options(function: F) -> F:
    for option in (
        click.option("--model", metavar="MODEL", help="Only requests to this model."),
        click.option("--key", metavar="KEY_ID", help="Only requests with this key, or with one that replaced it."),
    ):
        function = option(function)
    return function


@budgets.command()
@click.argument("user_id", metavar="USER")
@pass_session
def show(session: Session, user_id: str) -> None:
    """Show a user's budgets and how much of them is used."""
    session.show("budget.list", {"user_id": user_id}, _show)


@budgets.command("set")
@click.argument("user_id", metavar="USER")
@_scope_options
@click.option("--daily", type=AMOUNT, metavar="AMOUNT|unlimited", help="The most that may be spent per day.")
@click.option("--monthly", type=AMOUNT, metavar="AMOUNT|unlimited", help="The most that may be spent per month.")
@click.option("--currency", metavar="CODE", help="Refuse if the user's price list is in another currency, as in USD.")
@pass_session
def set_budget(
    session: Session,
    user_id: str,
    key: str | None,
    model: str | None,
    daily: object,
    monthly: object,
    currency: str | None,
) -> None:
    """Limit what a user may spend, in the currency of the user's price list. Omitted options stay unchanged.

    Without --key and --model, the budget is for all of the user's requests. `unlimited` removes one.
    """
    amounts = given(daily=daily, monthly=monthly)
    if not amounts:
        raise click.UsageError("Give --daily, --monthly, or both.")
    scope = given(user_id=user_id, key_id=key, model_id=model, currency=currency)
    session.show("budget.set", {**scope, "limits": amounts}, _show)


@budgets.command()
@click.argument("user_id", metavar="USER")
@_scope_options
@click.option("--all", "is_all", is_flag=True, help="Remove every budget of the user.")
@pass_session
def clear(session: Session, user_id: str, key: str | None, model: str | None, is_all: bool) -> None:
    """Remove a user's budgets: those with exactly this key and model, or all."""
    if is_all and (key or model):
        raise click.UsageError("Give either --all, or --key and --model.")
    arguments = given(user_id=user_id, key_id=key, model_id=model, is_all=is_all or None)
    session.show("budget.clear", arguments, _show)


def _show(found: Row) -> str:
    return table(_BUDGET, found.get("budgets", []))
