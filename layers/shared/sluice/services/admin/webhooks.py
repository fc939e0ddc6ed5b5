"""Operations on webhooks: what their users can do, except to see a secret."""

from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, Field

from sluice.domain.fields import PageSize, Strict, UserId
from sluice.domain.webhooks import EventState, endpoint_name, endpoint_of, event_of, message_id
from sluice.services.admin.operation import AdminContext, Operation
from sluice.services.admin.users import UserNamed, get_user


def _endpoint(name: str) -> str:
    if endpoint_of(name) is None:
        raise ValueError("must be the id of an endpoint: we_ and 32 hexadecimal digits")
    return name


def _event(name: str) -> str:
    if event_of(name) is None:
        raise ValueError("must be the id of an event: evt_ and 32 hexadecimal digits")
    return name


class EndpointNamed(Strict):
    endpoint_id: Annotated[str, AfterValidator(_endpoint)]


class EventNamed(Strict):
    event_id: Annotated[str, AfterValidator(_event)]


class EventsOf(Strict):
    """A user's latest events, newest first."""

    user_id: UserId
    state: EventState | None = None
    limit: PageSize = Field(default=100)


def list_endpoints(context: AdminContext, given: UserNamed) -> list[dict[str, Any]]:
    """A user's endpoints, without their secrets."""
    get_user(context, given)
    return [_endpoint_view(each) for each in context.administration.webhook_endpoints(given.user_id)]


def list_events(context: AdminContext, given: EventsOf) -> list[dict[str, Any]]:
    """A user's events with the attempts to deliver them."""
    get_user(context, UserNamed(user_id=given.user_id))
    found = context.administration.webhook_events(given.user_id, given.state, given.limit)
    return [_event_view(each) for each in found]


def _on_endpoint(name: str) -> Operation[EndpointNamed]:
    def run(context: AdminContext, given: EndpointNamed) -> dict[str, Any]:
        changed = context.administration.run(name, {"endpoint_id": str(endpoint_of(given.endpoint_id))})
        return _endpoint_view(changed)

    return Operation(EndpointNamed, run)


def redeliver(context: AdminContext, given: EventNamed) -> dict[str, Any]:
    """Have an event sent again. The recovery task wakes up who sends it, within a minute."""
    changed = context.administration.run("webhook.redeliver", {"event_id": str(event_of(given.event_id))})
    return _event_view(changed)


def _endpoint_view(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    return {**endpoint, "endpoint_id": endpoint_name(UUID(endpoint["endpoint_id"]))}


def _event_view(event: Mapping[str, Any]) -> dict[str, Any]:
    last = event["deliveries"][-1] if event["deliveries"] else {}
    return {
        **event,
        "event_id": message_id(UUID(event["event_id"])),
        "endpoint_id": None if event["url"] else endpoint_name(UUID(event["endpoint_id"])),
        "status_code": last.get("status_code"),
        "latency_ms": last.get("latency_ms"),
    }


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "webhook.list": Operation(UserNamed, list_endpoints),
    "webhook.deliveries": Operation(EventsOf, list_events),
    "webhook.enable": _on_endpoint("webhook.enable"),
    "webhook.disable": _on_endpoint("webhook.disable"),
    "webhook.delete": _on_endpoint("webhook.delete"),
    "webhook.redeliver": Operation(EventNamed, redeliver),
}
