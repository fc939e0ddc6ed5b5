"""What the routes under /v1/webhook_… answer, and what is sent to an endpoint."""

from typing import Annotated, Literal

from pydantic import Field

from openapi.answers import Answer, Nothing
from sluice.api.openai.webhooks import EventType
from sluice.domain.webhooks import DisabledReason, EventState

EndpointId = Annotated[str, Field(pattern="^we_[0-9a-f]{32}$")]
EventId = Annotated[str, Field(pattern="^evt_[0-9a-f]{32}$")]


class WebhookEndpoint(Answer):
    """A webhook endpoint."""

    id: EndpointId
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[EventType]
    signing_secret_hint: str
    """The end of the secret."""
    disabled: bool
    """Nothing is sent to it."""
    disabled_reason: DisabledReason | None
    """gone: it answered 410."""
    signing_secret: str = Nothing
    """Only where it is new: when the endpoint is made and when its secret is rotated."""


class WebhookEndpointList(Answer):
    """A page of webhook endpoints, newest first."""

    object: Literal["list"]
    data: list[WebhookEndpoint]
    first_id: EndpointId | None
    last_id: EndpointId | None
    has_more: bool


class DeletedWebhookEndpoint(Answer):
    """A webhook endpoint that was deleted."""

    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class WebhookTestResult(Answer):
    """How an endpoint answered a test."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: EndpointId
    event_type: EventType
    status_code: int
    success: Literal[True]
    """That it answered; status_code says how."""


class WebhookSecret(Answer):
    """The secret of the events of requests that name an URL themselves; shown once."""

    object: Literal["webhook_secret"]
    signing_secret: str


class WebhookEventTypes(Answer):
    """What an endpoint can be told."""

    object: Literal["list"]
    data: list[EventType]


class WebhookSubject(Answer):
    """What an event is about."""

    id: str
    """The id by which the client knows its request."""


class WebhookAttempt(Answer):
    """An attempt to deliver an event."""

    attempt: int
    at: int
    status_code: int | None
    latency_ms: int | None
    cause: str | None
    """Why it failed; null: it did not."""


class WebhookDelivery(Answer):
    """An event, with the attempts to deliver it."""

    id: EventId
    """Also the header webhook-id."""
    object: Literal["webhook_delivery"]
    webhook_endpoint_id: EndpointId | None
    """null: the request named the URL itself."""
    url: str | None
    event_type: EventType
    data: WebhookSubject
    is_test: bool
    created_at: int
    state: EventState
    next_attempt_at: int | None
    ended_at: int | None
    cause: str | None
    """Why the last attempt failed."""
    attempts: list[WebhookAttempt]


class WebhookDeliveryList(Answer):
    """A page of events, newest first."""

    object: Literal["list"]
    data: list[WebhookDelivery]
    first_id: EventId | None
    last_id: EventId | None
    has_more: bool
