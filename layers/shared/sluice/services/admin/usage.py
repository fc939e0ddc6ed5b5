"""Operations on usage and invoices."""

from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from sluice.db.reports import Calibration as CalibrationRow
from sluice.domain.breakdown import Breakdown
from sluice.domain.days import Days
from sluice.domain.fields import Identifier, Month, PageSize, Strict, Text, UserId
from sluice.services import billing, invoices
from sluice.services.admin.operation import AdminContext, Operation
from sluice.services.admin.users import UserNamed, get_user


class UsageGet(Days, Breakdown):
    user_id: UserId
    format: Literal["json", "csv"] = "json"


def _months_ago(months: int) -> str:
    count = datetime.now(UTC).year * 12 + datetime.now(UTC).month - 1 - months
    return f"{count // 12:04}-{count % 12 + 1:02}"


class UsageTiers(Strict):
    """By default the twelve months up to this one, of all users, page by page."""

    user_id: UserId | None = None
    start_month: Month = Field(default_factory=lambda: _months_ago(11))
    end_month: Month = Field(default_factory=lambda: _months_ago(0))
    after: Text = ""
    limit: PageSize = 1000

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end_month < self.start_month:
            raise ValueError(f"start_month, {self.start_month}, must not be after end_month, {self.end_month}")
        return self


class Calibration(Days):
    """How good forecasts were, of a model or of all."""

    model_id: Identifier | None = None


class Windows(Days):
    """Whether requests were answered within their completion windows."""


class InvoiceGet(Breakdown):
    user_id: UserId
    month: Month
    price_list: Identifier | None = None
    format: Literal["json", "csv"] = "json"


def get_usage(context: AdminContext, given: UsageGet) -> dict[str, Any]:
    document = billing.usage(context.reports, given.user_id, given.start, given.end, given.attribute)
    return {"csv": billing.usage_csv(document, given.attribute)} if given.format == "csv" else document


def analyse_tiers(context: AdminContext, given: UsageTiers) -> list[dict[str, Any]]:
    if given.user_id is not None:
        get_user(context, UserNamed(user_id=given.user_id))
    first, last = (date.fromisoformat(f"{month}-01") for month in (given.start_month, given.end_month))
    return billing.tiers(
        context.reports.tier_analysis(given.user_id, first, last, after=given.after, limit=given.limit)
    )


def report_calibration(context: AdminContext, given: Calibration) -> list[dict[str, Any]]:
    return [calibration_json(row) for row in context.reports.calibration(given.start, given.end, given.model_id)]


def report_windows(context: AdminContext, given: Windows) -> list[dict[str, Any]]:
    return [
        {"window": row.completion_window, "kept": row.kept, "missed": row.missed}
        | {"kept_part": _part(row.kept, row.kept + row.missed)}
        for row in context.reports.windows(given.start, given.end)
    ]


def get_invoice(context: AdminContext, given: InvoiceGet) -> dict[str, Any]:
    document = invoices.invoice(
        context.reports, given.user_id, given.month, price_list=given.price_list, attribute=given.attribute
    )
    return {"csv": invoices.invoice_csv(document)} if given.format == "csv" else document


def calibration_json(row: CalibrationRow) -> dict[str, Any]:
    """The sums with what follows from them: error and bias in parts of what was used, None without a forecast."""
    return asdict(row) | {
        "error": _part(row.error_tokens, row.actual_tokens),
        "bias": _part(row.forecast_tokens - row.actual_tokens, row.actual_tokens),
        "wait_error_seconds": None if not row.waits else round(row.error_wait_ms / row.waits / 1000, 3),
    }


def _part(part: int, whole: int) -> float | None:
    return None if not whole else round(part / whole, 4)


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "usage.get": Operation(UsageGet, get_usage),
    "usage.tiers": Operation(UsageTiers, analyse_tiers),
    "invoice.get": Operation(InvoiceGet, get_invoice),
    "stats.calibration": Operation(Calibration, report_calibration),
    "stats.windows": Operation(Windows, report_windows),
}
