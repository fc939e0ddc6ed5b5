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
from sluice.domain.requests import TOKEN_PARTS, token_parts
from sluice.domain.vocabulary import TOKEN_CLASSES, TokenClass
from sluice.domain.windows import SOONEST, WINDOW_LENGTHS
from sluice.services.access import refuse_unless_allowed

MILLION: Final = 1_000_000
CENT: Final = Decimal("0.01")
PROMPT: Final[TokenClass] = "prompt"
CACHED: Final[TokenClass] = "cached_prompt"
COMPLETION: Final[TokenClass] = "completion"
REASONING: Final[TokenClass] = "reasoning"
CACHED_ANSWER: Final[TokenClass] = "cached_answer"
_CLASS_ORDER: Final[Mapping[str, int]] = {kind: n for n, kind in enumerate(TOKEN_CLASSES)}
_WINDOW_ORDER: Final[Mapping[str, int]] = {name: n for n, name in enumerate((SOONEST, *WINDOW_LENGTHS))}
# Tokens of 15 digits times a price of 20: a product is never rounded.
_DIGITS: Final = 60


def own_usage(ledger: Ledger, key_hash: bytes, first: date, last: date, attribute: str | None = None) -> dict[str, Any]:
    """The caller's limits and usage, as usage().

    Raises:
        SluiceError: what key_check finds; database_unavailable.
    """
    report = ledger.usage(key_hash, month_of(first), month_end(last), attribute)
    refuse_unless_allowed(report.outcome)
    return _usage(report, first, last, attribute)


def usage(reports: Reports, user_id: str, first: date, last: date, attribute: str | None = None) -> dict[str, Any]:
    """A user's limits as they are now, and usage and its cost by day and month, by model.

    Args:
        first, last: the days to show, in UTC; months that they touch are shown whole.
        attribute: also by each value of it: "key", or "tag:" and a name; see breakdown_name().

    Raises:
        SluiceError: user_not_found; database_unavailable.
    """
    report = reports.usage(user_id, month_of(first), month_end(last), attribute=attribute)
    if report.plan is None:
        raise user_not_found()
    return _usage(report, first, last, attribute)


def usage_csv(document: Mapping[str, Any], attribute: str | None) -> str:
    """The days of a usage document as CSV (RFC 4180): a line for each model, or each value of the attribute."""
    name = "model" if attribute is None else value_name(attribute)
    text = io.StringIO()
    fields = ("user_id", "day", name, "requests", "prompt_tokens", "completion_tokens", "currency", "amount")
    parts = "models" if attribute is None else _parts_name(attribute)
    # Mostly there are none.
    known = {member for day in document["days"] for part in day[parts] for member in part}
    further = ("unpriced_tokens", *(member for member in TOKEN_PARTS if member in known))
    writer = csv.DictWriter(text, (*fields, *further), extrasaction="ignore", restval="")
    writer.writeheader()
    for day in document["days"]:
        for part in day[parts]:
            # Where there are several currencies, in lines after the first only the amount.
            for n, cost in enumerate(part["costs"] or [{}]):
                named = {"user_id": csv_text(document["user_id"]), "day": day["day"], name: csv_text(part[name])}
                writer.writerow((part if n == 0 else {}) | named | cost)
    return text.getvalue()


def csv_text(text: str | None) -> str | None:
    """A client's text that no spreadsheet takes for a formula: after an apostrophe (OWASP, CSV injection)."""
    return f"'{text}" if text and text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


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
                        "cost": format_amount(row.cost),
                        "unpriced_tokens": row.unpriced_tokens,
                    }
                    for row in candidates
                ],
            }
        )
    return found


def user_not_found() -> SluiceError:
    return SluiceError("user_not_found", "There is no user with this id.")


def value_name(attribute: str) -> str:
    """The member of a result that holds the value of an attribute."""
    return "key_id" if attribute == "key" else "tag_value"


