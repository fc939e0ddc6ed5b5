"""Accepting and cancelling requests over HTTP, and forgetting cached answers."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.api.app import api_app
from sluice.api.native.submission import submission_routes
from sluice.telemetry import logger, metrics

app = api_app(
    submission_routes(
        submitter=bootstrap.submitter,
        canceller=bootstrap.canceller,
        reader=bootstrap.reader,
        purger=bootstrap.purger,
    ),
    unknown_keys=bootstrap.unknown_keys,
)
bootstrap.prepare(bootstrap.submitter, connect=True)


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
