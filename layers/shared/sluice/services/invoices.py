"""Invoices: what a user owes for a month. A month that is over is closed, and its invoice does not change any more."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

from sluice.db.reports import PricedUsage, Reports, Statement, Statements
from sluice.domain.errors import SluiceError
from sluice.services.billing import (
    csv_text,
    invoice_lines,
    month_end,
    requests_count,
    unpriced_tokens,
    user_not_found,
    value_name,
)

# Requests of the month may be redriven, and end, while its document is made.
_ATTEMPTS: Final = 5
# What the document of a month that was closed has besides: by these it is found in the audit log.
_PROOF: Final = ("statement_id", "closed_at", "digest")


def invoice(
    reports: Reports, user_id: str, month: str, *, price_list: str | None = None, attribute: str | None = None
) -> dict[str, Any]:
    """What a user owes for the tokens of the requests accepted in a month (YYYY-MM, UTC), and for adjustments.

    A month that is over and has no unfinished requests is closed by this: the document is final, and kept. What becomes
    known of the month later is an adjustment in a later one.

    Args:
        price_list: price by this list instead of those that the user's terms named from day to day; such a document is
            pro forma, and closes nothing.
        attribute: a line for each value of it: "key", or "tag:" and the name of a tag.

    Raises:
        SluiceError: user_not_found, price_list_unknown, currencies_mixed; database_unavailable.
    """
    first = date.fromisoformat(f"{month}-01")
    if price_list is not None:
        return _pro_forma(reports, user_id, first, price_list, attribute)
    closed = close_month(reports.statements, user_id, first, actor="admin")
    if closed is not None and attribute is None:
        return dict(closed)
    statement = reports.statements.show(user_id, first, attribute or "")
    document = _document(user_id, month, "open" if closed is None else "final", statement, attribute)
    return document | {name: closed[name] for name in _PROOF if closed is not None and name in closed}


def close_month(statements: Statements, user_id: str, first: date, *, actor: str) -> Mapping[str, Any] | None:
    """Close a month if it is over and has no unfinished requests.

    Args:
        first: the month's first day.
        actor: who closes it, for the audit log.

    Returns:
        the document that is kept, also where the month was closed before; None: it is open.

    Raises:
        SluiceError: user_not_found, currencies_mixed; database_unavailable.
    """
    for _ in range(_ATTEMPTS):
        statement = statements.show(user_id, first)
        if not statement.is_user:
            raise user_not_found()
        if statement.document is not None:
            return statement.document
        if not statement.is_over or statement.unfinished:
            return None
        document = _document(user_id, f"{first:%Y-%m}", "final", statement)
        if not statement.usage:
            # Nothing can be added to it any more, so nothing needs to be kept.
            return document
        closed = statements.close(user_id, first, document, statement.usage, actor)
        if closed is not None:
            return closed
    return None


def invoice_csv(document: Mapping[str, Any]) -> str:
    """An invoice as CSV (RFC 4180): its lines, then a line of the kind total."""
    text = io.StringIO()
    lines = document["lines"]
    values = [name for name in (value_name("key"), value_name("tag:")) if any(name in line for line in lines)]
    windows = ["window"] if any("window" in line for line in lines) else []
    fields = ("kind", "user_id", "month", *values, "model", *windows, "token_class", "price_list", "currency")
    amounts = ("price_per_million", "tokens", "start", "end", "exact_amount", "amount")
    writer = csv.DictWriter(text, (*fields, *amounts, "status", "statement_id"))
    writer.writeheader()
    common = {name: document.get(name) for name in ("month", "currency", "status", "statement_id")}
    common["user_id"] = csv_text(document["user_id"])
    writer.writerows(common | line | {name: csv_text(line[name]) for name in values} for line in lines)
    tokens = sum(line["tokens"] for line in lines)
    writer.writerow(common | {"kind": "total", "tokens": tokens, "amount": document["total"]})
    return text.getvalue()


def _pro_forma(reports: Reports, user_id: str, first: date, price_list: str, attribute: str | None) -> dict[str, Any]:
    if not reports.price_list_exists(price_list):
        raise SluiceError("price_list_unknown", f"There is no price list {price_list!r}.")
    report = reports.usage(user_id, first, month_end(first), price_list=price_list, attribute=attribute)
    if report.plan is None:
        raise user_not_found()
    return _made(user_id, f"{first:%Y-%m}", "pro_forma", report.rows, report.currency, attribute)


def _document(
    user_id: str, month: str, status: str, statement: Statement, attribute: str | None = None
) -> dict[str, Any]:
    if not statement.is_user:
        raise user_not_found()
    return _made(user_id, month, status, statement.rows, statement.currency, attribute)


def _made(
    user_id: str,
    month: str,
    status: str,
    usage: Sequence[PricedUsage],
    currency: str | None,
    attribute: str | None,
) -> dict[str, Any]:
    rows = [row for row in usage if row.tokens]
    currencies = {row.currency for row in rows if row.currency is not None}
    if len(currencies) > 1:
        raise SluiceError(
            "currencies_mixed",
            f"The user's price lists of {month} are in {' and '.join(sorted(currencies))}: name a price list.",
        )
    lines = invoice_lines(rows, month, attribute)
    return {
        "user_id": user_id,
        "month": month,
        "status": status,
        "currency": next(iter(currencies), currency),
        "total": str(sum((Decimal(line["amount"]) for line in lines if line["amount"] is not None), Decimal("0.00"))),
        "requests": requests_count(usage),
        "unpriced_tokens": unpriced_tokens(rows),
        "lines": lines,
    }
