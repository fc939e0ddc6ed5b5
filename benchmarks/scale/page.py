"""The tables of docs/scale.md."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.scale.assumptions import LOADS, PROCESSORS, Assumptions, Load, stated
from benchmarks.scale.capacity import (
    SECONDS,
    Inputs,
    by_iops,
    by_throughput,
    capacities,
    environments,
    one_user,
    processor_ms,
)
from benchmarks.scale.cost import bill, chosen, storage_gb, worker_usd_per_million
from benchmarks.scale.inputs import PRICES, read_figures, read_prices, read_template

PAGE: Final = report.PAGE.parent / "scale.md"
_COMMITS_MS: Final = (0.5, 1, 2, 5)
_MODEL_SECONDS: Final = (1, 2, 10, 30)
_BATCHES: Final = (1, 2, 5, 10)
_MILLION: Final = 1_000_000


def read(prices: Path = PRICES, figures: Path = report.PAGE) -> Inputs:
    """Everything that the calculation uses, with the usual assumptions.

    Raises:
        ScaleError: a file cannot be used, or lacks something.
    """
    return Inputs(read_prices(prices), read_figures(figures), read_template(), Assumptions())


def sections(inputs: Inputs) -> list[str]:
    """The generated part of the page.

    Raises:
        ScaleError: a price, a class or a class that is large enough is missing.
    """
    return [
        _origin(inputs),
        _classes(inputs),
        _storage(inputs),
        _one_user(inputs),
        _defaults(inputs),
        _bill(inputs),
        _worker(inputs),
        _growth(inputs),
        _section("Assumptions", ["what is assumed", "value"], stated(inputs.assumptions)),
        _prices(inputs),
    ]


def _origin(inputs: Inputs) -> str:
    figures, prices = inputs.figures, inputs.prices
    facts = {
        "measured": f"{figures.date}, on {figures.machine}",
        "prices": f"{prices.date}, {prices.region}, {prices.currency}, on demand, without free tiers and taxes",
        "processor time of a request in the database, ms": f"{processor_ms(inputs):.3g}",
        "of it the lifecycle with one read, ms": f"{figures.lifecycle_cpu:.3g}",
        "of it each further read, ms": f"{figures.status:.3g}",
        "of it rollups, audit chain and verification, ms": f"{figures.upkeep:.3g}",
        "lifecycles a second on the benchmark's machine, of fifty users": f"{figures.fifty_users:,.0f}",
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _classes(inputs: Inputs) -> str:
    rows = [
        [
            f"`{each.name}`",
            f"{each.database_class.vcpus} {each.database_class.processor}, {each.database_class.memory_gib:g}",
            f"{each.connections:,}",
            f"{each.by_processor:,.0f}",
            f"{each.lasting:,.0f}",
            f"{each.average(inputs.assumptions.peak) * SECONDS / _MILLION:,.0f}",
            f"{each.usd_month:,.2f}",
            f"{each.surplus_usd_month:,.2f}",
        ]
        for each in capacities(inputs)
    ]
    header = [
        "class",
        "vCPUs, GiB",
        "connections",
        "requests/s, by its processors",
        "of it all day long",
        "million a month, with peaks",
        "USD a month, one zone",
        "USD a month for surplus credits",
    ]
    return _section("What each class carries", header, rows)


def _storage(inputs: Inputs) -> str:
    rows = [
        ["IOPS, no two commits sharing a flush", f"{inputs.prices.storage.iops:,}", f"{by_iops(inputs):,.0f}"],
        ["throughput, MB/s", f"{inputs.prices.storage.mb_per_second:,}", f"{by_throughput(inputs):,.0f}"],
    ]
    return _section("What the storage carries", ["bound", "gp3 has", "requests/s"], rows)


def _one_user(inputs: Inputs) -> str:
    rows = [
        [f"{commit:g}", *(f"{one_user(inputs, commit, speed):,.0f}" for speed in PROCESSORS.values())]
        for commit in _COMMITS_MS
    ]
    note = f"On the benchmark's machine, with eight clients of one user: {inputs.figures.one_user:,.0f} a second."
    header = ["commit, ms", *(f"{name}, requests/s" for name in PROCESSORS)]
    return "\n\n".join([_section("One user's ceiling, by the time of a commit", header, rows), note])


def _defaults(inputs: Inputs) -> str:
    assumed, template = inputs.assumptions, inputs.template
    rate = template.default("ApiRateLimit")
    busy = template.default("WorkerConcurrency") * template.batch
    rows: list[tuple[str, float]] = [
        ("`ApiRateLimit`, submissions", rate),
        ("`ApiRateLimit`, status reads", rate / assumed.polls),
        ("`SubmitConcurrency`", template.default("SubmitConcurrency") / assumed.submit_seconds),
        ("`StatusConcurrency`", template.default("StatusConcurrency") / assumed.status_seconds / assumed.polls),
        ("`WorkerConcurrency`, full batches", busy / (assumed.model_seconds + assumed.worker_seconds)),
    ]
    numbers = [[name, f"{value:,.0f}"] for name, value in rows]
    return _section("Where the template's defaults stop", ["parameter", "requests/s"], numbers)


def _bill(inputs: Inputs) -> str:
    bills = [bill(inputs, load) for load in LOADS]
    millions = [load.requests / _MILLION for load in LOADS]
    rows = [
        [lines[0].name, lines[0].counted, *(_usd(line.usd / n) for line, n in zip(lines, millions, strict=True))]
        for lines in zip(*bills, strict=True)
    ]
    totals = [sum(line.usd for line in lines) for lines in bills]
    rows += [
        ["**in all, a million**", "", *(f"**{_usd(total / n)}**" for total, n in zip(totals, millions, strict=True))],
        ["in all, the month", "", *(f"{total:,.0f}" for total in totals)],
        ["class", "", *(f"`{chosen(inputs, load).name}`" for load in LOADS)],
        ["requests in a worker's batch", "assumed", *(f"{load.batch:g}" for load in LOADS)],
        ["workers in a busy minute", "environments", *(f"{_workers(inputs, load):,}" for load in LOADS)],
    ]
    header = ["line", "what is counted", *(f"USD, at {n:,.0f} million a month" for n in millions)]
    return _section("What a million requests cost", header, rows)


def _workers(inputs: Inputs, load: Load) -> int:
    return environments(inputs, load.requests / SECONDS * inputs.assumptions.peak, load.batch)["worker"]


def _worker(inputs: Inputs) -> str:
    rows = [
        [str(seconds), *(_usd(worker_usd_per_million(inputs, seconds, batch)) for batch in _BATCHES)]
        for seconds in _MODEL_SECONDS
    ]
    header = ["model, seconds", *(f"USD, in batches of {batch}" for batch in _BATCHES)]
    return _section("The worker's time, for a million requests", header, rows)


def _growth(inputs: Inputs) -> str:
    gb = storage_gb(inputs, _MILLION)
    most = inputs.template.property_of("Database", "MaxAllocatedStorage")
    rows = [
        ["GB kept of a million requests", f"{gb:.3g}"],
        ["USD for each month that they are kept", _usd(gb * inputs.prices.of("storage_gb_month"))],
        ["million requests until `MaxAllocatedStorage` is full", f"{most / gb:,.0f}"],
    ]
    return _section("Storage grows", ["", "value"], rows)


def _prices(inputs: Inputs) -> str:
    prices = [
        [f"`{name}`", f"{Decimal(str(price.price)):f}", price.source] for name, price in inputs.prices.prices.items()
    ]
    classes = [
        [f"`{name}`, an hour", f"{each.usd_hour:g}", each.source] for name, each in inputs.prices.classes.items()
    ]
    return _section("Prices", ["price", "USD", "source"], [*prices, *classes])


def _usd(amount: float) -> str:
    return f"{amount:,.2f}"


def _section(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    numbers = ["---:" if any(sign in name for sign in ("USD", "/s", "value")) else "---" for name in header]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(cells)} |" for cells in [header, numbers, *rows])])
