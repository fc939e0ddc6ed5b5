"""What the calculation starts from: the price file, the figures of docs/benchmarks.md, and template.yaml."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError
from samtranslator.yaml_helper import yaml_parse

from benchmarks import report

ROOT: Final = Path(__file__).parents[2]
PRICES: Final = Path(__file__).parent / "aws_prices.json"
_SIDE: Final = "Sluice"


class ScaleError(Exception):
    """An input cannot be used. The message is one sentence: what is wrong, and what to do."""


# Prices --------------------------------------------------------------------------------------------------------------

_Amount = Annotated[StrictFloat | StrictInt, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[StrictFloat | StrictInt, Field(gt=0, allow_inf_nan=False)]
_Text = Annotated[StrictStr, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Model):
    """An amount in US dollars for the unit that its name says."""

    price: _Amount
    source: _Text


class Storage(_Model):
    """What a gp3 volume does without an extra charge."""

    iops: _Positive
    mb_per_second: _Positive
    source: _Text


class DatabaseClass(_Model):
    """An RDS class.

    Attributes:
        baseline: the share of its processors that may be used all the time at the price of an hour.
        usd_hour: in one zone, on demand.
    """

    vcpus: Annotated[StrictInt, Field(gt=0)]
    processor: Literal["Graviton2", "Graviton3"]
    memory_gib: _Positive
    baseline: Annotated[_Positive, Field(le=1)]
    usd_hour: _Amount
    source: _Text


class Prices(_Model):
    """The price file."""

    date: date
    region: _Text
    currency: Literal["USD"]
    prices: dict[str, Price]
    storage: Storage
    classes: dict[str, DatabaseClass]

    def of(self, name: str) -> float:
        """A price.

        Raises:
            ScaleError: the file does not have it.
        """
        if name not in self.prices:
            raise ScaleError(f"The price file has no price {name!r}: add it, with its source.")
        return self.prices[name].price

    def database_class(self, name: str) -> DatabaseClass:
        """A class of the database.

        Raises:
            ScaleError: the file does not have it.
        """
        if name not in self.classes:
            raise ScaleError(
                f'The price file does not know the class {name!r}: add it under "classes", with its source.'
            )
        return self.classes[name]


def read_prices(path: Path = PRICES) -> Prices:
    """Read a price file.

    Raises:
        ScaleError: it cannot be read, has no date, or something in it is missing, unknown or out of range.
    """
    try:
        return Prices.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ScaleError(f"{path.name}: {where}: {first['msg']}. Correct the price file.") from None


# Figures -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What was measured, of one request. Times are in milliseconds.

    Attributes:
        lifecycle_cpu: the server's processors, from submission to one read of the answer.
        status: planning and execution of a read.
        upkeep: planning and execution of rollups, audit chain and verification.
        wal_bytes, commits: of a lifecycle and the audit chain; of a lifecycle.
        kept_bytes: of tables and indexes that stay.
        locked: planning and execution of submission and settlement, which hold the user's lock.
        one_user, fifty_users: lifecycles a second on the benchmark's machine.
        machine, date: where and when it was measured.
    """

    lifecycle_cpu: float
    status: float
    upkeep: float
    wal_bytes: float
    commits: float
    kept_bytes: float
    locked: float
    one_user: float
    fifty_users: float
    machine: str
    date: str


_NUMBER: Final = re.compile(r"[\d,]+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class _Report:
    """The generated part of the page, by the titles of its tables."""

    name: str
    text: str

    @cached_property
    def _sections(self) -> list[tuple[str, str]]:
        parts = re.split(r"^### ", self.text, flags=re.MULTILINE)[1:]
        return [(title, body) for title, _, body in (part.partition("\n") for part in parts)]

    def figure(self, title: str, row: str) -> float:
        """The median of a row's first side, above 0; the beginning of the title is enough."""
        for found, body in self._sections:
            if not found.startswith(title):
                continue
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if "|" in line]
            if not cells or cells[0][1:2] != [_SIDE]:
                break
            for name, first, *_ in cells[1:]:
                number = _NUMBER.match(first)
                if name == row and number and (value := float(number[0].replace(",", ""))) > 0:
                    return value
        raise ScaleError(f"{self.name} has no figure {row!r} under {title!r}: run make bench BENCH=--write, on Linux.")

    def fact(self, name: str, pattern: str) -> str:
        """What stands in the report at a pattern's group; the name is for the message."""
        if found := re.search(pattern, self.text, re.MULTILINE):
            return found[1]
        raise ScaleError(f"{self.name} does not say {name}: run make bench BENCH=--write.")


