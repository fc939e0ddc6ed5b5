"""GET /status/{request_id}, /results/{request_id}, /requests, /usage, /models, /health, /openapi.json: what clients
read."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from pydantic import PlainValidator

from sluice.api.app import new_router
from sluice.api.exchange import HEADERS, POLL_AFTER_SECONDS, Nothing, answer, caller_key, read_query
from sluice.api.native.results import get_result
from sluice.api.native.views import history_view, model_view, request_view
from sluice.domain.breakdown import Breakdown
from sluice.domain.days import Days
from sluice.domain.fields import Strict, id_of
from sluice.domain.history import HistoryQuery
from sluice.services import billing
from sluice.services.read import Reader
from sluice.services.wait import LONGEST_SECONDS, wait_in_a_slot

# How long the result of a health check is kept: checks may come often, and anyone may make them.
HEALTH_SECONDS: Final = 5
# Made by `make openapi`; it changes with a deployment only.
DESCRIPTION: Final = Path(__file__).parents[1] / "openapi.json"
DESCRIPTION_SECONDS: Final = 3600


def _seconds(text: Any) -> int:
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 2
    if not is_number or int(text) > LONGEST_SECONDS:
        raise ValueError(f"must be a whole number of seconds from 0 to {LONGEST_SECONDS}")
    return int(text)


class StatusQuery(Strict):
    """The query of GET /status/{request_id}.

    Attributes:
        wait: for how many seconds the answer may be waited for.
    """

    wait: Annotated[int, PlainValidator(_seconds)] = 0


class UsageQuery(Days, Breakdown):
    """The query of GET /usage."""


def reading_routes(*, reader: Callable[[], Reader]) -> APIGatewayHttpRouter:
    """The routes; the provider is asked for its service when a request arrives."""
    router = new_router()

    @router.get("/status/<request_id>")
    def _request(request_id: str) -> Response[str]:
        key_hash, query = caller_key(router.current_event), read_query(router.current_event, StatusQuery)
        return get_request(reader(), key_hash, id_of(request_id), query.wait)

    @router.get("/results/<request_id>")
    def _result(request_id: str) -> Response[Any]:
        event = router.current_event
        key_hash, _ = caller_key(event), read_query(event, Nothing)
        asked = {name: event.headers.get(name) for name in ("range", "if-range", "if-match", "if-none-match")}
        return get_result(reader(), key_hash, id_of(request_id), asked)

    @router.get("/requests")
    def _history() -> Response[str]:
        key_hash, query = caller_key(router.current_event), read_query(router.current_event, HistoryQuery)
        return get_history(reader(), key_hash, query)

    @router.get("/usage")
    def _usage() -> Response[str]:
        key_hash, query = caller_key(router.current_event), read_query(router.current_event, UsageQuery)
        return get_usage(reader(), key_hash, query)

    @router.get("/models")
    def _models() -> Response[str]:
        key_hash, _ = caller_key(router.current_event), read_query(router.current_event, Nothing)
        return get_models(reader(), key_hash)

    @router.get("/health")
    def _health() -> Response[str]:
        read_query(router.current_event, Nothing)
        return get_health(reader(), int(time.monotonic() // HEALTH_SECONDS))

    @router.get("/openapi.json")
    def _description() -> Response[str]:
        read_query(router.current_event, Nothing)
        return get_description()

    return router


def get_request(reader: Reader, key_hash: bytes, request_id: UUID | None, wait: int = 0) -> Response[str]:
    """One request of the caller; waits up to so many seconds for its end."""
    state = reader.request(key_hash, request_id)
    if wait and not state.status.is_final and wait_in_a_slot(reader.ledger, state.request_id, wait):
        state = reader.request(key_hash, request_id)
    headers = {"Retry-After": str(POLL_AFTER_SECONDS)} if not state.status.is_final else None
    return answer(200, request_view(state), headers)


def get_history(reader: Reader, key_hash: bytes, query: HistoryQuery) -> Response[str]:
    """A page of the caller's requests, newest first."""
    return answer(200, history_view(reader.history(key_hash, query)))


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


def get_description() -> Response[str]:
    """The API's description in OpenAPI 3.1."""
    cached = {"Cache-Control": f"public, max-age={DESCRIPTION_SECONDS}"}
    return Response(200, "application/json", DESCRIPTION.read_text(encoding="utf-8"), HEADERS | cached)


@lru_cache(maxsize=1)
def _database_answers(reader: Reader, _period: int) -> bool:
    return reader.database_answers()
