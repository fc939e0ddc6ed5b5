"""What one writer carries: its processors, its storage, its connections, and one user's lock."""

from dataclasses import dataclass
from math import ceil

from benchmarks.scale.assumptions import PROCESSORS, Assumptions
from benchmarks.scale.inputs import DatabaseClass, Figures, Prices, Template
from sluice.db.connection_limits import connection_limits

HOURS = 730  # of a month
SECONDS = HOURS * 3600
_PAGE = 8192


@dataclass(frozen=True)
class Inputs:
    """Everything that the calculation uses."""

    prices: Prices
    figures: Figures
    template: Template
    assumptions: Assumptions


@dataclass(frozen=True)
class Capacity:
    """What a class of the database carries, in requests a second with all that follows from them.

    Attributes:
        by_processor: with the processors used as far as planned.
        lasting: of that, what the price of an hour includes: less where processors are burstable.
        surplus_usd_month: for processors used beyond that, all the month at by_processor.
    """

    name: str
    database_class: DatabaseClass
    connections: int
    by_processor: float
    lasting: float
    surplus_usd_month: float

    @property
    def usd_month(self) -> float:
        """The instance alone, in one zone."""
        return self.database_class.usd_hour * HOURS

    def average(self, peak: float) -> float:
        """Requests a second on average, if busy minutes have `peak` times as many: those may use burst credits."""
        return min(self.lasting, self.by_processor / peak)


def processor_ms(inputs: Inputs) -> float:
    """Processor time of a request in the database: its lifecycle, its other reads, and the tasks that follow."""
    figures = inputs.figures
    return figures.lifecycle_cpu + (inputs.assumptions.polls - 1) * figures.status + figures.upkeep


def capacities(inputs: Inputs) -> list[Capacity]:
    """What each class carries that the template offers, in its order.

    Raises:
        ScaleError: the price file lacks one of them.
    """
    return [_capacity(inputs, name, connections) for name, connections in inputs.template.connections.items()]


def _capacity(inputs: Inputs, name: str, connections: int) -> Capacity:
    database_class = inputs.prices.database_class(name)
    planned = inputs.assumptions.utilisation
    included = min(planned, database_class.baseline)
    processors = database_class.vcpus * PROCESSORS[database_class.processor]
    each = processor_ms(inputs) / 1000
    surplus = database_class.vcpus * (planned - included) * HOURS * inputs.prices.of("cpu_credit_vcpu_hour")
    return Capacity(
        name, database_class, connections, processors * planned / each, processors * included / each, surplus
    )


def by_iops(inputs: Inputs) -> float:
    """Requests a second that the storage's IOPS allow, if no two commits share a flush: the worst case."""
    writes = inputs.figures.commits + inputs.assumptions.page_writes * inputs.figures.kept_bytes / _PAGE
    return inputs.prices.storage.iops * inputs.assumptions.utilisation / writes


def by_throughput(inputs: Inputs) -> float:
    """Requests a second that the storage's throughput allows."""
    wal = inputs.assumptions.wal_growth * inputs.figures.wal_bytes
    written = wal + inputs.assumptions.page_writes * inputs.figures.kept_bytes
    return inputs.prices.storage.mb_per_second * 1_000_000 * inputs.assumptions.utilisation / written


def one_user(inputs: Inputs, commit_ms: float, speed: float) -> float:
    """Requests a second of one user, whose lock is held from the statement's beginning until its commit is on disk.

    Args:
        commit_ms: how long a commit waits for the disk.
        speed: of the database's processor, as a multiple of the benchmark machine's.
    """
    held = inputs.figures.locked / speed + commit_ms * (1 + 1 / inputs.template.batch)
    return 1000 / held


def environments(inputs: Inputs, per_second: float, batch: float) -> dict[str, int]:
    """How many environments of submit, status and worker are busy at once.

    Args:
        batch: how many requests a worker gets at once.
    """
    assumed = inputs.assumptions
    busy = {
        "submit": per_second * assumed.submit_seconds,
        "status": per_second * assumed.polls * assumed.status_seconds,
        "worker": per_second / batch * (assumed.model_seconds + assumed.worker_seconds),
    }
    return {name: max(1, ceil(seconds)) for name, seconds in busy.items()}


def fits(capacity: Capacity, inputs: Inputs, requests_month: float, batch: float) -> bool:
    """Whether a class carries so many requests a month, by its processors and connections."""
    average, peak = requests_month / SECONDS, inputs.assumptions.peak
    needed = environments(inputs, average * peak, batch)
    limits = connection_limits(**needed, openai=inputs.template.waiting, max_connections=capacity.connections)
    return average <= capacity.average(peak) and limits.limits == limits.wanted
