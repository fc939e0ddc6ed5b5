"""What operators and schedules send: the arguments of every administrative operation, and the rollups' event."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    model_validator,
)

from sluice.models import FIRST_YEAR, LAST_YEAR, Identifier, Name, Storable, Strict, Text, Time, TokenLimit

LONGEST_REPORT_DAYS: Final = 366


# In these forms only: pydantic would also take other scripts' digits for a number.
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PRICE: Final = re.compile(r"\d{1,10}(\.\d{1,10})?", re.ASCII)


def _day(value: Any) -> date:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("must be a day like 2030-01-31")
    day = date.fromisoformat(value)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"must be of a year from {FIRST_YEAR} to {LAST_YEAR}")
    return day


def _price(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _PRICE.fullmatch(str(value)):
        raise ValueError('must be a decimal number like "0.035", with at most 10 digits on either side of the point')
    return Decimal(str(value))


def _distinct(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


Day = Annotated[date, PlainValidator(_day), PlainSerializer(date.isoformat, when_used="json-unless-none")]
"""A calendar day in UTC."""
Month = Annotated[str, StringConstraints(pattern=r"^(19[7-9]\d|[2-8]\d{3})-(0[1-9]|1[0-2])$")]
"""YYYY-MM."""
Tier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=20)]
Period = Literal["minute", "daily", "monthly"]
Frequency = Literal["daily", "monthly"]
Scope = Literal["submit", "read"]
Price = Annotated[Decimal, PlainValidator(_price), PlainSerializer(str, when_used="json-unless-none")]
"""Per million tokens; as a string, so that no binary fraction comes between."""
Count = Annotated[int, Field(ge=1, le=10**6)]
Status = Literal["queued", "processing", "completed", "failed", "cancelled", "expired"]
Page = Annotated[int, Field(ge=1, le=1000)]
Email = Annotated[str, Field(max_length=255, pattern=r"^[^@\s]+@[^@\s]+$"), Storable]


class Nothing(Strict):
    """An operation without arguments."""


class Change(Strict):
    """Changes what is among its arguments and leaves the rest as it is."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if len(self.model_fields_set) < 2:
            raise ValueError(f"nothing to change: give at least one of {', '.join(list(type(self).model_fields)[1:])}")
        return self


# Users and keys -------------------------------------------------------------------------------------------------------


class UserNamed(Strict):
    user_id: Identifier


class UserCreate(Strict):
    user_id: Identifier
    name: Name | None = None
    email: Email | None = None
    tier: Tier = "basic"


class UserList(Strict):
    after: Text = ""
    limit: Page = 100


class UserUpdate(Change):
    user_id: Identifier
    name: Name | None = None
    email: Email | None = None
    tier: Tier = "basic"
    is_active: bool = True


class KeyCreate(Strict):
    user_id: Identifier
    name: Name | None = None
    scopes: Annotated[list[Scope], Field(min_length=1), AfterValidator(_distinct)] = Field(default=["submit", "read"])
    expires_at: Time | None = None


class KeyNamed(Strict):
    key_id: UUID


class KeyRotate(Strict):
    key_id: UUID
    overlap_seconds: int = Field(default=86_400, ge=0, le=30 * 86_400)
    expires_at: Time | None = None


class KeyExpire(Strict):
    key_id: UUID
    expires_at: Time | None


# Tiers and quotas -----------------------------------------------------------------------------------------------------


class Limit(Strict):
    """Limits of one period; None: unlimited."""

    max_requests: int | None = Field(default=None, ge=0, le=2**31 - 1)
    max_tokens: int | None = Field(default=None, ge=0, le=10**15)


class Limits(Strict):
    minute: Limit = Limit()
    daily: Limit = Limit()
    monthly: Limit = Limit()


class TierNamed(Strict):
    tier: Tier


class TierSet(Change):
    tier: Tier
    reset_frequency: Frequency = "monthly"
    max_unfinished: Count = 100
    dispatch_window: Count = 10
    price_list: Identifier = "standard"
    limits: Limits = Limits()


class QuotaSet(Change):
    user_id: Identifier
    limits: Limits = Limits()
    max_unfinished: Count = 100
    dispatch_window: Count = 10
    reset_frequency: Frequency = "monthly"


class QuotaClear(Strict):
    user_id: Identifier
    periods: Annotated[list[Period], Field(min_length=1)] | None = None


# Models and prices ----------------------------------------------------------------------------------------------------


class Prices(Strict):
    """Per million tokens, in the currency of the standard list."""

    prompt: Price | None = None
    completion: Price | None = None


