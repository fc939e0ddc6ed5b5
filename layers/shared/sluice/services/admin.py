"""What operators do. An act is one call of the database, audited in the same commit; a refused one is audited too."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from psycopg.types.json import Jsonb
from pydantic import BaseModel

from sluice import arguments as of
from sluice.db.connection import Database, Row
from sluice.errors import DatabaseError, SluiceError
from sluice.keys import new_key
from sluice.services import billing
from sluice.validation import parse_object

logger = logging.getLogger(__name__)

# Constraints of the schema and refusals of its functions, as the mistakes they stand for.
_REFUSALS: Final = {
    "users_pkey": ("user_exists", "A user with this id exists."),
    "users_email_key": ("email_taken", "Another user has this e-mail address."),
    "user_not_found": ("user_not_found", "There is no user with this id."),
    "key_not_found": ("key_not_found", "There is no key with this id."),
    "key_dead": ("key_dead", "The key is revoked or expired and cannot be brought back. Create a new one."),
    "expiry_in_past": ("expiry_in_past", "expires_at must be in the future. To end a key now, revoke it."),
    "tier_unknown": ("tier_unknown", "There is no tier of this name."),
    "quota_plans_tier_known": ("tier_unknown", "There is no tier of this name."),
    "limits_missing": ("limits_missing", "A new tier needs limits for minute, daily and monthly; null is unlimited."),
    "tiers_price_list_known": ("price_list_unknown", "There is no price list of this name: set a price in it first."),
    "model_unknown": ("model_unknown", "There is no model of this name, or it is not offered any more."),
    "request_not_found": ("request_not_found", "There is no request with this id."),
    "request_finished": ("request_finished", "The request has ended and cannot be cancelled."),
    "request_not_failed": ("request_not_failed", "Only a request that failed can be queued again."),
    "request_archived": ("request_archived", "The request's month is in the archive: nothing there changes."),
    "user_inactive": ("user_inactive", "The request's user is deactivated."),
    "quota_exceeded": ("quota_exceeded", "The user's quota of the request's period has no room for it."),
    "price_in_past": ("price_in_past", "Days that are over have a price already. Price them by another price_list."),
    "currency_differs": ("currency_differs", "The price list is in another currency: leave currency out."),
}

A = TypeVar("A", bound=BaseModel)
RollupRunner = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Context:
    """What operations work with.

    Attributes:
        run_rollup: runs rollup tasks where they run with their own rights, and returns their figures.
        request_ttl_seconds, max_attempts: what a request that is queued again gets.
        invocation: of AdminFunction; CloudTrail knows who asked for it.
    """

    database: Database
    run_rollup: RollupRunner
    request_ttl_seconds: int
    max_attempts: int
    invocation: UUID | None = None

    def act(self, operation: str, given: Mapping[str, Any]) -> Any:
        """Do what is done in the database, in one commit with its audit row."""
        parameters = {"operation": operation, "arguments": Jsonb(given), "invocation": self.invocation}
        return self.database.row("admin_act", parameters)["result"]

    def read(self, query: str, **parameters: Any) -> list[Row]:
        return self.database.rows(query, parameters, repeatable=True)


@dataclass(frozen=True)
class Operation(Generic[A]):
    """An operation: what its arguments look like, and what it does."""

    arguments: type[A]
    run: Callable[[Context, A], Any]


def _act(operation: str, arguments: type[A]) -> Operation[A]:
    """An operation that is all done in the database. A change passes on only what it was given."""

    def run(context: Context, given: A) -> Any:
        return context.act(operation, given.model_dump(mode="json", exclude_unset=isinstance(given, of.Change)))

    return Operation(arguments, run)


def _one(rows: list[Row], code: str, detail: str) -> Row:
    if not rows:
        raise SluiceError(code, detail)
    return rows[0]


def user_get(context: Context, given: of.UserNamed) -> Row:
    return _one(context.read("user_get", user_id=given.user_id), *_REFUSALS["user_not_found"])


def user_list(context: Context, given: of.UserList) -> list[Row]:
    return context.read("user_list", after=given.after, at_most=given.limit)


def user_deactivate(context: Context, given: of.UserNamed) -> Any:
    return context.act("user.update", {"user_id": given.user_id, "is_active": False})


def user_activate(context: Context, given: of.UserNamed) -> Any:
    return context.act("user.update", {"user_id": given.user_id, "is_active": True})


def key_create(context: Context, given: of.KeyCreate) -> dict[str, Any]:
    return _with_new_key(context, "key.create", given)


def key_rotate(context: Context, given: of.KeyRotate) -> dict[str, Any]:
    return _with_new_key(context, "key.rotate", given)


def _with_new_key(context: Context, operation: str, given: BaseModel) -> dict[str, Any]:
    """The only time that the key itself is seen: in this answer."""
    key = new_key()
    made = context.act(
        operation, given.model_dump(mode="json") | {"key_hash": key.digest.hex(), "key_prefix": key.shown}
    )
    return dict(made) | {"api_key": key.secret}


def key_list(context: Context, given: of.UserNamed) -> list[Row]:
    rows = context.read("key_list", user_id=given.user_id)
    _one(rows, *_REFUSALS["user_not_found"])
    return [row for row in rows if row["key_id"] is not None]


def tier_list(context: Context, _: of.Nothing) -> list[Any]:
    return [row["tier"] for row in context.read("tier_list", tier=None)]


def tier_get(context: Context, given: of.TierNamed) -> Any:
    rows = context.read("tier_list", tier=given.tier)
    return _one(rows, "tier_not_found", "There is no tier of this name.")["tier"]


def quota_get(context: Context, given: of.UserNamed) -> Any:
    quota = context.database.row("quota_get", given.model_dump(), repeatable=True)["quota"]
    if quota is None:
        raise SluiceError(*_REFUSALS["user_not_found"])
    return quota


def price_list(context: Context, given: of.PriceList) -> list[Row]:
    rows = context.read("price_list", **given.model_dump())
    if given.price_list is not None and not rows:
        _one(
            context.read("price_list_get", price_list=given.price_list),
            "price_list_unknown",
            "There is no price list of this name.",
        )
    return rows


def model_list(context: Context, _: of.Nothing) -> list[Row]:
    return context.read("model_list")


def model_set(context: Context, given: of.ModelSet) -> Any:
    prices = given.prices.model_dump(mode="json", exclude_none=True)
    return context.act("model.set", given.model_dump(mode="json") | {"prices": prices})


def usage_get(context: Context, given: of.UsageGet) -> dict[str, Any]:
    return billing.usage(context.database, given.user_id, given.start, given.end)


def usage_tiers(context: Context, given: of.UsageTiers) -> list[dict[str, Any]]:
    if given.user_id is not None:
        user_get(context, of.UserNamed(user_id=given.user_id))
    rows = context.read(
        "tier_analysis",
        user_id=given.user_id,
        first_month=date.fromisoformat(f"{given.start_month}-01"),
        last_month=date.fromisoformat(f"{given.end_month}-01"),
        after=given.after,
        at_most=given.limit,
    )
    return billing.tiers(rows)


def invoice_get(context: Context, given: of.InvoiceGet) -> dict[str, Any]:
    document = billing.invoice(context.database, given.user_id, given.month, given.price_list)
    return {"csv": billing.invoice_csv(document)} if given.format == "csv" else document


def request_list(context: Context, given: of.RequestList) -> dict[str, Any]:
    # One more than asked for tells whether there is a next page.
    rows = context.read("request_list", **given.model_dump(exclude={"limit"}), at_most=given.limit + 1)
    page = rows[: given.limit]
    return {"requests": page, "next_cursor": page[-1]["request_id"] if len(rows) > given.limit else None}


def request_redrive(context: Context, given: of.RequestRedrive) -> Any:
    lifetime = {"ttl_seconds": context.request_ttl_seconds, "max_attempts": context.max_attempts}
    return context.act("request.redrive", given.model_dump(mode="json") | lifetime)


def audit_list(context: Context, given: of.AuditList) -> dict[str, Any]:
    # One more than asked for tells whether there is a next page.
    rows = context.read("audit_list", **given.model_dump(exclude={"limit"}), at_most=given.limit + 1)
    page = rows[: given.limit]
    return {"entries": page, "next_cursor": page[-1]["audit_id"] if len(rows) > given.limit else None}


def verify(context: Context, given: of.Verify) -> Any:
    return context.run_rollup({"tasks": ["verify"]} | given.model_dump())["verify"]


def rollup_run(context: Context, given: of.RollupEvent) -> Any:
    noted = {"action": "rollup.run", "after": Jsonb({"tasks": given.tasks}), "invocation": context.invocation}
    context.database.rows("admin_noted", noted)
    return context.run_rollup(given.model_dump())


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "user.create": _act("user.create", of.UserCreate),
    "user.get": Operation(of.UserNamed, user_get),
    "user.list": Operation(of.UserList, user_list),
    "user.update": _act("user.update", of.UserUpdate),
    "user.deactivate": Operation(of.UserNamed, user_deactivate),
    "user.activate": Operation(of.UserNamed, user_activate),
    "key.create": Operation(of.KeyCreate, key_create),
    "key.list": Operation(of.UserNamed, key_list),
    "key.rotate": Operation(of.KeyRotate, key_rotate),
    "key.expire": _act("key.expire", of.KeyExpire),
    "key.revoke": _act("key.revoke", of.KeyNamed),
    "tier.list": Operation(of.Nothing, tier_list),
    "tier.get": Operation(of.TierNamed, tier_get),
    "tier.set": _act("tier.set", of.TierSet),
    "quota.get": Operation(of.UserNamed, quota_get),
    "quota.set": _act("quota.set", of.QuotaSet),
    "quota.clear": _act("quota.clear", of.QuotaClear),
    "price.list": Operation(of.PriceList, price_list),
    "price.set": _act("price.set", of.PriceSet),
    "model.list": Operation(of.Nothing, model_list),
    "model.set": Operation(of.ModelSet, model_set),
    "usage.get": Operation(of.UsageGet, usage_get),
    "usage.tiers": Operation(of.UsageTiers, usage_tiers),
    "invoice.get": Operation(of.InvoiceGet, invoice_get),
    "request.list": Operation(of.RequestList, request_list),
    "request.cancel": _act("request.cancel", of.RequestNamed),
    "request.redrive": Operation(of.RequestRedrive, request_redrive),
    "audit.list": Operation(of.AuditList, audit_list),
    "verify": Operation(of.Verify, verify),
    "rollup.run": Operation(of.RollupEvent, rollup_run),
}


def administer(context: Context, event: Any) -> Any:
    """Run the operation that an event names.

    Raises:
        SluiceError: with what was wrong; nothing was changed, and that it was refused is in the audit log.
    """
    try:
        return _administer(context, event)
    except SluiceError as error:
        if error.status < 500:
            _note_refusal(context, event, error)
        raise


def _administer(context: Context, event: Any) -> Any:
    command = parse_object(of.AdminEvent, event)
    operation = OPERATIONS.get(command.operation)
    if operation is None:
        raise SluiceError(
            "operation_unknown",
            f"There is no operation {command.operation[:50]!r}; there are {', '.join(OPERATIONS)}.",
        )
    given = parse_object(operation.arguments, command.arguments)
    try:
        return operation.run(context, given)
    except DatabaseError as error:
        if error.constraint not in _REFUSALS:
            raise
        raise SluiceError(*_REFUSALS[error.constraint]) from None


def _note_refusal(context: Context, event: Any, refused: SluiceError) -> None:
    """Audit a refused act. Of what was sent, only the names of things that exist: the rest may hold anything."""
    event = event if isinstance(event, dict) else {}
    given = event.get("arguments")
    given = given if isinstance(given, dict) else {}

    operation = event.get("operation")
    try:
        context.database.rows(
            "admin_refused",
            {
                "operation": operation if isinstance(operation, str) and operation in OPERATIONS else None,
                "code": refused.code,
                "user_id": _of_form(of.UserNamed, "user_id", given),
                "key_id": _of_form(of.KeyNamed, "key_id", given),
                "invocation": context.invocation,
            },
        )
    except (SluiceError, DatabaseError) as error:
        logger.error("a refusal could not be audited", extra={"code": refused.code, "error": str(error)})


def _of_form(model: type[BaseModel], name: str, given: Mapping[str, Any]) -> Any:
    try:
        return getattr(parse_object(model, {name: given.get(name)}), name)
    except SluiceError:
        return None
