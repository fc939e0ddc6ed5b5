"""The forms of single values from outside: types that pydantic checks, with errors that say what is expected."""

import re
from collections.abc import Collection
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
)

FIRST_YEAR: Final = 1970
"""Where UUIDv7, by which everything is found in time, begins."""
LAST_YEAR: Final = 9000
"""Python's last is 9999, and another time zone may be a year further."""

# In these forms only: pydantic would also take a number of seconds for a time, and other scripts' digits for a number.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PRICE: Final = re.compile(r"\d{1,10}(\.\d{1,10})?", re.ASCII)


def _without_nul(text: str) -> str:
    # PostgreSQL's text cannot hold U+0000; removing it silently would change what was asked.
    if "\x00" in text:
        raise ValueError("must not contain the character U+0000")
    return text


def _time(value: Any) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be a time like 2030-01-31T12:00:00Z")
    at = datetime.fromisoformat(value)
    if at.tzinfo is None:
        raise ValueError("needs a time zone, as in 2030-01-31T12:00:00Z")
    if not FIRST_YEAR < at.year <= LAST_YEAR:  # whatever the zone, not before UUIDv7's first moment
        raise ValueError(f"must be of a year from {FIRST_YEAR + 1} to {LAST_YEAR}")
    return at


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


def one_of(names: Collection[str]) -> AfterValidator:
    """A text that must be one of these names. For names that are only known at run time; others are a Literal."""

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return name

    return AfterValidator(check)


def _flag(value: Any) -> Any:
    # In a query, everything is text.
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


Storable = AfterValidator(_without_nul)
"""Written last: limits after it would be checked, and reported, as those of any Python object."""
Text = Annotated[str, Storable]
TagName = Annotated[str, Field(min_length=1, max_length=64), Storable]
"""The name of a member of a request's metadata."""
Name = Annotated[str, Field(min_length=1, max_length=100), Storable]
Email = Annotated[str, Field(max_length=255, pattern=r"^[^@\s]+@[^@\s]+$"), Storable]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*$", max_length=50)]
"""Ids of users, models and price lists: what also fits an SQS message group, a URL and a CSV."""
TierName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=20)]
Time = Annotated[datetime, PlainValidator(_time), PlainSerializer(datetime.isoformat, when_used="json-unless-none")]
Day = Annotated[date, PlainValidator(_day), PlainSerializer(date.isoformat, when_used="json-unless-none")]
"""A calendar day in UTC."""
Month = Annotated[str, StringConstraints(pattern=r"^(19[7-9]\d|[2-8]\d{3})-(0[1-9]|1[0-2])$")]
"""YYYY-MM."""
Price = Annotated[Decimal, PlainValidator(_price), PlainSerializer(str, when_used="json-unless-none")]
"""Per million tokens; as a string, so that it is never rounded to a binary fraction."""
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
"""A code of ISO 4217."""
TokenLimit = Annotated[int, Field(ge=1, le=10**9)]
"""Two of these and a prompt fit PostgreSQL's integer, which holds their sum."""
Count = Annotated[int, Field(ge=1, le=10**6)]
Flag = Annotated[bool, BeforeValidator(_flag)]
"""True or false, in JSON or in a query."""
PageSize = Annotated[int, Field(ge=1, le=1000)]
ChainHead = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,17}:[0-9a-f]{64}$")]
"""Number and hash of a batch of the audit log's chain, as the audit task logs it."""


class Strict(BaseModel):
    """No unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())
