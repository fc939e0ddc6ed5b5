"""POST /generate: a prompt comes in, a request id goes out. POST /requests/{request_id}/cancel: never mind."""

from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import runtime
from sluice.errors import SluiceError
from sluice.http import POLL_AFTER_SECONDS, answer, body_text, caller_key, resolver
from sluice.models import GenerateRequest
from sluice.services.cancel import cancel
from sluice.services.status import as_uuid
from sluice.services.submit import Limits, rate_limit_headers, submit
from sluice.telemetry import MetricUnit, logger, metrics
from sluice.validation import parse_json

IDEMPOTENCY_KEY_MAX = 255

app = resolver()


@app.post("/generate")
def generate() -> Response[str]:
    settings = runtime.settings()
    key_hash = caller_key(app)
    request = parse_json(GenerateRequest, body_text(app))
    limits = Limits(settings.max_prompt_bytes, settings.request_ttl_seconds, settings.max_attempts)
    accepted = submit(runtime.database(), runtime.queue(), key_hash, request, limits, _idempotency_key())
    logger.info(
        "replayed" if accepted.replayed else "accepted",
        extra={"request_id": str(accepted.request_id), "user_id": accepted.user_id},
    )
    return answer(
        202,
        {"request_id": str(accepted.request_id), "status": "queued"},
        {
            "Location": f"/status/{accepted.request_id}",
            "Retry-After": str(POLL_AFTER_SECONDS),
            **rate_limit_headers(accepted.quotas),
        },
    )


@app.post("/requests/<request_id>/cancel")
def cancel_request(request_id: str) -> Response[str]:
    status = cancel(runtime.database(), runtime.queue(), caller_key(app), as_uuid(request_id))
    logger.info("cancelled", extra={"request_id": request_id[:36], "status": status})
    body = {"request_id": request_id, "status": status, "cancel_requested": True}
    if status == "cancelled":
        return answer(200, body)
    return answer(202, body, {"Location": f"/status/{request_id}", "Retry-After": str(POLL_AFTER_SECONDS)})


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    response = app.resolve(event, context)
    if app.current_event.path == "/generate":
        kind = "RequestsAccepted" if response["statusCode"] == 202 else "RequestsRefused"
        metrics.add_metric(kind, MetricUnit.Count, 1)
    return response


def _idempotency_key() -> str | None:
    key = app.current_event.headers.get("idempotency-key")
    if key is not None and not (1 <= len(key) <= IDEMPOTENCY_KEY_MAX and key.isascii() and key.isprintable()):
        raise SluiceError("invalid_input", f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_MAX} printable characters.")
    return key
