"""What is not measured and has to be assumed. Every number is printed on the page, so that a reader can doubt it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Load:
    """How many requests are made in a month, and how many a worker then gets at once, on average."""

    requests: int
    batch: float


# The event source hands over what is there: the more requests there are at once, the fuller the batches.
LOADS: Final = (Load(1_000_000, 1), Load(10_000_000, 2), Load(100_000_000, 5))
PROCESSORS: Final[Mapping[str, float]] = MappingProxyType({"Graviton2": 0.6, "Graviton3": 0.8})


def _assume(value: float, meaning: str) -> float:
    result: float = field(default=value, metadata={"meaning": meaning})
    return result


@dataclass(frozen=True)
class Assumptions:
    """What is assumed of a deployment and its clients. Prompts and answers have the benchmark's kilobyte."""

    utilisation: float = _assume(
        0.6, "share of the database's processors, IOPS and throughput that is planned to be used"
    )
    peak: float = _assume(5, "requests a second in a busy minute, as a multiple of the month's average")
    polls: float = _assume(3, "status reads of a request; one of a waiting request is counted like one of an ended one")
    page_writes: float = _assume(2, "how often each page that is kept is written by checkpoints")
    wal_growth: float = _assume(
        2, "WAL with full-page images and the records of vacuum, as a multiple of what was measured"
    )
    model_seconds: float = _assume(2, "time of the model for an answer, s")
    worker_seconds: float = _assume(0.1, "time of a worker beside the model, for a batch, s")
    submit_seconds: float = _assume(0.04, "time of the submit function, without cold starts, s")
    status_seconds: float = _assume(0.02, "time of the status function, without cold starts, s")
    task_seconds: float = _assume(1, "time of the rollup function for a schedule, s")
    pollers: float = _assume(5, "long polls at the queue at the same time, also when nothing is in it")
    call_log_bytes: float = _assume(450, "access log of the API for a call, bytes")
    submit_log_bytes: float = _assume(900, "log lines and metrics of a submission, bytes")
    batch_log_bytes: float = _assume(1500, "log lines and metrics of a worker's batch, bytes")
    metrics: float = _assume(60, "metrics that are paid for: Sluice's own, and the API's detailed ones by route")
    traced: float = _assume(0.05, "share of the invocations that X-Ray samples, beside one a second")
    answer_bytes: float = _assume(700, "response to a call with its headers, without the model's answer, bytes")
    text_bytes: float = _assume(1000, "each of prompt and answer, bytes")
    wal_days: float = _assume(7, "days of WAL that backups keep")
    log_months: float = _assume(1, "months for which logs are kept")


def stated(assumptions: Assumptions) -> list[tuple[str, str]]:
    """Every assumption in words, with its value."""
    rows = [(each.metadata["meaning"], f"{getattr(assumptions, each.name):,g}") for each in fields(assumptions)]
    speeds = [
        (f"speed of a {name} vCPU, as a multiple of the benchmark machine's processor", f"{speed:g}")
        for name, speed in PROCESSORS.items()
    ]
    return [*speeds, *rows]
