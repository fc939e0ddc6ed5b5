"""POST /generate accepts a request; POST /requests/{request_id}/cancel cancels one."""

from collections.abc import Callable
from typing import Final

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter

from sluice.api.app import new_router
from sluice.api.exchange import POLL_AFTER_SECONDS, answer, body_text, caller_key, uuid_or_none
from sluice.api.native.bodies import GenerateRequest
from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.errors import SluiceError
from sluice.domain.states import Status
from sluice.services.cancel import Canceller
from sluice.services.submit import Submitter
from sluice.telemetry import MetricUnit, logger, metrics
from sluice.validation import parse_json

IDEMPOTENCY_KEY_MAX: Final = 255


def submission_routes(
    *, submitter: Callable[[], Submitter], canceller: Callable[[], Canceller]
) -> APIGatewayHttpRouter:
    """The routes; the providers are asked for their services when a request arrives."""
    router = new_router()

    @router.post("/generate")
    def _generate() -> Response[str]:
        event = router.current_event
        try:
            key_hash = caller_key(event)
            body = parse_json(GenerateRequest, body_text(event))
            answered = generate(submitter(), key_hash, body, _idempotency_key(event.headers.get("idempotency-key")))
        except BaseException:
            metrics.add_metric("RequestsRefused", MetricUnit.Count, 1)
            raise
        metrics.add_metric("RequestsAccepted", MetricUnit.Count, 1)
        return answered

    @router.post("/requests/<request_id>/cancel")
    def _cancel(request_id: str) -> Response[str]:
        return cancel(canceller(), caller_key(router.current_event), request_id)

    return router


def generate(
    submitter: Submitter, key_hash: bytes, body: GenerateRequest, idempotency_key: str | None
) -> Response[str]:
    """Accept a request: 202 with its id."""
    accepted = submitter.submit(key_hash, body.submission(idempotency_key))
    logger.info(
        "replayed" if accepted.replayed else "accepted",
        extra={"request_id": str(accepted.request_id), "user_id": accepted.user_id},
    )
    return answer(
        202,
        {"request_id": str(accepted.request_id), "status": Status.QUEUED},
        {
            "Location": f"/status/{accepted.request_id}",
            "Retry-After": str(POLL_AFTER_SECONDS),
            **rate_limit_headers(accepted.quotas),
        },
    )


def cancel(canceller: Canceller, key_hash: bytes, request_id: str) -> Response[str]:
    """Cancel a request: 200 if it is cancelled, 202 if it will be when its worker has answered."""
    status = canceller.cancel(key_hash, uuid_or_none(request_id))
    logger.info("cancelled", extra={"request_id": request_id[:36], "status": status})
    body = {"request_id": request_id, "status": status, "cancel_requested": True}
    if status is Status.CANCELLED:
        return answer(200, body)
    return answer(202, body, {"Location": f"/status/{request_id}", "Retry-After": str(POLL_AFTER_SECONDS)})


def _idempotency_key(key: str | None) -> str | None:
    if key is not None and not (1 <= len(key) <= IDEMPOTENCY_KEY_MAX and key.isascii() and key.isprintable()):
        raise SluiceError("invalid_input", f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_MAX} printable characters.")
    return key
