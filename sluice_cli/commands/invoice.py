"""`sluice invoice`."""

import click

from sluice_cli.groups import Command
from sluice_cli.options import MONTH, breakdown_options, csv_text, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Column, Row, number, record, table, text, time

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
@click.option("--price-list", help="Calculate pro forma with this price list; default: the user's own.")
@breakdown_options
@pass_session
def invoice(
    session: Session,
    user_id: str,
    month: str,
    as_csv: bool,
    price_list: str | None,
    by_key: bool,
    by_tag: str | None,
) -> None:
    """Show a user's invoice for a month like 2027-01.

    The invoice of a month that is over and has no unfinished requests is final: this closes the month. What becomes
    known of it later is an adjustment in the invoice of a later month.
    """
    if by_key and by_tag is not None:
        raise click.UsageError("Give only one of --by-key, --by-tag.")
    arguments = given(
        user_id=user_id,
        month=month,
        price_list=price_list,
        by_key=by_key or None,
        by_tag=by_tag,
        format="csv" if as_csv else None,
    )
    split = text("key_id") if by_key else text("tag_value") if by_tag is not None else None
    session.show("invoice.get", arguments, csv_text if as_csv else lambda found: _show(found, split))


def _show(invoice: Row, split: Column | None) -> str:
    closed = (text("statement_id"), time("closed_at"), text("digest")) if invoice.get("statement_id") else ()
    columns = (text("kind"), *((split,) if split else ()), *_LINE)
    return f"{record((*_INVOICE, *closed), invoice)}\n\n{table(columns, invoice.get('lines', []))}"
