"""Scheduled tasks: {"tasks": ["recover", "usage", ...]}, any of those that sluice.services.rollup has."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import runtime
from sluice.arguments import RollupEvent
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
    command = parse_object(RollupEvent, event)
    settings = runtime.settings()
    work = Context(
        runtime.database(),
        runtime.queue(),
        runtime.dead_letters(),
        settings.archive_after_days,
        settings.redispatch_grace_seconds,
        full=command.full,
        head=command.head,
    )
    figures = run(work, command.tasks)
    logger.info("tasks done", extra={"tasks": {name: _logged(figure) for name, figure in figures.items()}})
    for figure, count in figures.get("recover", {}).items():
        metrics.add_metric(f"Recover{figure.capitalize()}", MetricUnit.Count, count)
    if "verify" in figures:
        found = figures["verify"]
        violations = len(found["violations"]) + (found["audit"]["problem"] is not None)
        metrics.add_metric("BooksViolations", MetricUnit.Count, violations)
    return figures


def _logged(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as they are logged: of lists of violations, which may be long, the length."""
    return {name: len(value) if name == "violations" else value for name, value in figures.items()}
