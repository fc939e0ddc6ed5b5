"""What the requests of a month cost in AWS, line by line, without the model's tokens."""

from dataclasses import dataclass

from benchmarks.scale.assumptions import Load
from benchmarks.scale.capacity import HOURS, SECONDS, Capacity, Inputs, capacities, fits
from benchmarks.scale.inputs import ScaleError

_MILLION = 1_000_000
_GB = 1_000_000_000
_POLL_SECONDS = "ReceiveMessageWaitTimeSeconds"


@dataclass(frozen=True)
class Line:
    """A line of the bill.

    Attributes:
        counted: what is counted, in words.
        usd: of the month.
    """

    name: str
    counted: str
    usd: float


def chosen(inputs: Inputs, load: Load) -> Capacity:
    """The cheapest class that carries a load.

    Raises:
        ScaleError: none of them does.
    """
    able = [each for each in capacities(inputs) if fits(each, inputs, load.requests, load.batch)]
    if not able:
        raise ScaleError(
            f"No class of the template carries {load.requests:,} requests a month: plan for a smaller load."
        )
    return min(able, key=lambda each: each.usd_month)


def bill(inputs: Inputs, load: Load) -> list[Line]:
    """The lines of a month, its first: nothing is stored yet.

    Raises:
        ScaleError: no class carries the load, or a price is missing.
    """
    return [*_calls(inputs, load), *_watching(inputs, load), *_database(inputs, load)]


def worker_usd_per_million(inputs: Inputs, model_seconds: float, batch: float) -> float:
    """Lambda's price for the workers' time. It is paid while they wait for the model."""
    seconds = (model_seconds + inputs.assumptions.worker_seconds) * _MILLION / batch
    return seconds * inputs.template.default("WorkerMemory") / 1024 * inputs.prices.of("lambda_arm_gb_second")


def storage_gb(inputs: Inputs, requests: float) -> float:
    """What so many requests leave in the database."""
    return requests * inputs.figures.kept_bytes / _GB


def _calls(inputs: Inputs, load: Load) -> list[Line]:
    assumed, prices, template = inputs.assumptions, inputs.prices, inputs.template
    calls = load.requests * (1 + assumed.polls)
    batches = load.requests / load.batch
    gb_second = prices.of("lambda_arm_gb_second")
    api_seconds = load.requests * (assumed.submit_seconds + assumed.polls * assumed.status_seconds)
    task_seconds = template.scheduled_runs * assumed.task_seconds
    polls = assumed.pollers * SECONDS / template.property_of("RequestQueue", _POLL_SECONDS)
    invocations = calls + batches + template.scheduled_runs
    worker = worker_usd_per_million(inputs, assumed.model_seconds, load.batch) * load.requests / _MILLION
    return [
        Line(
            "API Gateway",
            "calls of an HTTP API: submission and status reads",
            calls / _MILLION * prices.of("http_api_million_calls"),
        ),
        Line(
            "Lambda requests",
            "invocations: calls, worker batches, schedules",
            invocations / _MILLION * prices.of("lambda_million_requests"),
        ),
        Line("Lambda, submit and status", "GB-seconds", api_seconds * template.default("ApiMemory") / 1024 * gb_second),
        Line("Lambda, worker", "GB-seconds, most of them waiting for the model", worker),
        Line(
            "Lambda, scheduled tasks", "GB-seconds", task_seconds * template.default("WorkerMemory") / 1024 * gb_second
        ),
        Line(
            "SQS",
            "one send for each request, a receive and a delete for each batch, empty receives",
            (load.requests + 2 * batches + polls) / _MILLION * prices.of("sqs_million_requests"),
        ),
        Line(
            "EventBridge Scheduler",
            "invocations",
            template.scheduled_runs / _MILLION * prices.of("scheduler_million_invocations"),
        ),
    ]


def _watching(inputs: Inputs, load: Load) -> list[Line]:
    assumed, prices = inputs.assumptions, inputs.prices
    calls = load.requests * (1 + assumed.polls)
    batches = load.requests / load.batch
    logged = (
        calls * assumed.call_log_bytes + load.requests * assumed.submit_log_bytes + batches * assumed.batch_log_bytes
    ) / _GB
    invocations = (calls + batches + inputs.template.scheduled_runs) / SECONDS
    traces = (min(invocations, 1) + assumed.traced * max(invocations - 1, 0)) * SECONDS
    return [
        Line(
            "CloudWatch Logs",
            "GB taken in, and kept",
            logged * (prices.of("logs_ingested_gb") + assumed.log_months * prices.of("logs_kept_gb_month")),
        ),
        Line(
            "CloudWatch metrics and alarms",
            "metrics and alarms, whatever the load",
            assumed.metrics * prices.of("metric_month") + inputs.template.alarms * prices.of("alarm_month"),
        ),
        Line("X-Ray", "traces: one a second and a share of the rest", traces / _MILLION * prices.of("million_traces")),
    ]


def _database(inputs: Inputs, load: Load) -> list[Line]:
    assumed, prices = inputs.assumptions, inputs.prices
    kept = storage_gb(inputs, load.requests)
    storage = max(inputs.template.property_of("Database", "AllocatedStorage"), kept)
    wal = load.requests * inputs.figures.wal_bytes * assumed.wal_growth * assumed.wal_days / 30 / _GB
    out = load.requests * ((1 + assumed.polls) * assumed.answer_bytes + 2 * assumed.text_bytes) / _GB
    # Prompt and answer each go to the database and back, and half of the connections lead to the other zone.
    between = load.requests * 4 * assumed.text_bytes / 2 / _GB
    return [
        Line(
            "RDS instance",
            "hours of the cheapest class that carries the load, in one zone",
            chosen(inputs, load).database_class.usd_hour * HOURS,
        ),
        Line("RDS storage", "GB of gp3 at the end of the month", storage * prices.of("storage_gb_month")),
        Line(
            "RDS backups",
            "GB of data and WAL beyond the size of the storage",
            max(0.0, kept + wal - storage) * prices.of("backup_gb_month"),
        ),
        Line(
            "Data transfer out",
            "GB: responses, the answer once, the prompt to a model outside of AWS",
            out * prices.of("transfer_out_gb"),
        ),
        Line(
            "Data transfer between zones",
            "GB, in both directions, half of the statements",
            2 * between * prices.of("transfer_between_zones_gb"),
        ),
        Line("Secrets Manager", "the key of one model; the created database has no secret", prices.of("secret_month")),
    ]
