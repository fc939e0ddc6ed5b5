"""One HTTP exchange: the caller's key, the body, an id in the path, and the answer."""

import json
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2

from sluice.domain.errors import SluiceError
from sluice.domain.keys import digest, is_well_formed
from sluice.services.access import UnknownKeys, refuse_unless_allowed

# For clients whose request is not finished: most requests take longer, so polling sooner is useless.
POLL_AFTER_SECONDS: Final = 1
# Those of the environment that answers the current request; None where nothing is remembered.
current_unknown_keys: ContextVar[UnknownKeys | None] = ContextVar("current_unknown_keys", default=None)
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Response[str]:
    """A JSON answer, with as few escapes as JSON allows: Lambda takes 6 MB."""
    return Response(
        status, "application/json", json.dumps(body, default=str, ensure_ascii=False), HEADERS | (headers or {})
    )


def caller_key(event: APIGatewayProxyEventV2) -> bytes:
    """The SHA-256 of the key that came with a request, as x-api-key or as a bearer token.

    Raises:
        SluiceError: key_missing, key_malformed; key_unknown, where it was a moment ago. The database was not asked.
    """
    key_hash = digest(_given_key(event))
    unknown = current_unknown_keys.get()
    if unknown is not None and key_hash in unknown:
        refuse_unless_allowed("key_unknown")
    return key_hash


def note_unknown_key(event: APIGatewayProxyEventV2) -> None:
    """Remember the key of a request for which the database has just said that it is unknown."""
    unknown = current_unknown_keys.get()
    if unknown is not None:
        unknown.add(digest(_given_key(event)))


def _given_key(event: APIGatewayProxyEventV2) -> str:
    given = (event.headers.get("x-api-key") or "").strip()
    authorization = (event.headers.get("authorization") or "").strip()
    if not given and authorization:
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer":
            raise SluiceError("key_malformed", "Authorization must be of the form: Bearer <API key>.")
    if not given:
        raise SluiceError("key_missing", "Send an API key in the header x-api-key, or as Authorization: Bearer.")
    if not is_well_formed(given):
        raise SluiceError("key_malformed", "An API key is 'sluice_' and 43 letters, digits, '-' or '_'.")
    return given


def body_text(event: APIGatewayProxyEventV2) -> str:
    """The body as text.

    Raises:
        SluiceError: body_not_json, if it is not UTF-8.
    """
    try:
        return event.decoded_body or ""
    except (UnicodeDecodeError, ValueError):
        raise SluiceError("body_not_json", "The body must be a JSON object in UTF-8.") from None


def uuid_or_none(text: str) -> UUID | None:
    """A UUID; None if the text is not one."""
    try:
        return UUID(text)
    except ValueError:
        return None
