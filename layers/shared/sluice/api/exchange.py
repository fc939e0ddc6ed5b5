"""One HTTP exchange: the caller's key, the query, the body, and the answer."""

import json
import re
from collections import Counter
from contextvars import ContextVar
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from pydantic import BaseModel

from sluice.domain.errors import SluiceError
from sluice.domain.fields import Strict
from sluice.domain.keys import digest, is_well_formed
from sluice.services.access import UnknownKeys, refuse_unless_allowed
from sluice.services.wait import LONGEST_SECONDS
from sluice.validation import invalid_input, parse_object

Q = TypeVar("Q", bound=BaseModel)

# For clients whose request is not finished: most requests take longer, so polling sooner is useless.
POLL_AFTER_SECONDS: Final = 1
IDEMPOTENCY_KEY_MAX: Final = 255
_WAIT: Final = re.compile(r"""(?:^|[,\s])wait\s*=\s*"?(\d{1,6})"?\s*(?:[,;]|$)""", re.ASCII | re.IGNORECASE)
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


def idempotency_key(event: APIGatewayProxyEventV2) -> str | None:
    """The Idempotency-Key of a request, if it has one.

    Raises:
        SluiceError: invalid_input.
    """
    given = event.headers.get("idempotency-key")
    if given is None:
        return None
    key = given.strip(" \t")  # space around a header's value is no part of it (RFC 9110, 5.5)
    # API Gateway joins the values of a repeated header with commas: a comma could be two keys.
    if not (1 <= len(key) <= IDEMPOTENCY_KEY_MAX and key.isascii() and key.isprintable()) or "," in key:
        raise SluiceError(
            "invalid_input",
            f"Idempotency-Key must be given once: 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters but no comma.",
        )
    return key


def preferred_wait(event: APIGatewayProxyEventV2) -> int:
    """For how many seconds the client would wait for an answer: Prefer: wait=N (RFC 7240, 4.3); 0 if it would not.

    A preference that cannot be read is no preference.
    """
    found = _WAIT.search(event.headers.get("prefer") or "")
    return min(int(found[1]), LONGEST_SECONDS) if found else 0


class Nothing(Strict):
    """The query of a route without parameters; a body without content."""


def read_query(event: APIGatewayProxyEventV2, model: type[Q]) -> Q:
    """The query of a route, whose parameters are the fields of a model. What the route does not know is refused.

    Raises:
        SluiceError: invalid_input.
    """
    # API Gateway joins the values of a repeated parameter with commas; only the raw query shows that it was repeated.
    times = Counter(name for name, _ in parse_qsl(event.get("rawQueryString") or "", keep_blank_values=True))
    given, known = event.query_string_parameters, model.model_fields
    unknown = f"is not a parameter of this route: {'its parameters are ' if known else 'it has none'}"
    unknown += ", ".join(sorted(known))
    findings = [((name,), unknown) for name in given if name not in known]
    findings += [((name,), "is given twice") for name in given if name in known and times[name] > 1]
    if findings:
        raise invalid_input(findings)
    return parse_object(model, given)
