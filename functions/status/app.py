"""What clients read over HTTP."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.api.app import api_app
from sluice.api.native.reading import reading_routes
from sluice.telemetry import logger

app = api_app(reading_routes(reader=bootstrap.reader), unknown_keys=bootstrap.unknown_keys)
bootstrap.prepare(bootstrap.reader, connect=True)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