class ModelSet(Strict):
    model_id: Identifier
    backend: Literal["openai", "bedrock"]
    backend_model: Annotated[str, Field(min_length=1, max_length=200), Storable]
    # Without user:password@: credentials belong in a secret.
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$"), Storable] | None = None
    secret_arn: Annotated[str, Field(min_length=1), Storable] | None = None
    max_tokens_default: TokenLimit = 256
    max_tokens_limit: TokenLimit = 1024
    overhead_tokens: int = Field(default=64, ge=0, le=10**9)
    timeout_seconds: int = Field(default=60, ge=1, le=900)
    is_default: bool = False
    is_active: bool = True
    prices: Prices = Prices()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backend == "openai" and self.endpoint is None:
            raise ValueError("a model of the openai backend needs an endpoint")
        if self.max_tokens_default > self.max_tokens_limit:
            raise ValueError("max_tokens_default must not exceed max_tokens_limit")
        if self.is_default and not self.is_active:
            raise ValueError("the default model must be active")
        return self


class PriceList(Strict):
    price_list: Identifier | None = None
    model_id: Identifier | None = None
    on: Day | None = None


class PriceSet(Strict):
    model_id: Identifier
    prompt: Price | None = None
    completion: Price | None = None
    price_list: Identifier = "standard"
    valid_from: Day | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.prompt is None and self.completion is None:
            raise ValueError("give at least one of prompt, completion")
        return self


# Requests -------------------------------------------------------------------------------------------------------------


Reason = Annotated[str, StringConstraints(pattern=r"^[a-z_]+$", max_length=50)]
"""An error code of a request; docs/api.md lists them."""


class RequestNamed(Strict):
    request_id: UUID


class RequestList(Strict):
    """Newest first, of those that are not archived; start and end are times of acceptance, end not included."""

    user_id: Identifier | None = None
    status: Status | None = None
    error_code: Reason | None = None
    start: Time | None = None
    end: Time | None = None
    before: UUID | None = None
    limit: Page = 100


class RequestRedrive(Strict):
    """One failed request; or a page of those that failed for a reason in a period, of one user or of all.

    Attributes:
        start, end: when they failed, end not included.
        after: the next_cursor of the page before.
        dry_run: only say which.
    """

    request_id: UUID | None = None
    error_code: Reason | None = None
    start: Time | None = None
    end: Time | None = None
    user_id: Identifier | None = None
    after: UUID | None = None
    limit: Page = 1000
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if self.request_id is not None:
            if self.error_code or self.start or self.end or self.user_id or self.after:
                raise ValueError("give request_id alone, or error_code, start and end")
        elif self.error_code is None or self.start is None or self.end is None:
            raise ValueError("give request_id; or error_code, start and end")
        elif self.end <= self.start:
            raise ValueError("start must be before end")
        return self


# Usage and money ------------------------------------------------------------------------------------------------------


class Days(Strict):
    """A span of whole days (UTC), both included; by default this month up to today."""

    start: Day = Field(default_factory=lambda: datetime.now(UTC).date().replace(day=1))
    end: Day = Field(default_factory=lambda: datetime.now(UTC).date())

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"start, {self.start}, must not be after end, {self.end}")
        if (self.end - self.start).days >= LONGEST_REPORT_DAYS:
            raise ValueError(f"a report spans at most {LONGEST_REPORT_DAYS} days")
        return self


class UsageGet(Days):
    user_id: Identifier


def _months_ago(months: int) -> str:
    count = datetime.now(UTC).year * 12 + datetime.now(UTC).month - 1 - months
    return f"{count // 12:04}-{count % 12 + 1:02}"


class UsageTiers(Strict):
    """By default the twelve months up to this one, of all users, a page of them after another."""

    user_id: Identifier | None = None
    start_month: Month = Field(default_factory=lambda: _months_ago(11))
    end_month: Month = Field(default_factory=lambda: _months_ago(0))
    after: Text = ""
    limit: Page = 1000

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end_month < self.start_month:
            raise ValueError(f"start_month, {self.start_month}, must not be after end_month, {self.end_month}")
        return self


class InvoiceGet(Strict):
    user_id: Identifier
    month: Month
    price_list: Identifier | None = None
    format: Literal["json", "csv"] = "json"


# Audit, verification, tasks -------------------------------------------------------------------------------------------


class AuditList(Strict):
    user_id: Identifier | None = None
    request_id: UUID | None = None
    action: Annotated[str, StringConstraints(pattern=r"^[a-z_.]+$", max_length=50)] | None = None
    start: Time | None = None
    end: Time | None = None
    after: UUID | None = None
    limit: Page = 100


Head = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,17}:[0-9a-f]{64}$")]
"""Number and hash of a batch of the audit log's chain, as the audit task logs it."""


class Verify(Strict):
    full: bool = False
    head: Head | None = None


RollupTask = Literal["recover", "usage", "stats", "partitions", "archive", "expire", "audit", "verify"]


class RollupEvent(Strict):
    """What RollupFunction is invoked with.

    Attributes:
        tasks: to run, in this order.
        full: verify: everything there is, and not only what is new.
        head: verify: must still be in the audit log's chain.
    """

    tasks: Annotated[list[RollupTask], Field(min_length=1)]
    full: bool = False
    head: Head | None = None


class AdminEvent(Strict):
    """What AdminFunction is invoked with."""

    operation: str
    arguments: dict[str, JsonValue] = Field(default={})
