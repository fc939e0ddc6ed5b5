"""Scheduled tasks: {"tasks": ["recover", "usage", "stats", "partitions", "archive"]}, any of them."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import runtime
from sluice.models import RollupEvent
from sluice.services.rollup import Context, run
from sluice.telemetry import MetricUnit, logger, metrics
from sluice.validation import parse_object


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answers with the figures of each task.

    Raises:
        SluiceError: the event is wrong or a task failed, so that Lambda repeats it and the alarm sees it.
    """
    tasks = parse_object(RollupEvent, event).tasks
    settings = runtime.settings()
    figures = run(Context(runtime.database(), runtime.queue(), settings.archive_after_days), tasks)
    logger.info("tasks done", extra={"tasks": figures})
    for figure, count in figures.get("recover", {}).items():
        metrics.add_metric(f"Recover{figure.capitalize()}", MetricUnit.Count, count)
    return figures
