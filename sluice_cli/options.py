"""Formats of values on the command line, and their conversion to arguments of operations."""

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID

import click

from sluice_cli.vocabulary import PERIODS, RESET_FREQUENCIES

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Digits are ASCII's: int() and Decimal() would take those of other scripts too.
_WHOLE: Final = re.compile(r"[0-9]+")
_RESPONSE_ID: Final = re.compile(r"(?:resp_|chatcmpl-)([0-9a-f]{32})")
_DURATION: Final = re.compile(r"([0-9]+)([smhd])")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
# RFC 3339, also with a space, without seconds, and with finer fractions than microseconds, which are cut off.
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
# Two digits of exponent are enough for any price; more would be a number that takes gigabytes to write down.
_PRICE: Final = re.compile(r"([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})([Ee][+-]?[0-9]{1,2})?")
_MOST_DIGITS: Final = 18
_LONGEST_DAYS: Final = 36_500

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Null(Enum):
    """The value null, as distinct from an option that was omitted."""

    NULL = "null"


def given(**arguments: object) -> dict[str, object]:
    """Return the arguments without those that are None, empty tuples or empty objects; Null.NULL becomes None."""
    return {
        name: None if value is Null.NULL else list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
        if value is not None and value not in ((), {})
    }


def cleared(name: str, value: T | None, clear: bool) -> T | Null | None:
    """Return the value of --NAME, or null if --no-NAME was given instead."""
    if clear and value is not None:
        raise click.UsageError(f"--{name} and --no-{name} cannot be combined.")
    return Null.NULL if clear else value


