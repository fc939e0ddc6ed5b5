"""Figures of usage and money, read from the database: for operators here, for a caller through the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from sluice.db.connection import Database


@dataclass(frozen=True)
class PricedUsage:
    """One model's tokens of one class on one day.

    Attributes:
        day: YYYY-MM-DD, UTC.
        requests: accepted on that day; the same number for each token class.
        price_per_million: exact, as text; None where there was no price.
    """

    day: str
    model: str
    requests: int
    token_class: str
    tokens: int
    price_list: str | None
    currency: str | None
    price_per_million: str | None


@dataclass(frozen=True)
class UsageReport:
    """A user's limits and usage.

    Attributes:
        outcome: ok, or what key_check found.
        plan: limits and counters (quota_report in the database); None where there is no such user.
        price_list, currency: of the last day.
        unfinished: requests accepted in these days whose tokens are not known yet.
    """

    outcome: str
    plan: Mapping[str, Any] | None
    usage: Sequence[PricedUsage]
    price_list: str | None
    currency: str | None
    unfinished: int


@dataclass(frozen=True)
class TierCandidate:
    """A user's largest month beside a tier: whether it would have fitted, and what the months would have cost."""

    user_id: str
    tier: str
    months: int
    max_requests: int
    max_tokens: int
    candidate: str
    fits: bool
    price_list: str
    currency: str
    cost: Decimal
    unpriced_tokens: int


class Reports:
    """Reports on all users. Every method raises SluiceError, database_unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def usage(self, user_id: str, first_day: date, last_day: date, price_list: str | None = None) -> UsageReport:
        """A user's limits, and usage by day, model and token class with the prices of each day.

        Args:
            price_list: price by this list instead of those that the user's terms named from day to day.
        """
        return self._database.row(
            UsageReport,
            "usage_report",
            repeatable=True,
            readers={"usage": priced_usage},
            user_id=user_id,
            first_day=first_day,
            last_day=last_day,
            price_list=price_list,
        )

    def tier_analysis(
        self, user_id: str | None, first_month: date, last_month: date, *, after: str, limit: int
    ) -> list[TierCandidate]:
        """Users' largest months, and what each tier would have cost them: a row for each user and tier.

        Args:
            first_month, last_month: the first days of them.
            after: only users after this one.
            limit: of users.
        """
        return self._database.rows(
            TierCandidate,
            "tier_analysis",
            repeatable=True,
            user_id=user_id,
            first_month=first_month,
            last_month=last_month,
            after=after,
            limit=limit,
        )

    def price_list_exists(self, price_list: str) -> bool:
        """Return True if there is a price list of this name."""
        return bool(self._database.value("price_list_exists", repeatable=True, price_list=price_list))


def priced_usage(rows: Sequence[Mapping[str, Any]]) -> list[PricedUsage]:
    """The rows of a report's usage, from JSON."""
    return [PricedUsage(**row) for row in rows]
