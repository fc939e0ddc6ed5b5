"""GET /status/{request_id}, /requests, /usage, /models, /health: what clients read."""

import time
from functools import lru_cache
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import runtime
from sluice.arguments import Days
from sluice.errors import SluiceError
from sluice.http import POLL_AFTER_SECONDS, answer, caller_key, resolver
from sluice.services import billing, status
from sluice.telemetry import logger
from sluice.validation import parse_object

# How long a health check's finding is given out again: checks may come often, and anybody may make them.
HEALTH_SECONDS = 5

app = resolver()


@app.get("/status/<request_id>")
def get_status(request_id: str) -> Response[str]:
    found = status.status(runtime.database(), caller_key(app), request_id)
    unfinished = found["completed_at"] is None
    return answer(200, found, {"Retry-After": str(POLL_AFTER_SECONDS)} if unfinished else None)


@app.get("/requests")
def get_requests() -> Response[str]:
    given = app.current_event.query_string_parameters
    return answer(200, status.history(runtime.database(), caller_key(app), given.get("cursor"), given.get("limit")))


@app.get("/usage")
def get_usage() -> Response[str]:
    key_hash = caller_key(app)
    days = parse_object(Days, app.current_event.query_string_parameters)
    return answer(200, billing.own_usage(runtime.database(), key_hash, days.start, days.end))


@app.get("/models")
def get_models() -> Response[str]:
    return answer(200, status.models(runtime.database(), caller_key(app)))


@app.get("/health")
def get_health() -> Response[str]:
    if database_answers(int(time.monotonic() // HEALTH_SECONDS)):
        return answer(200, {"status": "ok", "database": "ok"})
    return answer(503, {"status": "unavailable", "database": "unavailable"}, {"Retry-After": str(HEALTH_SECONDS)})


@lru_cache(maxsize=1)
def database_answers(_period: int) -> bool:
    """Whether the database answers, asked once in a period."""
    try:
        runtime.database().row("health", repeatable=True)
    except SluiceError:
        return False
    return True


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
