"""Batches that are due: a message of the queue says that there may be some; which they are, and how far each is, is in
the database."""

from math import ceil
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.api.openai.batch_lines import OpenAiLines
from sluice.messaging import MAX_DELAY_SECONDS
from sluice.telemetry import MetricUnit, logger, metrics

_METRICS = {
    "lines": "BatchLinesSubmitted",
    "completed": "BatchesCompleted",
    "failed": "BatchesFailed",
    "expired": "BatchesExpired",
    "cancelled": "BatchesCancelled",
}
_ENDS = ("completed", "failed", "expired", "cancelled")

bootstrap.prepare(bootstrap.queue, connect=False)


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Works until no batch is due. Answers with what was done."""
    report = bootstrap.batch_worker(
        OpenAiLines(bootstrap.file_image), lambda: context.get_remaining_time_in_millis() / 1000
    ).run()
    for name, count in report.counts.items():
        if name in _METRICS:
            metrics.add_metric(_METRICS[name], MetricUnit.Count, count)
    if (queue := bootstrap.batch_queue()) is not None:
        if report.is_more:
            queue.wake()
        elif report.next_seconds is not None and report.next_seconds <= MAX_DELAY_SECONDS:
            # The recovery task's message would come too, within a minute of the time.
            queue.wake(ceil(report.next_seconds))
    if any(report.counts[end] for end in _ENDS) and (webhooks := bootstrap.webhook_queue()) is not None:
        webhooks.wake()
    logger.info("batches done", extra={**report.counts, "is_more": report.is_more})
    return dict(report.counts)
