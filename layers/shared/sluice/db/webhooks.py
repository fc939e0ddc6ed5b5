"""Webhooks in the database: one method for each entry point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from sluice.db.connection import Database
from sluice.domain.webhooks import WebhookClaim, WebhookOutcome


@dataclass(frozen=True)
class WebhookSettled:
    """What became of an attempt's event.

    Attributes:
        state: superseded: another claimer has it.
        delay_seconds: pending: until the next attempt.
    """

    event_id: UUID
    state: Literal["delivered", "pending", "dead", "superseded"]
    delay_seconds: float | None


@dataclass(frozen=True)
class WebhookAnswer:
    """What an act made of an endpoint or an event.

    Attributes:
        outcome: ok, or why not.
        value: the endpoint, the event, or a list of them.
    """

    outcome: str
    value: Any


@dataclass(frozen=True)
class WebhookTesting:
    """The claim of a test.

    Attributes:
        claim: the row of the claim as the database gives it.
    """

    outcome: str
    claim: Mapping[str, Any] | None


class Webhooks:
    """What is done about webhooks. Every method raises SluiceError, database_unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, limit: int, lease_seconds: float) -> list[WebhookClaim]:
        """Claim at most so many events that are due. One that nobody settles is due again when its lease ends."""
        return self._database.rows(WebhookClaim, "webhook_claim", limit=limit, lease_seconds=lease_seconds)

    def settle(self, outcomes: Sequence[WebhookOutcome]) -> list[WebhookSettled]:
        """Record what became of attempts, and when the next ones are."""
        return self._database.rows(
            WebhookSettled,
            "webhook_settle",
            repeatable=True,
            outcomes=Jsonb([outcome.to_json() for outcome in outcomes]),
        )

    def manage(self, key_hash: bytes, act: str, **arguments: Any) -> WebhookAnswer:
        """Do something about the endpoints or the events of the caller; see webhook_act() in the database."""
        return self._database.row(
            WebhookAnswer, "webhook_manage", key_hash=key_hash, act=act, arguments=Jsonb(arguments)
        )

    def test(self, key_hash: bytes, endpoint_id: UUID, event_type: str, lease_seconds: float) -> WebhookTesting:
        """Claim an event that is about nothing, to be sent to an endpoint of the caller."""
        return self._database.row(
            WebhookTesting,
            "webhook_test",
            key_hash=key_hash,
            endpoint_id=endpoint_id,
            event_type=event_type,
            lease_seconds=lease_seconds,
        )
