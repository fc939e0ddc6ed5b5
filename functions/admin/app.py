"""Administration, invoked with IAM: {"operation": "user.create", "arguments": {...}}. It has no HTTP route."""

import json
from typing import Any
from uuid import UUID

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.api.problems import problem_details
from sluice.domain.errors import SluiceError
from sluice.services.admin.administer import administer
from sluice.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Answers {"ok": true, "result": ...}, or {"ok": false, "problem": {...}} with problem details (RFC 9457)."""
    try:
        result = administer(bootstrap.admin_context(UUID(context.aws_request_id)), event)
    except SluiceError as error:
        logger.info("refused", extra={"code": error.code})
        return {"ok": False, "problem": problem_details(error)}
    # Times, ids and decimals as text.
    return {"ok": True, "result": json.loads(json.dumps(result, default=str))}