def _usage(report: UsageReport, first: date, last: date, attribute: str | None) -> dict[str, Any]:
    plan, rows = report.plan or {}, sorted(report.rows, key=lambda row: row.day)
    shown = [row for row in rows if first.isoformat() <= row.day <= last.isoformat()]
    return {
        "user_id": plan["user_id"],
        "tier": plan["tier"],
        "limits": [_limit(period) for period in plan["periods"]],
        "budgets": [_budget(budget) for budget in plan["budgets"]],
        "unfinished": {"requests": plan["unfinished"], "max_requests": plan["max_unfinished"]},
        "files": {"bytes": plan["file_bytes"], "max_bytes": plan["max_file_bytes"]},
        "start": first.isoformat(),
        "end": last.isoformat(),
        "days": [{"day": day} | _totals(list(group), attribute) for day, group in groupby(shown, lambda row: row.day)],
        "months": [
            {"month": month} | _totals(list(group), attribute)
            for month, group in groupby(rows, lambda row: row.day[:7])
        ],
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


def _budget(budget: Mapping[str, Any]) -> dict[str, Any]:
    left = Decimal(budget["max_amount"]) - Decimal(budget["amount_used"]) - Decimal(budget["amount_reserved"])
    return {
        **{name: budget[name] for name in ("key_id", "model", "period", "currency", "max_amount")},
        "amount_used": budget["amount_used"],
        "amount_reserved": budget["amount_reserved"],
        "amount_remaining": format_amount(max(left, Decimal(0))),
        "period_start": budget["period_start"],
        "resets_at": budget["reset_at"],
    }


def _remaining(limit: int | None, used: int) -> int | None:
    # A limit that was lowered may have been passed already.
    return None if limit is None else max(0, limit - used)


def _totals(rows: Sequence[PricedUsage], attribute: str | None) -> dict[str, Any]:
    by_model = groupby(sorted(rows, key=lambda row: row.model), lambda row: row.model)
    totals = _sums(rows) | {"models": [{"model": model} | _sums(list(group)) for model, group in by_model]}
    windowed = sorted((row for row in rows if row.window is not None), key=_window_order)
    if windowed:
        by_window = groupby(windowed, lambda row: row.window)
        totals["windows"] = [{"window": window} | _sums(list(group)) for window, group in by_window]
    if attribute is None:
        return totals
    by_value = groupby(sorted(rows, key=_value_order), lambda row: row.value)
    return totals | {
        _parts_name(attribute): [{value_name(attribute): value} | _sums(list(group)) for value, group in by_value]
    }


def _parts_name(attribute: str) -> str:
    return "keys" if attribute == "key" else "tags"


def _value_order(row: PricedUsage) -> tuple[bool, str]:
    # The rest, without a value, comes last.
    return row.value is None, row.value or ""


def _window_order(row: PricedUsage) -> int:
    return _WINDOW_ORDER[row.window or SOONEST]


def _sums(rows: Sequence[PricedUsage]) -> dict[str, Any]:
    tokens = {kind: sum(row.tokens for row in rows if row.token_class == kind) for kind in TOKEN_CLASSES}
    prompt, completion = tokens[PROMPT] + tokens[CACHED], tokens[COMPLETION] + tokens[REASONING]
    currencies = sorted({row.currency for row in rows if row.currency is not None})
    return {
        "requests": requests_count(rows),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "costs": [
            {"currency": currency, "amount": format_amount(_cost(row for row in rows if row.currency == currency))}
            for currency in currencies
        ],
        "unpriced_tokens": unpriced_tokens(rows),
    } | token_parts(tokens[CACHED], tokens[REASONING], tokens[CACHED_ANSWER])


def requests_count(rows: Iterable[PricedUsage]) -> int:
    """How many requests were accepted."""
    # Each is in a row of every class; only those of the prompt and of the completion are always there.
    return sum(row.requests for row in rows if row.token_class == PROMPT)


def unpriced_tokens(rows: Iterable[PricedUsage]) -> int:
    """How many tokens have no price."""
    return sum(row.tokens for row in rows if row.price_per_million is None)


def _cost(rows: Iterable[PricedUsage]) -> Decimal:
    with localcontext(prec=_DIGITS):
        return sum(
            (row.tokens * Decimal(row.price_per_million) / MILLION for row in rows if row.price_per_million),
            Decimal(0),
        )


def invoice_lines(rows: Sequence[PricedUsage], month: str, attribute: str | None = None) -> list[dict[str, Any]]:
    """A line for each model, completion window, token class, price and value of the attribute; adjustments apart.

    The lines are rounded so that they add up to the exact sum, rounded half up to a cent, each by less than a cent
    (largest remainders).

    Args:
        month: YYYY-MM; rows of earlier days are adjustments.
    """

    def kind(row: PricedUsage) -> tuple[str, tuple[bool, str], str, int, int, str, bool, Decimal]:
        price = row.price_per_million
        adjusts = row.day[:7] if row.day < month else ""
        return (
            adjusts,
            _value_order(row),
            row.model,
            _window_order(row),
            _CLASS_ORDER[row.token_class],
            row.price_list or "",
            price is None,
            Decimal(price or 0),
        )

    groups = [list(group) for _, group in groupby(sorted(rows, key=kind), kind)]
    exact = [_cost(group) for group in groups]
    lines = []
    for group, cost, amount in zip(groups, exact, _apportioned(exact), strict=True):
        first = group[0]
        is_priced = first.price_per_million is not None
        lines.append(
            {
                "kind": "adjustment" if first.day < month else "usage",
                **({} if attribute is None else {value_name(attribute): first.value}),
                "model": first.model,
                **({} if first.window is None else {"window": first.window}),
                "token_class": first.token_class,
                "price_list": first.price_list,
                "price_per_million": first.price_per_million,
                "tokens": sum(row.tokens for row in group),
                "start": min(row.day for row in group),
                "end": max(row.day for row in group),
                "exact_amount": format_amount(cost) if is_priced else None,
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


def format_amount(amount: Decimal) -> str:
    """An amount as text, exact and without an exponent."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def month_of(day: date) -> date:
    """The first day of a day's month."""
    return day.replace(day=1)


def month_end(day: date) -> date:
    """The last day of a day's month."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
