"""SQS batches: requests are claimed, their models called, their results settled. And single requests that were claimed
for a client that waits: called directly, it answers with what became of the request."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.domain.requests import Claim
from sluice.messaging import Delivery
from sluice.services.process import BatchReport
from sluice.telemetry import MetricUnit, count_with_dimensions, logger, metrics

_METRICS = {
    "completed": "RequestsCompleted",
    "failed": "RequestsFailed",
    "queued": "RequestsRequeued",
    "cancelled": "RequestsCancelled",
    "superseded": "RequestsSuperseded",
}

# Of worker and foreground alike, under one name: an alarm watches one metric.
_MODELS = "worker"

bootstrap.prepare(bootstrap.queue, bootstrap.backends, connect=False)


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answers with a partial batch response: the messages that SQS is to keep. Or, given a claim, with its outcome and
    what the database made of it; without both if it could not be settled."""
    worker = bootstrap.worker(lambda: context.get_remaining_time_in_millis() / 1000)
    if "claim" in event:
        report = worker.run(Claim.from_json(event["claim"]))
        _count(report)
        logger.info("request done", extra=dict(report.counts))
        return next(
            (
                {"outcome": outcome.to_json(), "kind": settled.kind, "status": settled.status}
                for outcome, settled in report.settled.values()
            ),
            {},
        )
    report = worker.work([Delivery(record["messageId"], record["body"]) for record in event["Records"]])
    _count(report)
    logger.info(
        "batch done",
        extra={"messages": len(event["Records"]), "kept": len(report.failed_message_ids), **report.counts},
    )
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in report.failed_message_ids]}


def _count(report: BatchReport) -> None:
    for outcome, count in report.counts.items():
        metrics.add_metric(_METRICS[outcome], MetricUnit.Count, count)
    # A report that does not add up is a server's habit, and no cause for an alarm.
    if doubted := report.doubts["implausible"] + report.doubts["estimated"]:
        count_with_dimensions("TokenReportsDoubted", doubted, service=_MODELS)
    if report.repairs:
        count_with_dimensions("ModelRepairsNeeded", report.repairs.total(), service=_MODELS)
    for reason, count in report.finish_reasons.items():
        count_with_dimensions("RequestsCompletedBy", count, finish_reason=reason)
    for (model, code), count in report.repairs.items():
        count_with_dimensions("ModelRepairsNeededBy", count, model=model, code=code)
