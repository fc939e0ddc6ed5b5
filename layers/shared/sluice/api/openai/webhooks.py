"""Webhooks, as OpenAI's clients manage their endpoints; and, beside that, what was sent to them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from pydantic import BaseModel, Field

from sluice.api.exchange import answer, body_text, caller_key
from sluice.api.openai.errors import invalid
from sluice.api.openai.reading import read_body, read_object
from sluice.domain.fields import Name, Strict, WebhookUrl
from sluice.domain.webhooks import EVENT_TYPES, EventState, endpoint_name, endpoint_of, event_of, message_id
from sluice.telemetry import logger

if TYPE_CHECKING:
    from sluice.services.webhooks import WebhookManager

M = TypeVar("M", bound=BaseModel)

_PAGE: Final = 20

EventType = Literal[
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
]
EventTypes = Annotated[list[EventType], Field(max_length=len(EVENT_TYPES) * 2)]
"""None: an endpoint that is told nothing, until it is changed."""


class EndpointRequest(Strict):
    """The body of POST /v1/webhook_endpoints."""

    url: WebhookUrl
    name: Name
    event_types: EventTypes


class EndpointChange(Strict):
    """The body of POST /v1/webhook_endpoints/{id}: what is not given stays."""

    url: WebhookUrl | None = None
    name: Name | None = None
    event_types: EventTypes | None = None
    disabled: bool | None = None
    """Whether nothing is sent to it."""


class SecretRotation(Strict):
    """The body of POST /v1/webhook_endpoints/{id}/rotate_secret and POST /v1/webhook_secret."""

    keep_old_secret_active_for_24_hours: bool = False


class EndpointTest(Strict):
    """The body of POST /v1/webhook_endpoints/{id}/test."""

    event_type: EventType


class EndpointsQuery(Strict):
    """The query of GET /v1/webhook_endpoints."""

    after: str | None = None
    limit: int = Field(default=_PAGE, ge=1, le=100)


class DeliveriesQuery(EndpointsQuery):
    """The query of GET /v1/webhook_deliveries."""

    webhook_endpoint_id: str | None = None
    state: EventState | None = None


def add_webhook_routes(router: APIGatewayHttpRouter, manager: Callable[[], "WebhookManager"]) -> None:
    """Add the routes under /v1/webhook_…. Of two that fit, the first counts."""

    @router.get("/v1/webhook_event_types")
    def _types() -> Response[str]:
        manager().page(caller_key(router.current_event), "list", 1)
        return answer(200, {"object": "list", "data": list(EVENT_TYPES)})

    @router.post("/v1/webhook_endpoints")
    def _create() -> Response[str]:
        return create_endpoint(manager(), router.current_event)

    @router.get("/v1/webhook_endpoints")
    def _list() -> Response[str]:
        return list_endpoints(manager(), router.current_event)

    @router.post("/v1/webhook_endpoints/<webhook_endpoint_id>/rotate_secret")
    def _rotate(webhook_endpoint_id: str) -> Response[str]:
        return rotate_secret(manager(), router.current_event, webhook_endpoint_id)

    @router.post("/v1/webhook_endpoints/<webhook_endpoint_id>/test")
    def _test(webhook_endpoint_id: str) -> Response[str]:
        return test_endpoint(manager(), router.current_event, webhook_endpoint_id)

    @router.get("/v1/webhook_endpoints/<webhook_endpoint_id>")
    def _show(webhook_endpoint_id: str) -> Response[str]:
        key_hash = caller_key(router.current_event)
        return answer(200, endpoint_view(manager().endpoint(key_hash, "show", endpoint_of(webhook_endpoint_id))))

    @router.post("/v1/webhook_endpoints/<webhook_endpoint_id>")
    def _update(webhook_endpoint_id: str) -> Response[str]:
        return update_endpoint(manager(), router.current_event, webhook_endpoint_id)

    @router.delete("/v1/webhook_endpoints/<webhook_endpoint_id>")
    def _delete(webhook_endpoint_id: str) -> Response[str]:
        manager().endpoint(caller_key(router.current_event), "delete", endpoint_of(webhook_endpoint_id))
        return answer(200, {"id": webhook_endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True})

    @router.post("/v1/webhook_secret")
    def _secret() -> Response[str]:
        return rotate_own_secret(manager(), router.current_event)

    @router.get("/v1/webhook_deliveries")
    def _deliveries() -> Response[str]:
        return list_deliveries(manager(), router.current_event)

    @router.post("/v1/webhook_deliveries/<event_id>/redeliver")
    def _redeliver(event_id: str) -> Response[str]:
        key_hash = caller_key(router.current_event)
        return answer(200, delivery_view(manager().redeliver(key_hash, event_of(event_id))))

    @router.get("/v1/webhook_deliveries/<event_id>")
    def _delivery(event_id: str) -> Response[str]:
        key_hash = caller_key(router.current_event)
        return answer(200, delivery_view(manager().event(key_hash, event_of(event_id))))


def create_endpoint(manager: "WebhookManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """Make an endpoint; its secret is in this answer only."""
    key_hash, body = caller_key(event), _body(EndpointRequest, event)
    made = manager.create(key_hash, body.url, body.name, _once(body.event_types))
    logger.info("webhook endpoint created", extra={"endpoint_id": made["endpoint_id"]})
    return answer(200, endpoint_view(made))


def update_endpoint(manager: "WebhookManager", event: APIGatewayProxyEventV2, given_id: str) -> Response[str]:
    """Change an endpoint."""
    key_hash, body, wanted = caller_key(event), _body(EndpointChange, event), endpoint_of(given_id)
    types = None if body.event_types is None else _once(body.event_types)
    changed = manager.endpoint(key_hash, "update", wanted, url=body.url, name=body.name, event_types=types)
    if body.disabled is not None:
        changed = manager.endpoint(key_hash, "disable" if body.disabled else "enable", wanted)
    return answer(200, endpoint_view(changed))


def list_endpoints(manager: "WebhookManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """A page of endpoints, newest first."""
    key_hash, query = caller_key(event), _query(event, EndpointsQuery)
    found = manager.page(key_hash, "list", query.limit, after=_cursor(query.after, endpoint_of))
    return answer(200, _page([endpoint_view(each) for each in found], query.limit))


def rotate_secret(manager: "WebhookManager", event: APIGatewayProxyEventV2, given_id: str) -> Response[str]:
    """A new secret for an endpoint; it is in this answer only."""
    key_hash, body = caller_key(event), _body(SecretRotation, event)
    keep_old = body.keep_old_secret_active_for_24_hours
    return answer(200, endpoint_view(manager.endpoint(key_hash, "rotate", endpoint_of(given_id), keep_old=keep_old)))


def rotate_own_secret(manager: "WebhookManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """A new secret for the events of requests that name an URL themselves; it is in this answer only."""
    key_hash, body = caller_key(event), _body(SecretRotation, event)
    made = manager.rotate_own(key_hash, keep_old=body.keep_old_secret_active_for_24_hours)
    return answer(200, {"object": "webhook_secret", "signing_secret": made["secret"]})


def test_endpoint(manager: "WebhookManager", event: APIGatewayProxyEventV2, given_id: str) -> Response[str]:
    """Send a sample to an endpoint."""
    key_hash, body = caller_key(event), _body(EndpointTest, event)
    outcome = manager.test(key_hash, endpoint_of(given_id), body.event_type)
    return answer(
        200,
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": given_id,
            "event_type": body.event_type,
            "status_code": outcome.status_code,
            "success": True,
        },
    )


def list_deliveries(manager: "WebhookManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """A page of events with the attempts to deliver them, newest first."""
    key_hash, query = caller_key(event), _query(event, DeliveriesQuery)
    wanted = None
    if query.webhook_endpoint_id is not None:
        # Of another user's, or one that is none, the list would be empty: that it is not there says more.
        endpoint = manager.endpoint(key_hash, "show", endpoint_of(query.webhook_endpoint_id))
        wanted = str(endpoint["endpoint_id"])
    found = manager.page(
        key_hash,
        "events",
        query.limit,
        after=_cursor(query.after, event_of),
        endpoint_id=wanted,
        state=query.state,
    )
    return answer(200, _page([delivery_view(each) for each in found], query.limit))


# Views ----------------------------------------------------------------------------------------------------------------


def endpoint_view(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """An endpoint, with its secret where that is new."""
    return {
        "id": endpoint_name(UUID(endpoint["endpoint_id"])),
        "object": "webhook_endpoint",
        "created_at": _seconds(endpoint["created_at"]),
        "updated_at": _seconds(endpoint["updated_at"]),
        "name": endpoint["name"],
        "url": endpoint["url"],
        "event_types": endpoint["event_types"],
        "signing_secret_hint": endpoint["secret_hint"],
        "disabled": endpoint["disabled_at"] is not None,
        "disabled_reason": endpoint["disabled_reason"],
        **({"signing_secret": endpoint["secret"]} if "secret" in endpoint else {}),
    }


def delivery_view(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event, with the attempts to deliver it."""
    own = event["url"] is not None
    return {
        "id": message_id(UUID(event["event_id"])),
        "object": "webhook_delivery",
        "webhook_endpoint_id": None if own else endpoint_name(UUID(event["endpoint_id"])),
        "url": event["url"],
        "event_type": event["event_type"],
        "data": {"id": event["data_id"]},
        "is_test": event["request_id"] is None and event["batch_id"] is None,
        "created_at": _seconds(event["created_at"]),
        "state": event["state"],
        "next_attempt_at": _seconds(event["next_attempt_at"]),
        "ended_at": _seconds(event["ended_at"]),
        "cause": event["last_cause"],
        "attempts": [
            {
                "attempt": each["attempt"],
                "at": _seconds(each["at"]),
                "status_code": each["status_code"],
                "latency_ms": each["latency_ms"],
                "cause": each["cause"],
            }
            for each in event["deliveries"]
        ],
    }


def _seconds(time: str | None) -> int | None:
    return None if time is None else int(datetime.fromisoformat(time).timestamp())


def _page(views: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    page = views[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, **ends, "has_more": len(views) > limit}


# Reading --------------------------------------------------------------------------------------------------------------


def _body(model: type[M], event: APIGatewayProxyEventV2) -> M:
    return read_body(model, body_text(event).strip() or "{}", {})


def _query(event: APIGatewayProxyEventV2, model: type[M]) -> M:
    given: dict[str, Any] = dict(event.query_string_parameters)
    text = given.get("limit", "")
    if text.isascii() and text.isdigit() and len(text) < 10:
        given["limit"] = int(text)
    return read_object(model, given)


def _cursor(after: str | None, read: Callable[[str], UUID | None]) -> str | None:
    if after is None:
        return None
    found = read(after)
    if found is None:
        raise invalid(f"There is nothing with the id {after[:64]!r}.", "after")
    return str(found)


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
