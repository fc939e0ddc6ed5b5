"""Administration, invoked with IAM: {"operation": "user.create", "arguments": {...}}. No route leads here."""

import json
from typing import Any
from uuid import UUID

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import runtime
from sluice.errors import SluiceError
from sluice.services.admin import Context, administer
from sluice.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Answers {"ok": true, "result": ...}, or {"ok": false, "problem": {...}} with problem details (RFC 9457)."""
    try:
        settings = runtime.settings()
        work = Context(
            runtime.database(),
            runtime.run_rollup,
            settings.request_ttl_seconds,
            settings.max_attempts,
            UUID(context.aws_request_id),
        )
        result = administer(work, event)
    except SluiceError as error:
        logger.info("refused", extra={"code": error.code})
        return {"ok": False, "problem": error.problem()}
    # Times, ids and decimals as text.
    return {"ok": True, "result": json.loads(json.dumps(result, default=str))}
