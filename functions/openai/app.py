"""The API that OpenAI's clients speak: asking and waiting for the answer, and what was asked before."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.api.app import api_app
from sluice.api.openai.errors import answer_error
from sluice.api.openai.routes import Services, openai_routes
from sluice.telemetry import logger, metrics

app = api_app(
    openai_routes(
        Services(
            foreground=bootstrap.foreground,
            submitter=bootstrap.submitter,
            reader=bootstrap.reader,
            canceller=bootstrap.canceller,
            eraser=bootstrap.eraser,
            quoter=bootstrap.quoter,
            webhooks=bootstrap.webhook_manager,
            batches=bootstrap.batch_manager,
            files=bootstrap.file_manager,
        )
    ),
    unknown_keys=bootstrap.unknown_keys,
    answer_error=answer_error,
)
bootstrap.prepare(bootstrap.foreground, bootstrap.submitter, connect=True)


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