class Format(click.ParamType):
    """A format of values, with a refusal that is one short sentence whatever was given."""

    def refuse(self, value: str, what: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        """Fail: the value is not `what`."""
        shown = value if len(value) <= 40 else f"{value[:40]}…"
        self.fail(f"{shown!r} is not {what}.", param, ctx)


class Whole(Format):
    """A whole number.

    Args:
        least: the smallest that is accepted. The largest is left to the service, which knows it.
    """

    name = "integer"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not _WHOLE.fullmatch(text) or len(text.lstrip("0")) > _MOST_DIGITS or int(text) < self._least:
            self.refuse(text, f"a whole number from {self._least} to {10**_MOST_DIGITS - 1}", param, ctx)
        return int(text)


class Word(click.ParamType):
    """Another format, plus one word that means null."""

    def __init__(self, values: click.ParamType, word: str) -> None:
        self._values = values
        self._word = word
        self.name = f"{values.name}|{word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Null.NULL if value == self._word else self._values.convert(value, param, ctx)


class RequestId(Format):
    """The id of a request, also as OpenAI's clients know it. What is neither is left to the service, which says so."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found = _RESPONSE_ID.fullmatch(value)
        return str(UUID(found[1])) if found else value


class JsonObject(Format):
    """The name of a file that holds a JSON object, or - for standard input; converted to the object."""

    name = "file"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            with click.open_file(value, encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError):
            # Also a name that no file can have, and bytes that are no text.
            self.refuse(value, "a file that can be read as text in UTF-8", param, ctx)
        try:
            found = json.loads(text, object_pairs_hook=_members)
        except (ValueError, RecursionError) as error:
            at = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
            self.refuse(value, f"a file of JSON without repeated members{at}", param, ctx)
        if not isinstance(found, dict) or not found:
            self.refuse(value, "a file with a JSON object that has members", param, ctx)
        return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object, none of them twice: which of the two counts would be a guess."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object has two members of the same name")
    return members


class Date(Format):
    """A day, as in 2027-01-31."""

    name = "date"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            # fromisoformat accepts more formats, which the help would have to explain.
            if not _DATE.fullmatch(value):
                raise ValueError
            return dt.date.fromisoformat(value).isoformat()
        except ValueError:
            self.refuse(value, "a date like 2027-01-31", param, ctx)


class Month(Format):
    """A month, as in 2027-01."""

    name = "month"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _MONTH.fullmatch(value):
            self.refuse(value, "a month like 2027-01", param, ctx)
        return value


class Time(Format):
    """A time, as in 2027-01-31T12:00:00Z; a date alone means midnight UTC."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = _TIME.fullmatch(f"{value}T00:00Z" if _DATE.fullmatch(value) else value)
        try:
            if match is None or (match[4] and not match[3]):
                raise ValueError
            day, minute, seconds, fraction, zone = match.groups(default="")
            # A leap second (RFC 3339, 5.7) is the second after it.
            is_leap = seconds == ":60"
            kept = ":59" if is_leap else seconds
            moment = dt.datetime.fromisoformat(f"{day}T{minute}{kept}{fraction[:7]}{zone.upper()}")
            if is_leap:
                if moment.tzinfo is None or moment.astimezone(dt.UTC).strftime("%H:%M") != "23:59":
                    raise ValueError
                moment = moment.replace(microsecond=0) + dt.timedelta(seconds=1)
        except ValueError:
            self.refuse(value, "a time like 2027-01-31T12:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no time zone: for UTC, end it with Z.", param, ctx)
        return moment.isoformat()


class Duration(Format):
    """A number of seconds, minutes, hours or days, as in 90s, 30m, 24h, 7d; converted to seconds."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _DURATION.fullmatch(value)
        if not match:
            self.refuse(value, "a duration like 90s, 30m, 24h or 7d", param, ctx)
        seconds = int(match[1]) * _SECONDS[match[2]] if len(match[1].lstrip("0")) <= _MOST_DIGITS else None
        if seconds is None or seconds > _LONGEST_DAYS * _SECONDS["d"]:
            self.refuse(value, f"a duration of at most {_LONGEST_DAYS}d", param, ctx)
        return seconds


class Price(Format):
    """A decimal number, kept as text so that no digit is lost."""

    name = "price"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _PRICE.fullmatch(value):
            self.refuse(value, "a price like 0.035", param, ctx)
        return f"{Decimal(value):f}"


LIMIT: Final = Word(Whole(0), "unlimited")
AMOUNT: Final = Word(Price(), "unlimited")
TIME_OR_NEVER: Final = Word(Time(), "never")
REQUEST_ID: Final = RequestId()
JSON_OBJECT: Final = JsonObject()
DATE: Final = Date()
MONTH: Final = Month()
TIME: Final = Time()
DURATION: Final = Duration()
PRICE: Final = Price()
AT_MOST: Final = Whole(1)
COUNT: Final = Whole(1)
COUNT_OR_ZERO: Final = Whole(0)


def limit_options(function: F) -> F:
    """Add an option for each limit, --minute-requests to --monthly-tokens; see `limits`."""
    for period in reversed(PERIODS):
        for kind in ("tokens", "requests"):
            option = click.option(
                f"--{period}-{kind}", type=LIMIT, metavar="N|unlimited", help=f"{kind.capitalize()} {PERIODS[period]}."
            )
            function = option(function)
    return function


def breakdown_options(function: F) -> F:
    """Add the options that break usage down by key or tag."""
    for option in (
        click.option("--by-tag", metavar="NAME", help="Show a line for each value of this member of the metadata."),
        click.option("--by-key", is_flag=True, help="Show a line for each API key."),
    ):
        function = option(function)
    return function


def csv_text(result: Mapping[str, Any]) -> str:
    """The CSV in a result; printing adds the last line break."""
    return str(result.get("csv", "")).removesuffix("\n")


def plan_options(function: F) -> F:
    """Add the options, other than limits, that tiers and users' own quotas have in common."""
    for option in (
        click.option("--reset-frequency", type=click.Choice(RESET_FREQUENCIES), help="How often used quota is reset."),
        click.option(
            "--dispatch-window",
            type=COUNT,
            metavar="N",
            help="Concurrency limit: requests in the queue or with a worker at once.",
        ),
        click.option("--max-file-bytes", type=LIMIT, metavar="N|unlimited", help="Bytes of all files of a user."),
        click.option("--max-unfinished", type=COUNT, metavar="N", help="Accepted, unfinished requests at once."),
    ):
        function = option(function)
    return function


def limits(options: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Convert the values of `limit_options` to the argument `limits`, by period."""
    found: dict[str, dict[str, object]] = {}
    for name, value in given(**options).items():
        period, kind = name.split("_")
        found.setdefault(period, {})[f"max_{kind}"] = value
    return found
