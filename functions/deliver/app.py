"""Sends one webhook: {"url", "headers", "body"}. It has no database, no network of ours, no secret and no permission
but its log, since the address is one that somebody else chose."""

import os
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice.config import Settings
from sluice.posting import post
from sluice.telemetry import logger

_SETTINGS = Settings.from_environment(os.environ)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answers with status_code, cause, latency_ms and retry_after."""
    posted = post(event["url"], event["headers"], event["body"], loopback=_SETTINGS.webhook_loopback)
    logger.info(
        "webhook sent",
        extra={
            "event": event["headers"].get("webhook-id"),
            "status_code": posted.status_code,
            "cause": posted.cause,
            "latency_ms": posted.latency_ms,
        },
    )
    return posted.to_json()
