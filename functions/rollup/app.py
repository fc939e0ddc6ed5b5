"""Scheduled tasks: {"tasks": ["recover", "usage", ...]}, any of those in sluice.services.tasks."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.services.tasks.run import TasksEvent, run_tasks
from sluice.telemetry import MetricUnit, count_with_dimensions, logger, metrics
from sluice.validation import parse_object


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answers with the figures of each task.

    Raises:
        SluiceError: the event is wrong or a task failed, so that Lambda repeats it and the alarm sees it.
    """
    command = parse_object(TasksEvent, event)
    figures = run_tasks(bootstrap.task_context(command), command.tasks)
    logger.info("tasks done", extra={"tasks": {name: _logged(figure) for name, figure in figures.items()}})
    recovered = dict(figures.get("recover", {}))
    if dead := recovered.pop("webhooks_dead", 0):
        # As the function of webhooks counts them: an alarm watches one metric.
        count_with_dimensions("WebhooksDead", dead, service="webhooks")
    for figure, count in recovered.items():
        metrics.add_metric(f"Recover{''.join(map(str.capitalize, figure.split('_')))}", MetricUnit.Count, count)
    if "verify" in figures:
        found = figures["verify"]
        violations = len(found["violations"]) + (found["audit"]["problem"] is not None)
        metrics.add_metric("BooksViolations", MetricUnit.Count, violations)
    return figures


def _logged(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures as they are logged: of violations, which may be many, only the number."""
    return {name: len(value) if name == "violations" else value for name, value in figures.items()}
