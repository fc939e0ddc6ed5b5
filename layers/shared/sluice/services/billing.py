"""Usage and money: what was used, what it cost, what another tier would have cost. All amounts are exact decimals."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal, localcontext
from itertools import groupby
from math import ceil
from typing import Any, Final

from sluice.db.ledger import Ledger
from sluice.db.reports import PricedUsage, Reports, TierCandidate, UsageReport
from sluice.domain.errors import SluiceError
from sluice.domain.vocabulary import TokenClass
from sluice.services.access import refuse_unless_allowed

MILLION: Final = 1_000_000
CENT: Final = Decimal("0.01")
PROMPT: Final[TokenClass] = "prompt"
COMPLETION: Final[TokenClass] = "completion"
# Tokens of 15 digits times a price of 20: a product is never rounded.
_DIGITS: Final = 60


def own_usage(ledger: Ledger, key_hash: bytes, first: date, last: date) -> dict[str, Any]:
    """The caller's limits and usage, as usage().

    Raises:
        SluiceError: what key_check finds; database_unavailable.
    """
    report = ledger.usage(key_hash, _month_of(first), _month_end(last))
    refuse_unless_allowed(report.outcome)
    return _usage(report, first, last)


def usage(reports: Reports, user_id: str, first: date, last: date) -> dict[str, Any]:
    """A user's limits as they are now, and usage and its cost by day and month, by model.

    Args:
        first, last: the days to show, in UTC; months that they touch are shown whole.

    Raises:
        SluiceError: user_not_found; database_unavailable.
    """
    return _usage(_report(reports, user_id, _month_of(first), _month_end(last)), first, last)


def invoice(reports: Reports, user_id: str, month: str, price_list: str | None = None) -> dict[str, Any]:
    """What a user owes for the tokens of the requests accepted in a month (YYYY-MM, UTC).

    A line for each model, token class and price. The total is the exact sum, rounded half up to a cent; the lines are
    rounded so that they add up to it, each by less than a cent (largest remainders).

    Args:
        price_list: price by this list instead of those that the user's terms named from day to day.

    Raises:
        SluiceError: user_not_found, price_list_unknown, currencies_mixed; database_unavailable.
    """
    if price_list is not None and not reports.price_list_exists(price_list):
        raise SluiceError("price_list_unknown", f"There is no price list {price_list!r}.")
    first = date.fromisoformat(f"{month}-01")
    report = _report(reports, user_id, first, _month_end(first), price_list)
    rows = [row for row in report.usage if row.tokens]
    currencies = {row.currency for row in rows if row.currency is not None}
    if len(currencies) > 1:
        raise SluiceError(
            "currencies_mixed",
            f"The user's price lists of {month} are in {' and '.join(sorted(currencies))}: name a price list.",
        )
    lines = _lines(rows)
    is_over = datetime.now(UTC).date() > _month_end(first)
    return {
        "user_id": user_id,
        "month": month,
        # Tokens of a request that is not finished are not known yet.
        "status": "final" if is_over and not report.unfinished else "open",
        "currency": next(iter(currencies), report.currency),
        "total": str(sum((Decimal(line["amount"]) for line in lines if line["amount"] is not None), Decimal("0.00"))),
        "requests": _requests(report.usage),
        "unpriced_tokens": _unpriced(rows),
        "lines": lines,
    }


def invoice_csv(document: Mapping[str, Any]) -> str:
    """An invoice as CSV (RFC 4180): its lines, then a line of the kind total."""
    text = io.StringIO()
    fields = ("kind", "user_id", "month", "model", "token_class", "price_list", "currency")
    writer = csv.DictWriter(text, (*fields, "price_per_million", "tokens", "start", "end", "exact_amount", "amount"))
    writer.writeheader()
    common = {name: document[name] for name in ("user_id", "month", "currency")}
    common["user_id"] = _inert(common["user_id"])
    writer.writerows(common | {"kind": "usage"} | line for line in document["lines"])
    tokens = sum(line["tokens"] for line in document["lines"])
    writer.writerow(common | {"kind": "total", "tokens": tokens, "amount": document["total"]})
    return text.getvalue()


def _inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with an apostrophe before =, +, - or @ (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def tiers(rows: Iterable[TierCandidate]) -> list[dict[str, Any]]:
    """For each user of a tier analysis: the largest month, the tier to recommend, and what each would have cost.

    Recommended is the cheapest of the tiers that would have held the largest month; of equally priced ones, that with
    the lowest limit, as rows come in that order. If a price is missing or in another currency, costs cannot be
    compared: then the lowest limit decides. If none would have held it, the one with the highest limit is recommended.
    """
    found = []
    for _, group in groupby(rows, lambda row: row.user_id):
        candidates = list(group)
        fitting = [row for row in candidates if row.fits]
        comparable = len({row.currency for row in fitting}) <= 1 and not any(row.unpriced_tokens for row in fitting)
        cheapest_first = sorted(fitting, key=lambda row: row.cost) if comparable else fitting
        best = cheapest_first[0] if fitting else candidates[-1]
        user = candidates[0]
        found.append(
            {
                "user_id": user.user_id,
                "tier": user.tier,
                "months": user.months,
                "max_requests": user.max_requests,
                "max_tokens": user.max_tokens,
                "recommended_tier": best.candidate,
                "tiers": [
                    {
                        "tier": row.candidate,
                        "fits": row.fits,
                        "price_list": row.price_list,
                        "currency": row.currency,
                        "cost": _text(row.cost),
                        "unpriced_tokens": row.unpriced_tokens,
                    }
                    for row in candidates
                ],
            }
        )
    return found


def _report(reports: Reports, user_id: str, first: date, last: date, price_list: str | None = None) -> UsageReport:
    report = reports.usage(user_id, first, last, price_list)
    if report.plan is None:
        raise SluiceError("user_not_found", "There is no user with this id.")
    return report


def _usage(report: UsageReport, first: date, last: date) -> dict[str, Any]:
    plan, rows = report.plan or {}, report.usage
    shown = [row for row in rows if first.isoformat() <= row.day <= last.isoformat()]
    return {
        "user_id": plan["user_id"],
        "tier": plan["tier"],
        "limits": [_limit(period) for period in plan["periods"]],
        "unfinished": {"requests": plan["unfinished"], "max_requests": plan["max_unfinished"]},
        "start": first.isoformat(),
        "end": last.isoformat(),
        "days": [{"day": day} | _totals(list(group)) for day, group in groupby(shown, lambda row: row.day)],
        "months": [{"month": month} | _totals(list(group)) for month, group in groupby(rows, lambda row: row.day[:7])],
    }


def _limit(period: Mapping[str, Any]) -> dict[str, Any]:
    reset_at = datetime.fromisoformat(period["reset_at"])
    tokens = period["tokens_used"] + period["tokens_reserved"]
    return {
        "period": period["period"],
        "max_requests": period["max_requests"],
        "requests_used": period["requests_used"],
        "requests_remaining": _remaining(period["max_requests"], period["requests_used"]),
        "max_tokens": period["max_tokens"],
        "tokens_used": period["tokens_used"],
        "tokens_reserved": period["tokens_reserved"],
        "tokens_remaining": _remaining(period["max_tokens"], tokens),
        "period_start": period["period_start"],
        "resets_at": period["reset_at"],
        "resets_in_seconds": max(0, ceil((reset_at - datetime.now(UTC)).total_seconds())),
    }


def _remaining(limit: int | None, used: int) -> int | None:
    # A limit that was lowered may have been passed already.
    return None if limit is None else max(0, limit - used)


def _totals(rows: Sequence[PricedUsage]) -> dict[str, Any]:
    by_model = groupby(sorted(rows, key=lambda row: row.model), lambda row: row.model)
    return _sums(rows) | {"models": [{"model": model} | _sums(list(group)) for model, group in by_model]}


def _sums(rows: Sequence[PricedUsage]) -> dict[str, Any]:
    tokens = {kind: sum(row.tokens for row in rows if row.token_class == kind) for kind in (PROMPT, COMPLETION)}
    currencies = sorted({row.currency for row in rows if row.currency is not None})
    return {
        "requests": _requests(rows),
        "prompt_tokens": tokens[PROMPT],
        "completion_tokens": tokens[COMPLETION],
        "total_tokens": tokens[PROMPT] + tokens[COMPLETION],
        "costs": [
            {"currency": currency, "amount": _text(_cost(row for row in rows if row.currency == currency))}
            for currency in currencies
        ],
        "unpriced_tokens": _unpriced(rows),
    }


def _requests(rows: Iterable[PricedUsage]) -> int:
    # Each is in two rows, one for its prompt tokens and one for its completion tokens.
    return sum(row.requests for row in rows if row.token_class == PROMPT)


def _unpriced(rows: Iterable[PricedUsage]) -> int:
    return sum(row.tokens for row in rows if row.price_per_million is None)


def _cost(rows: Iterable[PricedUsage]) -> Decimal:
    with localcontext(prec=_DIGITS):
        return sum(
            (row.tokens * Decimal(row.price_per_million) / MILLION for row in rows if row.price_per_million),
            Decimal(0),
        )


def _lines(rows: Sequence[PricedUsage]) -> list[dict[str, Any]]:
    def kind(row: PricedUsage) -> tuple[str, str, str, bool, Decimal]:
        price = row.price_per_million
        # Prompt before completion, as everywhere.
        return row.model, str(row.token_class != PROMPT), row.price_list or "", price is None, Decimal(price or 0)

    groups = [list(group) for _, group in groupby(sorted(rows, key=kind), kind)]
    exact = [_cost(group) for group in groups]
    lines = []
    for group, cost, amount in zip(groups, exact, _apportioned(exact), strict=True):
        first = group[0]
        is_priced = first.price_per_million is not None
        lines.append(
            {
                "model": first.model,
                "token_class": first.token_class,
                "price_list": first.price_list,
                "price_per_million": first.price_per_million,
                "tokens": sum(row.tokens for row in group),
                "start": min(row.day for row in group),
                "end": max(row.day for row in group),
                "exact_amount": _text(cost) if is_priced else None,
                "amount": str(amount) if is_priced else None,
            }
        )
    return lines


def _apportioned(exact: Sequence[Decimal]) -> list[Decimal]:
    """Amounts in cents that add up to the rounded sum of the exact ones, each less than a cent from its exact one."""
    with localcontext(prec=_DIGITS):
        total = sum(exact, Decimal(0)).quantize(CENT, ROUND_HALF_UP)
        amounts = [amount.quantize(CENT, ROUND_FLOOR) for amount in exact]
        left = int((total - sum(amounts, Decimal(0))) / CENT)
        by_remainder = sorted(range(len(exact)), key=lambda i: amounts[i] - exact[i])
        for i in by_remainder[:left]:
            amounts[i] += CENT
        return amounts


def _text(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _month_of(day: date) -> date:
    return day.replace(day=1)


def _month_end(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
