"""Formats of values on the command line, and their conversion to arguments of operations."""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Final, TypeVar

import click

from sluice_cli.vocabulary import PERIODS, RESET_FREQUENCIES

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d+)([smhd])")
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_MONTH: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])")

F = TypeVar("F", bound=Callable[..., Any])


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


class Word(click.ParamType):
    """Another format, plus one word that means null."""

    def __init__(self, values: click.ParamType, word: str) -> None:
        self._values = values
        self._word = word
        self.name = f"{values.name}|{word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Null.NULL if value == self._word else self._values.convert(value, param, ctx)


class Date(click.ParamType):
    """A day, as in 2027-01-31."""

    name = "date"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            # fromisoformat accepts more formats, which the help would have to explain.
            if not _DATE.fullmatch(value):
                raise ValueError
            return dt.date.fromisoformat(value).isoformat()
        except ValueError:
            self.fail(f"{value!r} is not a date like 2027-01-31.", param, ctx)


class Month(click.ParamType):
    """A month, as in 2027-01."""

    name = "month"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _MONTH.fullmatch(value):
            self.fail(f"{value!r} is not a month like 2027-01.", param, ctx)
        return value


class Time(click.ParamType):
    """A time, as in 2027-01-31T12:00:00Z; a date alone means midnight UTC."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            moment = dt.datetime.fromisoformat(f"{value}T00:00:00Z" if _DATE.fullmatch(value) else value)
        except ValueError:
            self.fail(f"{value!r} is not a time like 2027-01-31T12:00:00Z.", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no time zone: for UTC, end it with Z.", param, ctx)
        return moment.isoformat()


class Duration(click.ParamType):
    """A number of seconds, minutes, hours or days, as in 90s, 30m, 24h, 7d; converted to seconds."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _DURATION.fullmatch(value)
        if not match:
            self.fail(f"{value!r} is not a duration like 90s, 30m, 24h or 7d.", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


class Price(click.ParamType):
    """A decimal number, kept as text so that no digit is lost."""

    name = "price"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite():
            self.fail(f"{value!r} is not a price like 0.035.", param, ctx)
        return f"{number:f}"


LIMIT: Final = Word(click.INT, "unlimited")
AMOUNT: Final = Word(Price(), "unlimited")
TIME_OR_NEVER: Final = Word(Time(), "never")
DATE: Final = Date()
MONTH: Final = Month()
TIME: Final = Time()
DURATION: Final = Duration()
PRICE: Final = Price()
AT_MOST: Final = click.IntRange(min=1)


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
            type=int,
            metavar="N",
            help="Concurrency limit: requests in the queue or with a worker at once.",
        ),
        click.option("--max-unfinished", type=int, metavar="N", help="Accepted, unfinished requests at once."),
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
