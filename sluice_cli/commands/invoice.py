"""`sluice invoice`."""

import click

from sluice_cli.groups import Command
from sluice_cli.options import MONTH, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, number, record, table, text

_INVOICE = (
    text("user_id"),
    text("month"),
    text("status"),
    text("total"),
    text("currency"),
    text("requests"),
    text("unpriced_tokens"),
)
_LINE = (
    text("model"),
    text("token_class"),
    text("start"),
    text("end"),
    number("tokens"),
    number("price_per_million", null="none"),
    text("price_list"),
    number("exact_amount"),
    number("amount"),
)


@click.command(cls=Command)
@click.argument("user_id", metavar="USER")
@click.argument("month", type=MONTH, metavar="MONTH")
@click.option("--csv", "as_csv", is_flag=True, help="Print the service's CSV.")
@click.option("--price-list", help="Calculate with this price list; default: the user's own.")
@pass_session
def invoice(session: Session, user_id: str, month: str, as_csv: bool, price_list: str | None) -> None:
    """Show a user's invoice for a month like 2027-01."""
    arguments = given(user_id=user_id, month=month, price_list=price_list, format="csv" if as_csv else None)
    session.show("invoice.get", arguments, _csv if as_csv else _show)


def _csv(invoice: Row) -> str:
    # Printing adds the last line break.
    return str(invoice.get("csv", "")).removesuffix("\n")


def _show(invoice: Row) -> str:
    return f"{record(_INVOICE, invoice)}\n\n{table(_LINE, invoice.get('lines', []))}"
