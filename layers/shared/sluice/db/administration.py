"""Administration's door to the database: one method for each entry point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from sluice.db.connection import Database
from sluice.domain.requests import ModelKind
from sluice.domain.states import Status
from sluice.domain.windows import CompletionWindow


@dataclass(frozen=True)
class User:
    user_id: str
    name: str | None
    email: str | None
    tier: str
    is_active: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class ApiKey:
    """A key without its hash; key_id is None in the one row of a user who has no key."""

    key_id: UUID | None
    user_id: str
    key_prefix: str
    name: str | None
    scopes: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    models: Sequence[str] | None
    cache_max_age: int | None


@dataclass(frozen=True)
class Price:
    """Per million tokens, from valid_from up to, not including, valid_until."""

    price_list: str
    currency: str
    model_id: str
    token_class: str
    price_per_million: Decimal
    valid_from: date
    valid_until: date | None


@dataclass(frozen=True)
class WindowPrice:
    """By which list requests with a window are billed, of users who are billed by price_list.

    It holds from valid_from up to, not including, valid_until.
    """

    price_list: str
    window: CompletionWindow
    window_list: str
    currency: str
    valid_from: date
    valid_until: date | None


@dataclass(frozen=True)
class Model:
    """A model, with its current prices in the standard list by token class.

    Attributes:
        fallbacks: the models that answer in its place, in order.
        breaker: its circuit breaker: `state` (closed, failing, open), and what is known of the failures.
        mapping: as in Claim.
    """

    model_id: str
    backend: str
    backend_model: str
    endpoint: str | None
    secret_arn: str | None
    max_tokens_default: int
    max_tokens_limit: int
    overhead_tokens: int
    timeout_seconds: int
    is_default: bool
    is_active: bool
    prices: Mapping[str, str]
    created_at: datetime
    updated_at: datetime
    kind: ModelKind
    item_tokens: int
    image_tokens: int | None
    fallbacks: Sequence[str]
    breaker: Mapping[str, Any]
    mapping: Mapping[str, Any] | None
    cache_max_age: int | None


@dataclass(frozen=True)
class Alias:
    """Another name of a model; is_active: of the model."""

    alias: str
    model_id: str
    is_active: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class ListedRequest:
    request_id: UUID
    user_id: str
    model_id: str
    status: Status
    attempts: int
    error_code: str | None
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    prompt_tokens: int | None
    completion_tokens: int | None
    waits_for: str | None
    waits_until: datetime | None
    last_error: str | None
    finish_reason: str | None


@dataclass(frozen=True)
class AuditEntry:
    audit_id: UUID
    at: datetime
    actor: str
    action: str
    user_id: str | None
    key_id: UUID | None
    request_id: UUID | None
    invocation: UUID | None
    before: Any
    after: Any


class Administration:
    """What operators read and change.

    Every method raises SluiceError, database_unavailable.

    Args:
        invocation: of AdminFunction, noted in the audit log; CloudTrail knows who asked for it.
    """

    def __init__(self, database: Database, invocation: UUID | None) -> None:
        self._database = database
        self._invocation = invocation

    def run(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Carry out an operation in one commit with its audit row.

        Returns:
            the thing that it changed, as it is now, as JSON.

        Raises:
            DatabaseError: it was refused, with the reason as its constraint.
        """
        return self._database.value(
            "admin_run", operation=operation, arguments=Jsonb(arguments), invocation=self._invocation
        )

    def note_refusal(self, operation: str | None, code: str, user_id: str | None, key_id: UUID | None) -> None:
        """Audit that an operation was refused, and why."""
        self._database.value(
            "admin_refused",
            operation=operation,
            code=code,
            user_id=user_id,
            key_id=key_id,
            invocation=self._invocation,
        )

    def note(self, action: str, after: Mapping[str, Any]) -> None:
        """Audit an operation that another function carries out."""
        self._database.value("admin_noted", action=action, after=Jsonb(after), invocation=self._invocation)

    def users(self, *, after: str = "", limit: int = 1, user_id: str | None = None) -> list[User]:
        """Users after a given one, in order; or the one named, if there is one."""
        return self._database.rows(User, "user_list", repeatable=True, after=after, limit=limit, user_id=user_id)

    def keys(self, user_id: str) -> list[ApiKey]:
        """A user's keys, newest first; one row without a key_id where the user has none; no row for no such user."""
        return self._database.rows(ApiKey, "key_list", repeatable=True, user_id=user_id)

    def tiers(self, tier: str | None = None) -> list[Any]:
        """Every tier, or the one named, with its limits, as JSON."""
        return self._database.values("tier_list", repeatable=True, tier=tier)

    def quota(self, user_id: str) -> Any:
        """A user's plan, limits and counters, as JSON; None where there is no such user."""
        return self._database.value("quota_report", repeatable=True, user_id=user_id)

    def prices(self, price_list: str | None, model_id: str | None, on: date | None) -> list[Price]:
        """Prices of a list, of a model, of a day, or all."""
        return self._database.rows(
            Price, "price_list", repeatable=True, price_list=price_list, model_id=model_id, on=on
        )

    def price_windows(self, price_list: str | None) -> list[WindowPrice]:
        """By which lists requests with completion windows are billed, of users of one list or of all."""
        return self._database.rows(WindowPrice, "price_windows", repeatable=True, price_list=price_list)

    def models(self) -> list[Model]:
        """Every model, offered or not."""
        return self._database.rows(Model, "model_list", repeatable=True)

    def batches(
        self,
        *,
        user_id: str | None = None,
        status: str | None = None,
        batch_id: UUID | None = None,
        limit: int = 1,
    ) -> list[dict[str, Any]]:
        """Batches, newest first: of one user, in one state, or this one."""
        return self._database.values(
            "batch_list", repeatable=True, user_id=user_id, status=status, batch_id=batch_id, limit=limit
        )

    def webhook_endpoints(self, user_id: str) -> list[dict[str, Any]]:
        """A user's endpoints for webhooks, newest first, without their secrets."""
        return self._database.values("webhook_list", repeatable=True, user_id=user_id)

    def webhook_events(self, user_id: str, state: str | None, limit: int) -> list[dict[str, Any]]:
        """A user's latest events with the attempts to deliver them, newest first."""
        return self._database.values("webhook_event_list", repeatable=True, user_id=user_id, state=state, limit=limit)

    def aliases(self) -> list[Alias]:
        """Every alias."""
        return self._database.rows(Alias, "alias_list", repeatable=True)

    def requests(
        self,
        *,
        user_id: str | None,
        status: str | None,
        error_code: str | None,
        start: datetime | None,
        end: datetime | None,
        before: UUID | None,
        limit: int,
        finish_reason: str | None = None,
    ) -> list[ListedRequest]:
        """Requests accepted from start up to, not including, end, newest first, older than before."""
        return self._database.rows(
            ListedRequest,
            "request_list",
            repeatable=True,
            readers={"status": Status},
            user_id=user_id,
            status=status,
            error_code=error_code,
            start=start,
            end=end,
            before=before,
            limit=limit,
            finish_reason=finish_reason,
        )

    def audit(
        self,
        *,
        user_id: str | None,
        request_id: UUID | None,
        action: str | None,
        start: datetime | None,
        end: datetime | None,
        after: UUID | None,
        limit: int,
    ) -> list[AuditEntry]:
        """Audit rows from start up to, not including, end, oldest first, newer than after."""
        return self._database.rows(
            AuditEntry,
            "audit_list",
            repeatable=True,
            user_id=user_id,
            request_id=request_id,
            action=action,
            start=start,
            end=end,
            after=after,
            limit=limit,
        )
