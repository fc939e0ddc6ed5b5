"""Figures of usage and money, read from the database: for operators here, for a caller through the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from sluice.db.connection import Database
from sluice.domain.windows import SOONEST, CompletionWindow


@dataclass(frozen=True)
class PricedUsage:
    """One model's tokens of one class on one day.

    Attributes:
        day: YYYY-MM-DD, UTC.
        requests: accepted on that day; the same number for each token class.
        token_class: a day has rows of prompt and completion, and of other classes that have tokens.
        price_per_million: exact, as text; None where there was no price.
        value: of the attribute that was asked for; None: the rest, or none was asked for.
        window: the completion window of the requests; None: they have none.
    """

    day: str
    model: str
    requests: int
    token_class: str
    tokens: int
    price_list: str | None
    currency: str | None
    price_per_million: str | None
    value: str | None = None
    window: str | None = None


@dataclass(frozen=True)
class UsageReport:
    """A user's limits and usage.

    Attributes:
        outcome: ok, or what key_check found.
        plan: limits and counters (quota_report in the database); None where there is no such user.
        price_list, currency: of the last day.
        unfinished: requests accepted in these days whose tokens are not known yet.
        windows: the completion window of each row of usage, or soonest; None: they have none.
    """

    outcome: str
    plan: Mapping[str, Any] | None
    usage: Sequence[PricedUsage]
    price_list: str | None
    currency: str | None
    unfinished: int
    windows: Sequence[str] | None = None

    @property
    def rows(self) -> list[PricedUsage]:
        """The rows of usage, with their completion windows."""
        return _with_windows(self.usage, self.windows)


@dataclass(frozen=True)
class Statement:
    """A user's month.

    Attributes:
        is_user: there is such a user; otherwise the rest means nothing.
        document: the invoice that was given out; None while the month is open.
        usage: what it bills, as JSON of PricedUsage; days before the month are adjustments of closed months.
        price_list, currency: of the month's last day.
        is_over: the month has ended.
        unfinished: requests accepted in it whose tokens are not known yet.
        windows: as in UsageReport.
    """

    is_user: bool
    document: Mapping[str, Any] | None
    usage: Sequence[Mapping[str, Any]]
    price_list: str | None
    currency: str | None
    is_over: bool
    unfinished: int
    windows: Sequence[str] | None = None

    @property
    def rows(self) -> list[PricedUsage]:
        """What it bills, with the completion windows."""
        return _with_windows(priced_usage(self.usage), self.windows)


@dataclass(frozen=True)
class DueStatement:
    """A month, given by its first day, that can be closed."""

    user_id: str
    month: date


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


@dataclass(frozen=True)
class Calibration:
    """How good the forecasts of a model were: sums over its requests.

    Attributes:
        answers: those that there was a forecast for.
        error_tokens, error_wait_ms: of the differences between forecast and actual, each without its sign.
        above_bound: answers with more tokens than were reserved for them.
        waits: requests whose wait was estimated when they were accepted.
    """

    model_id: str
    answers: int
    forecast_tokens: int
    actual_tokens: int
    error_tokens: int
    above_bound: int
    waits: int
    forecast_wait_ms: int
    actual_wait_ms: int
    error_wait_ms: int


@dataclass(frozen=True)
class WindowRecord:
    """How many requests with a completion window ended within it, and how many did not."""

    completion_window: CompletionWindow
    kept: int
    missed: int


class Reports:
    """Reports on all users. Every method raises SluiceError, database_unavailable.

    Args:
        invocation: see Statements.
    """

    def __init__(self, database: Database, invocation: UUID | None = None) -> None:
        self._database = database
        self.statements = Statements(database, invocation)

    def usage(
        self,
        user_id: str,
        first_day: date,
        last_day: date,
        *,
        price_list: str | None = None,
        attribute: str | None = None,
    ) -> UsageReport:
        """A user's limits, and usage by day, model and token class with the prices of each day.

        Args:
            price_list: price by this list instead of those that the user's terms named from day to day.
            attribute: a row for each value of it: "key", or "tag:" and the name of a tag; None: no breakdown.
        """
        return self._database.row(
            UsageReport,
            "usage_report_v3",
            repeatable=True,
            readers={"usage": priced_usage},
            user_id=user_id,
            first_day=first_day,
            last_day=last_day,
            price_list=price_list,
            attribute=attribute,
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

    def calibration(self, first_day: date, last_day: date, model_id: str | None) -> list[Calibration]:
        """How good forecasts were for requests accepted in these days, by model; as of the last rollup."""
        return self._database.rows(
            Calibration,
            "calibration_report",
            repeatable=True,
            first_day=first_day,
            last_day=last_day,
            model_id=model_id,
        )

    def windows(self, first_day: date, last_day: date) -> list[WindowRecord]:
        """Whether the promise was kept to requests accepted in these days, by window; as of the last rollup."""
        return self._database.rows(
            WindowRecord, "window_report", repeatable=True, first_day=first_day, last_day=last_day
        )

    def price_list_exists(self, price_list: str) -> bool:
        """Return True if there is a price list of this name."""
        return bool(self._database.value("price_list_exists", repeatable=True, price_list=price_list))


class Statements:
    """Months of users that are billed. Every method raises SluiceError, database_unavailable.

    Args:
        invocation: of AdminFunction, noted in the audit log where it closes a month.
    """

    def __init__(self, database: Database, invocation: UUID | None = None) -> None:
        self._database = database
        self._invocation = invocation

    def show(self, user_id: str, month: date, attribute: str = "") -> Statement:
        """A user's month, given by its first day: as it was given out, or what it bills up to now.

        Args:
            attribute: a row of usage for each value of it, as in Reports.usage(); empty: none.
        """
        return self._database.row(
            Statement, "statement_show_v2", repeatable=True, user_id=user_id, month=month, attribute=attribute
        )

    def close(
        self, user_id: str, month: date, document: Mapping[str, Any], usage: Sequence[Any], actor: str
    ) -> Mapping[str, Any] | None:
        """Close a month with a document that was made from this usage.

        Returns:
            the document that is kept, also where the month was closed before; None: the month cannot be closed, or its
            usage has changed.
        """
        kept: Mapping[str, Any] | None = self._database.value(
            "statement_close",
            repeatable=True,
            user_id=user_id,
            month=month,
            document=Jsonb(document),
            usage=Jsonb(usage),
            actor=actor,
            invocation=self._invocation,
        )
        return kept

    def skip(self, user_id: str) -> None:
        """Note that a month that was due had nothing to bill: it is not due any more."""
        self._database.value("statement_skip", repeatable=True, user_id=user_id)

    def due(self, limit: int) -> list[DueStatement]:
        """Months that can be closed, oldest first: at most so many."""
        return self._database.rows(DueStatement, "statements_due", repeatable=True, limit=limit)


def priced_usage(rows: Sequence[Mapping[str, Any]]) -> list[PricedUsage]:
    """The rows of a report's usage, from JSON."""
    return [PricedUsage(**row) for row in rows]


def _with_windows(rows: Sequence[PricedUsage], windows: Sequence[str] | None) -> list[PricedUsage]:
    if windows is None:
        return list(rows)
    return [
        replace(row, window=None if window == SOONEST else window) for row, window in zip(rows, windows, strict=True)
    ]
