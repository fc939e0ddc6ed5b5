"""POST /generate accepts a request; POST /requests/{request_id}/cancel cancels one."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter

from sluice.api.app import new_router
from sluice.api.cachestatus import cache_headers
from sluice.api.exchange import (
    POLL_AFTER_SECONDS,
    Nothing,
    answer,
    body_text,
    caller_key,
    idempotency_key,
    preferred_wait,
    read_query,
)
from sluice.api.native.bodies import GenerateRequest
from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.errors import SluiceError
from sluice.domain.fields import id_of
from sluice.domain.states import Status
from sluice.services.cancel import Canceller
from sluice.services.purge import Purger
from sluice.services.submit import Submitter
from sluice.services.wait import wait_in_a_slot
from sluice.telemetry import MetricUnit, logger, metrics
from sluice.validation import parse_json

if TYPE_CHECKING:
    from sluice.services.read import Reader


def submission_routes(
    *,
    submitter: Callable[[], Submitter],
    canceller: Callable[[], Canceller],
    reader: Callable[[], "Reader"],
    purger: Callable[[], Purger],
) -> APIGatewayHttpRouter:
    """The routes; the providers are asked for their services when a request arrives."""
    router = new_router()

    @router.post("/generate")
    def _generate() -> Response[str]:
        event = router.current_event
        try:
            key_hash = caller_key(event)
            read_query(event, Nothing)
            body = parse_json(GenerateRequest, body_text(event))
            answered = generate(submitter(), key_hash, body, idempotency_key(event))
        except BaseException:
            metrics.add_metric("RequestsRefused", MetricUnit.Count, 1)
            raise
        metrics.add_metric("RequestsAccepted", MetricUnit.Count, 1)
        if wait := preferred_wait(event):
            return waited(reader(), key_hash, answered, wait)
        return answered

    @router.post("/requests/<request_id>/cancel")
    def _cancel(request_id: str) -> Response[str]:
        event = router.current_event
        key_hash = caller_key(event)
        read_query(event, Nothing)
        if body := body_text(event).strip():
            parse_json(Nothing, body)
        return cancel(canceller(), key_hash, request_id)

    @router.delete("/cache")
    def _purge() -> Response[str]:
        event = router.current_event
        key_hash = caller_key(event)
        read_query(event, Nothing)
        return purge(purger(), key_hash)

    return router


def generate(submitter: Submitter, key_hash: bytes, body: GenerateRequest, idempotency: str | None) -> Response[str]:
    """Accept a request: 202 with its id. A replay of one that has ended: 200 with how it ended."""
    accepted = submitter.submit(key_hash, body.submission(idempotency))
    logger.info(
        "replayed" if accepted.replayed else "accepted",
        extra={"request_id": str(accepted.request_id), "user_id": accepted.user_id},
    )
    headers = {"Location": f"/status/{accepted.request_id}", **rate_limit_headers(accepted.quotas)}
    if not accepted.status.is_final:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    headers |= cache_headers(accepted.cache)
    return answer(
        200 if accepted.status.is_final else 202,
        {"request_id": str(accepted.request_id), "status": accepted.status},
        headers,
    )


def waited(reader: "Reader", key_hash: bytes, accepted: Response[str], seconds: int) -> Response[str]:
    """The answer to an accepted request whose client would wait: 200 with the request if it has ended by then.

    Otherwise what the client would have got at once: also if the key may not read, or if too many wait already.
    """
    from sluice.api.native.views import request_view  # noqa: PLC0415  (most do not wait, and need not import it)

    request_id = id_of(json.loads(str(accepted.body))["request_id"])
    try:
        if accepted.status_code == 202 and not wait_in_a_slot(reader.ledger, UUID(str(request_id)), seconds):
            return accepted
        state = reader.request(key_hash, request_id)
    except SluiceError as error:
        # It is accepted, whatever reading it brings.
        logger.info("not waited", extra={"code": error.code})
        return accepted
    if not state.status.is_final:
        return accepted
    kept = {name: str(value) for name, value in accepted.headers.items() if name != "Retry-After"}
    return answer(200, request_view(state), kept | {"Preference-Applied": "wait"})


def purge(purger: Purger, key_hash: bytes) -> Response[str]:
    """Forget the caller's cached answers."""
    return answer(200, {"forgotten": purger.purge(key_hash)})


def cancel(canceller: Canceller, key_hash: bytes, request_id: str) -> Response[str]:
    """Cancel a request: 200 if it is cancelled, 202 if it will be when its worker has answered."""
    status = canceller.cancel(key_hash, id_of(request_id))
    logger.info("cancelled", extra={"request_id": request_id, "status": status})
    body = {"request_id": request_id, "status": status, "cancel_requested": True}
    if status is Status.CANCELLED:
        return answer(200, body)
    return answer(202, body, {"Location": f"/status/{request_id}", "Retry-After": str(POLL_AFTER_SECONDS)})
