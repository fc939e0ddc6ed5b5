"""GET /status/{request_id}, /requests, /usage, /models, /health: what clients read."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter

from sluice.api.app import new_router
from sluice.api.exchange import POLL_AFTER_SECONDS, answer, caller_key, uuid_or_none
from sluice.api.native.views import history_view, model_view, request_view
from sluice.domain.breakdown import Breakdown
from sluice.domain.days import Days
from sluice.domain.errors import SluiceError
from sluice.services import billing
from sluice.services.read import Reader
from sluice.validation import parse_object

MAX_PAGE: Final = 100
DEFAULT_PAGE: Final = 20
# How long the result of a health check is kept: checks may come often, and anyone may make them.
HEALTH_SECONDS: Final = 5


class UsageQuery(Days, Breakdown):
    """The query of GET /usage."""


def reading_routes(*, reader: Callable[[], Reader]) -> APIGatewayHttpRouter:
    """The routes; the provider is asked for its service when a request arrives."""
    router = new_router()

    @router.get("/status/<request_id>")
    def _request(request_id: str) -> Response[str]:
        return get_request(reader(), caller_key(router.current_event), uuid_or_none(request_id))

    @router.get("/requests")
    def _history() -> Response[str]:
        key_hash, query = caller_key(router.current_event), router.current_event.query_string_parameters
        return get_history(reader(), key_hash, parse_cursor(query.get("cursor")), parse_page_size(query.get("limit")))

    @router.get("/usage")
    def _usage() -> Response[str]:
        key_hash = caller_key(router.current_event)
        return get_usage(reader(), key_hash, parse_object(UsageQuery, router.current_event.query_string_parameters))

    @router.get("/models")
    def _models() -> Response[str]:
        return get_models(reader(), caller_key(router.current_event))

    @router.get("/health")
    def _health() -> Response[str]:
        return get_health(reader(), int(time.monotonic() // HEALTH_SECONDS))

    return router


def get_request(reader: Reader, key_hash: bytes, request_id: UUID | None) -> Response[str]:
    """One request of the caller."""
    state = reader.request(key_hash, request_id)
    headers = {"Retry-After": str(POLL_AFTER_SECONDS)} if not state.status.is_final else None
    return answer(200, request_view(state), headers)


def get_history(reader: Reader, key_hash: bytes, before: UUID | None, size: int) -> Response[str]:
    """A page of the caller's requests, newest first."""
    return answer(200, history_view(reader.history(key_hash, before, size)))


def get_usage(reader: Reader, key_hash: bytes, query: UsageQuery) -> Response[str]:
    """The caller's limits, usage and cost."""
    return answer(200, billing.own_usage(reader.ledger, key_hash, query.start, query.end, query.attribute))


def get_models(reader: Reader, key_hash: bytes) -> Response[str]:
    """The models that the caller may name."""
    return answer(200, {"models": [model_view(offer) for offer in reader.models(key_hash)]})


def get_health(reader: Reader, period: int) -> Response[str]:
    """Whether the service can answer requests; the database is asked once in a period."""
    if _database_answers(reader, period):
        return answer(200, {"status": "ok", "database": "ok"})
    return answer(503, {"status": "unavailable", "database": "unavailable"}, {"Retry-After": str(HEALTH_SECONDS)})


@lru_cache(maxsize=1)
def _database_answers(reader: Reader, _period: int) -> bool:
    return reader.database_answers()


def parse_cursor(text: str | None) -> UUID | None:
    """The cursor of a page, as text in the query; None for the first.

    Raises:
        SluiceError: invalid_input.
    """
    cursor = None if text is None else uuid_or_none(text)
    if text is not None and cursor is None:
        raise SluiceError("invalid_input", "cursor must be the next_cursor of an earlier page.")
    return cursor


def parse_page_size(text: str | None) -> int:
    """The size of a page, 1 to MAX_PAGE, as text in the query.

    Raises:
        SluiceError: invalid_input.
    """
    if text is None:
        return DEFAULT_PAGE
    # Python reads no number of more than 4,300 digits.
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= MAX_PAGE:
        raise SluiceError("invalid_input", f"limit must be a whole number from 1 to {MAX_PAGE}.")
    return int(text)
