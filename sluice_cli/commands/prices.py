"""`sluice prices`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import DATE, PRICE, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, number, table, text
from sluice_cli.vocabulary import COMPLETION_WINDOWS

_PRICE = (
    text("price_list"),
    text("model_id"),
    text("token_class"),
    number("price_per_million"),
    text("currency"),
    text("valid_from"),
    text("valid_until"),
)

_WINDOW = (
    text("price_list"),
    text("window"),
    text("window_list"),
    text("currency"),
    text("valid_from"),
    text("valid_until"),
)


@click.group(cls=Group)
def prices() -> None:
    """Show and set prices of tokens."""


@prices.command("list")
@click.option("--price-list", help="Only prices in this list.")
@click.option("--model", help="Only prices of this model.")
@click.option("--on", type=DATE, help="Only prices valid on this day.")
@pass_session
def list_prices(session: Session, price_list: str | None, model: str | None, on: str | None) -> None:
    """List prices per million tokens. valid_until is not included."""
    session.show("price.list", given(price_list=price_list, model_id=model, on=on), _show)


@prices.command("set")
@click.argument("model", metavar="MODEL")
@click.option("--prompt", type=PRICE, help="Per million prompt tokens.")
@click.option("--cached-prompt", type=PRICE, help="Per million of those from a cache; without it, as --prompt.")
@click.option("--completion", type=PRICE, help="Per million completion tokens.")
@click.option("--reasoning", type=PRICE, help="Per million of those for reasoning; without it, as --completion.")
@click.option("--cached-answer", type=PRICE, help="Per million answers from the cache; without it, none.")
@click.option("--price-list", help="Default: standard.")
@click.option("--from", "valid_from", type=DATE, help="The first day, in UTC; default: today.")
@click.option("--currency", help="Currency of a new list; default: USD.")
@pass_session
def set_prices(
    session: Session,
    /,
    model: str,
    price_list: str | None,
    valid_from: str | None,
    currency: str | None,
    **by_class: str | None,
) -> None:
    """Set the price of a model's tokens from a day on."""
    prices = given(**by_class)
    if not prices:
        raise click.UsageError("Give a price: --prompt, --cached-prompt, --completion, --reasoning, --cached-answer.")
    arguments = given(model_id=model, **prices, price_list=price_list, valid_from=valid_from, currency=currency)
    session.show("price.set", arguments, _show)


@prices.command()
@click.option("--price-list", help="Only for users who are billed by this list.")
@pass_session
def windows(session: Session, price_list: str | None) -> None:
    """List by which price lists requests with a completion window are billed.

    Without a row, they are billed like all others. valid_until is not included.
    """
    session.show("price.windows", given(price_list=price_list), _show_windows)


@prices.command()
@click.argument("window", type=click.Choice(COMPLETION_WINDOWS))
@click.argument("window_list", metavar="LIST")
@click.option("--price-list", help="For users who are billed by this list; default: standard.")
@click.option("--from", "valid_from", type=DATE, help="The first day, in UTC; default: today.")
@pass_session
def window(session: Session, window: str, window_list: str, price_list: str | None, valid_from: str | None) -> None:
    """Bill requests with a completion window by the price list LIST from a day on."""
    arguments = given(window=window, window_list=window_list, price_list=price_list, valid_from=valid_from)
    session.show("price.window", arguments, _show_windows)


def _show_windows(found: list[Row]) -> str:
    return table(_WINDOW, found)


def _show(found: list[Row]) -> str:
    return table(_PRICE, found)