def read_figures(path: Path = report.PAGE) -> Figures:
    """Read what was measured from the page that `make bench` writes.

    Raises:
        ScaleError: the page cannot be read, or a figure is missing.
    """
    found = _Report(path.name, _read(path).partition(report.BEGIN)[2])
    lifecycle, one_user = "Lifecycle: ten users", "Lifecycle: ten requests of one user"
    upkeep, rollups = "Verification and audit chain", "Usage and statistics: "
    new = found.fact("how many requests were rolled up", rf"^### {rollups}([\d,]+) new requests")
    rolled_up = float(new.replace(",", ""))
    return Figures(
        lifecycle_cpu=found.figure(lifecycle, "CPU of the server's processes, ms"),
        status=found.figure(lifecycle, "status: planning and execution, ms"),
        upkeep=found.figure(upkeep, "chain: planning and execution, ms")
        + found.figure(upkeep, "verification: planning and execution, ms")
        + (found.figure(rollups, "usage, ms") + found.figure(rollups, "statistics, ms")) / rolled_up,
        wal_bytes=found.figure(lifecycle, "WAL, bytes")
        + found.figure(upkeep, "chain: WAL, bytes")
        + found.figure(rollups, "both: WAL, bytes") / rolled_up,
        commits=found.figure(lifecycle, "commits"),
        kept_bytes=found.figure("Kept of each request", "tables and indexes, bytes"),
        locked=found.figure(one_user, "submit: planning and execution, ms")
        + found.figure(one_user, "settle: planning and execution, ms"),
        one_user=found.figure("Throughput", "one user: lifecycles a second"),
        fifty_users=found.figure("Throughput", "fifty users: lifecycles a second"),
        machine=found.fact("the machine", r"^- machine: (.+)$"),
        date=found.fact("the date", r"^- date: (.+)$"),
    )


# Template ------------------------------------------------------------------------------------------------------------

_MONTH_HOURS: Final = 730
_HOURS: Final = {"minute": 1 / 60, "hour": 1.0, "day": 24.0}


@dataclass(frozen=True)
class Template:
    """What template.yaml deploys, with its parameters at their defaults."""

    content: Mapping[str, Any]

    def default(self, parameter: str) -> int:
        """The default of a parameter that is a number."""
        return int(self.content["Parameters"][parameter]["Default"])

    def property_of(self, resource: str, name: str) -> int:
        """A property of a resource that is a number."""
        return int(self.content["Resources"][resource]["Properties"][name])

    @property
    def connections(self) -> dict[str, int]:
        """The most connections of each class of the database that may be chosen."""
        classes = self.content["Mappings"]["DatabaseClasses"]
        return {name: int(values["MaxConnections"]) for name, values in classes.items()}

    @property
    def waiting(self) -> int:
        """The most callers that may wait at once for answers under /v1; of a template without such callers, 0."""
        return self.default("OpenaiConcurrency") if "OpenaiConcurrency" in self.content["Parameters"] else 0

    @property
    def batch(self) -> int:
        """The most requests that a worker gets at once."""
        events = self.content["Resources"]["WorkerFunction"]["Properties"]["Events"]
        return int(events["Requests"]["Properties"]["BatchSize"])

    @property
    def alarms(self) -> int:
        """How many there are."""
        resources = self.content["Resources"]
        alone = [body for body in resources.values() if "Type" in body and body["Type"] == "AWS::CloudWatch::Alarm"]
        return len(alone) + len(resources["Fn::ForEach::Functions"][1])  # one for each function

    @property
    def scheduled_runs(self) -> float:
        """How often schedules fire in a month; those that do so daily or weekly are counted as daily."""
        events = self.content["Resources"]["RollupFunction"]["Properties"]["Events"].values()
        runs = 0.0
        for event in events:
            rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", event["Properties"]["ScheduleExpression"])
            runs += _MONTH_HOURS / (int(rate[1]) * _HOURS[rate[2]] if rate else 24)
        return runs


def read_template(path: Path = ROOT / "template.yaml") -> Template:
    """Read the template.

    Raises:
        ScaleError: it cannot be read.
    """
    return Template(yaml_parse(_read(path)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScaleError(
            f"{path.name} cannot be read ({type(error).__name__}): name a text file that exists."
        ) from None
