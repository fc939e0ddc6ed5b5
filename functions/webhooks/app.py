"""Webhooks that are due: a message of the queue says that there may be some; which they are is in the database."""

from math import ceil
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.messaging import MAX_DELAY_SECONDS
from sluice.telemetry import MetricUnit, count_with_dimensions, logger, metrics

_METRICS = {
    "delivered": "WebhooksDelivered",
    "pending": "WebhooksRetried",
    "superseded": "WebhooksSuperseded",
}

bootstrap.prepare(bootstrap.webhook_sender, connect=False)


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Delivers until nothing is due. Answers with the attempts by what became of their events."""
    report = bootstrap.deliverer(lambda: context.get_remaining_time_in_millis() / 1000).run()
    for state, count in report.counts.items():
        if state == "dead":
            # Also counted by the recovery task, under one name: an alarm watches one metric.
            count_with_dimensions("WebhooksDead", count, service="webhooks")
        else:
            metrics.add_metric(_METRICS[state], MetricUnit.Count, count)
    if (queue := bootstrap.webhook_queue()) is not None:
        if report.is_more:
            queue.wake()
        elif report.next_seconds is not None and report.next_seconds <= MAX_DELAY_SECONDS:
            # Later ones are the recovery task's, and so are those that this message comes too early for.
            queue.wake(ceil(report.next_seconds))
    logger.info("webhooks done", extra={**report.counts, "is_more": report.is_more})
    return dict(report.counts)
