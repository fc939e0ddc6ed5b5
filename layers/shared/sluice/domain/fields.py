"""The forms of single values from outside: types that pydantic checks, with errors that say what is expected."""

import re
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

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
_TIME: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[Tt ](?P<hour>\d\d):(?P<minute>\d\d)(:(?P<second>\d\d)(\.(?P<fraction>\d+))?)?"
    r"(?P<zone>[Zz]|(?P<sign>[+-])(?P<zone_hour>\d\d):(?P<zone_minute>\d\d))?",
    re.ASCII,
)
TIME_MAX_LENGTH: Final = 64
# A query turns a + that is not escaped into a space.
_LOST_PLUS: Final = re.compile(r"[-\d]{10}[Tt ][\d:.]+ \d\d:\d\d", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PRICE: Final = re.compile(r"\d{1,10}(\.\d{1,10})?", re.ASCII)


def _without_nul(text: str) -> str:
    # PostgreSQL's text cannot hold U+0000; removing it silently would change what was asked.
    if "\x00" in text:
        raise ValueError("must not contain the character U+0000")
    return text


def _time(value: Any) -> datetime:
    """A time of RFC 3339, in UTC. What is finer than a microsecond is cut off; a leap second is the second after it."""
    text = value if isinstance(value, str) and len(value) <= TIME_MAX_LENGTH else ""
    found = _TIME.fullmatch(text)
    if found is None:
        if _LOST_PLUS.fullmatch(text):
            raise ValueError("has a space where its time zone begins: in a URL, write + as %2B")
        raise ValueError(
            "must be a time of RFC 3339, a text like 2030-01-31T12:00:00Z or 2030-01-31T13:00:00.5+01:00, "
            f"of at most {TIME_MAX_LENGTH} characters"
        )
    if found["zone"] is None:
        raise ValueError("needs a time zone, as in 2030-01-31T12:00:00Z")
    day = _day(found["day"])
    hour, minute, second, zone_hour, zone_minute = (
        int(found[name] or 0) for name in ("hour", "minute", "second", "zone_hour", "zone_minute")
    )
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("has no such time of day: it ends at 23:59:59")
    if zone_hour > 23 or zone_minute > 59:
        raise ValueError("has no such time zone: it is Z, or lies between -23:59 and +23:59")
    if not FIRST_YEAR < day.year <= LAST_YEAR:  # whatever the zone, not before UUIDv7's first moment
        raise ValueError(f"must be of a year from {FIRST_YEAR + 1} to {LAST_YEAR}")
    ahead = timedelta(hours=zone_hour, minutes=zone_minute)
    at = datetime(
        day.year,
        day.month,
        day.day,
        hour,
        minute,
        min(second, 59),
        int((found["fraction"] or "")[:6].ljust(6, "0")),
        timezone(-ahead if found["sign"] == "-" else ahead),
    ).astimezone(UTC)
    if second < 60:
        return at
    if (at.hour, at.minute) != (23, 59):
        raise ValueError("has no such second: a leap second is 23:59:60 in UTC")
    return at + timedelta(seconds=1)


def _day(value: Any) -> date:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("must be a day like 2030-01-31")
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise ValueError("is no day of the calendar") from None
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"must be of a year from {FIRST_YEAR} to {LAST_YEAR}")
    return day


def _price(value: Any) -> Decimal:
    # Python writes small numbers of JSON as 5e-05.
    text = format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _PRICE.fullmatch(text):
        raise ValueError('must be a decimal number like "0.035", with at most 10 digits on either side of the point')
    return Decimal(text)


def id_of(text: str) -> UUID | None:
    """The id that a text is: 32 lower-case hexadecimal digits in groups of 8-4-4-4-12. None for any other spelling.

    One spelling, so that an id can be compared, looked up and logged as it was given.
    """
    return UUID(text) if _ID.fullmatch(text) else None


def time_of(request_id: UUID) -> datetime:
    """When a request was accepted: the milliseconds since 1970 with which its id begins (UUIDv7, RFC 9562, 5.7)."""
    return datetime.fromtimestamp((request_id.int >> 80) / 1000, UTC)


def _id(value: Any) -> UUID:
    found = id_of(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be an id like 01a209c5-cf43-7b5f-8f22-667403834749, in lower case")
    return found


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
METADATA_MAX_KEYS: Final = 16
"""As OpenAI's API has it: at most 16 keys of 64 characters, values of 512."""
TagName = Annotated[str, Field(min_length=1, max_length=64), Storable]
"""The name of a member of a request's metadata."""
Metadata = Annotated[
    dict[TagName, Annotated[str, Field(max_length=512), Storable]], Field(max_length=METADATA_MAX_KEYS)
]
Name = Annotated[str, Field(min_length=1, max_length=100), Storable]
Email = Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$"), Storable]
"""RFC 5321 leaves 254 characters for an address."""
Id = Annotated[UUID, PlainValidator(_id), PlainSerializer(str, when_used="json-unless-none")]
"""An id that this service made: of a request, a key, an audit row."""
UserId = Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=255)]
"""A user's id, as identity providers give it: printable ASCII without spaces; case counts (OpenID Connect Core, 2)."""
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*$", max_length=255)]
"""Ids of models and price lists."""
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


WebhookUrl = Annotated[str, Field(min_length=1, max_length=2048), Storable]
"""An URL to which webhooks are sent; sluice.domain.webhooks.check_url says which may be."""


class Strict(BaseModel):
    """No unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())
