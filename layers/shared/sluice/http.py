"""HTTP as our routes speak it: who calls, what an answer looks like, and where errors become answers."""

import json
import traceback
from typing import Any, Final

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

from sluice.errors import SluiceError
from sluice.keys import digest, is_well_formed
from sluice.telemetry import logger

# Told to clients whose request is not finished: most take longer, and who asks sooner asks in vain.
POLL_AFTER_SECONDS: Final = 1
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def resolver() -> APIGatewayHttpResolver:
    """A router whose errors, ours and unexpected ones, are answered as problem details (RFC 9457)."""
    app = APIGatewayHttpResolver()
    app.exception_handler(SluiceError)(_known)
    app.exception_handler(NotFoundError)(_no_route)
    app.exception_handler(Exception)(_unexpected)
    return app


def answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Response[str]:
    """A JSON answer, unescaped as far as JSON allows: Lambda takes 6 MB of it."""
    return Response(
        status, "application/json", json.dumps(body, default=str, ensure_ascii=False), _HEADERS | (headers or {})
    )


def problem(error: SluiceError) -> Response[str]:
    """An error as a problem details answer."""
    headers = dict(_HEADERS) | error.headers
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="sluice"'
    body = json.dumps(error.problem(), default=str)
    return Response(error.status, "application/problem+json", body, headers)


def caller_key(app: APIGatewayHttpResolver) -> bytes:
    """The SHA-256 of the key that came with a request, as x-api-key or as a bearer token.

    Raises:
        SluiceError: key_missing, key_malformed; no database was asked.
    """
    headers = app.current_event.headers
    given = (headers.get("x-api-key") or "").strip()
    authorization = (headers.get("authorization") or "").strip()
    if not given and authorization:
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer":
            raise SluiceError("key_malformed", "Authorization must be of the form: Bearer <API key>.")
    if not given:
        raise SluiceError("key_missing", "Send an API key in the header x-api-key, or as Authorization: Bearer.")
    if not is_well_formed(given):
        raise SluiceError("key_malformed", "An API key is 'sluice_' and 43 letters, digits, '-' or '_'.")
    return digest(given)


def body_text(app: APIGatewayHttpResolver) -> str:
    """The body as text.

    Raises:
        SluiceError: body_not_json, where it is no UTF-8.
    """
    try:
        return app.current_event.decoded_body or ""
    except (UnicodeDecodeError, ValueError):
        raise SluiceError("body_not_json", "The body must be a JSON object in UTF-8.") from None


def _known(error: SluiceError) -> Response[str]:
    logger.info("refused", extra={"code": error.code, "status": error.status})
    return problem(error)


def _no_route(_: NotFoundError) -> Response[str]:
    return problem(SluiceError("route_not_found", "There is nothing under this method and path."))


def _unexpected(error: Exception) -> Response[str]:
    # Where it happened, without the message: that may quote what the client sent.
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    logger.error("unexpected error", extra={"error": type(error).__name__, "places": places[-10:]})
    return problem(SluiceError("internal_error", "Something went wrong on our side; it was logged."))
