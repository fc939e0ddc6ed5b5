"""Running the operation that an event names. A refused operation is audited too."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, Field, JsonValue

from sluice.domain.errors import DatabaseError, SluiceError
from sluice.domain.fields import Strict
from sluice.services.admin import (
    batches,
    budgets,
    cache,
    keys,
    maintenance,
    models,
    requests,
    tiers,
    usage,
    users,
    webhooks,
)
from sluice.services.admin.operation import AdminContext, Operation
from sluice.services.admin.refusals import REFUSALS, refusal
from sluice.validation import parse_object

logger = logging.getLogger(__name__)

OPERATIONS: Final[dict[str, Operation[Any]]] = {
    name: operation
    for subject in (users, keys, tiers, budgets, models, cache, usage, requests, batches, webhooks, maintenance)
    for name, operation in subject.OPERATIONS.items()
}


class AdminEvent(Strict):
    """What AdminFunction is invoked with."""

    operation: str
    arguments: dict[str, JsonValue] = Field(default={})


def administer(context: AdminContext, event: Any) -> Any:
    """Run the operation that an event names.

    Raises:
        SluiceError: with what was wrong; nothing was changed, and that it was refused is in the audit log.
    """
    try:
        return _administer(context, event)
    except SluiceError as error:
        if error.is_refusal:
            _note_refusal(context, event, error)
        raise


def _administer(context: AdminContext, event: Any) -> Any:
    command = parse_object(AdminEvent, event)
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
        if error.constraint not in REFUSALS:
            raise
        raise refusal(error.constraint) from None


def _note_refusal(context: AdminContext, event: Any, refused: SluiceError) -> None:
    """Audit a refused operation. Only names of existing things are kept: the rest may hold anything."""
    event = event if isinstance(event, dict) else {}
    given = event.get("arguments")
    given = given if isinstance(given, dict) else {}
    operation = event.get("operation")
    try:
        context.administration.note_refusal(
            operation if isinstance(operation, str) and operation in OPERATIONS else None,
            refused.code,
            _valid(users.UserNamed, "user_id", given),
            _valid(keys.KeyNamed, "key_id", given),
        )
    except (SluiceError, DatabaseError) as error:
        logger.error("a refusal could not be audited", extra={"code": refused.code, "error": str(error)})


def _valid(model: type[BaseModel], name: str, given: Mapping[str, Any]) -> Any:
    """One of the arguments that were given, or None if it does not have the right form."""
    try:
        return getattr(parse_object(model, {name: given.get(name)}), name)
    except SluiceError:
        return None
