"""What operators do: users, keys, models. Every act is one call of the database, audited in the same commit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from psycopg.types.json import Jsonb
from pydantic import BaseModel

from sluice.db.connection import Database, Row
from sluice.errors import DatabaseError, SluiceError
from sluice.keys import new_key
from sluice.models import (
    AdminEvent,
    KeyCreate,
    KeyList,
    KeyRevoke,
    ModelSet,
    Nothing,
    RollupEvent,
    UserCreate,
    UserList,
)
from sluice.validation import parse_object

# Constraints of the schema, as the mistakes they stand for.
_CONSTRAINTS: Final = {
    "users_pkey": ("user_exists", "A user with this id exists."),
    "users_email_key": ("email_taken", "Another user has this e-mail address."),
    "tier_unknown": ("tier_unknown", "There is no tier of this name."),
    "api_keys_user_id_fkey": ("user_not_found", "There is no user with this id."),
}

A = TypeVar("A", bound=BaseModel)
RollupRunner = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Context:
    """What operations work with.

    Attributes:
        run_rollup: runs rollup tasks where they run with their own rights, and returns their figures.
    """

    database: Database
    run_rollup: RollupRunner


@dataclass(frozen=True)
class Operation(Generic[A]):
    """An operation: what its arguments look like, and what it does."""

    arguments: type[A]
    run: Callable[[Context, A], Any]


def user_create(context: Context, arguments: UserCreate) -> Row:
    return context.database.row("user_create", arguments.model_dump())


def user_list(context: Context, arguments: UserList) -> list[Row]:
    return context.database.rows("user_list", {"after": arguments.after, "at_most": arguments.limit}, repeatable=True)


def key_create(context: Context, arguments: KeyCreate) -> Row:
    """The only time that the key itself is seen: in this answer."""
    key = new_key()
    row = context.database.row("key_create", arguments.model_dump() | {"key_hash": key.digest, "key_prefix": key.shown})
    return row | {"api_key": key.secret}


def key_list(context: Context, arguments: KeyList) -> list[Row]:
    return context.database.rows("key_list", arguments.model_dump(), repeatable=True)


def key_revoke(context: Context, arguments: KeyRevoke) -> Row:
    rows = context.database.rows("key_revoke", arguments.model_dump(), repeatable=True)
    if not rows:
        raise SluiceError("key_not_found", "There is no key with this id.")
    return rows[0]


def model_list(context: Context, _: Nothing) -> list[Row]:
    return context.database.rows("model_list", repeatable=True)


def model_set(context: Context, arguments: ModelSet) -> Row:
    description = arguments.model_dump(mode="json") | {
        "prices": arguments.prices.model_dump(mode="json", exclude_none=True)
    }
    return context.database.row("model_set", {"description": Jsonb(description)})


def rollup_run(context: Context, arguments: RollupEvent) -> Any:
    return context.run_rollup(arguments.model_dump())


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "user.create": Operation(UserCreate, user_create),
    "user.list": Operation(UserList, user_list),
    "key.create": Operation(KeyCreate, key_create),
    "key.list": Operation(KeyList, key_list),
    "key.revoke": Operation(KeyRevoke, key_revoke),
    "model.list": Operation(Nothing, model_list),
    "model.set": Operation(ModelSet, model_set),
    "rollup.run": Operation(RollupEvent, rollup_run),
}


def administer(context: Context, event: Any) -> Any:
    """Run the operation that an event names.

    Raises:
        SluiceError: with what was wrong; nothing was changed.
    """
    command = parse_object(AdminEvent, event)
    operation = OPERATIONS.get(command.operation)
    if operation is None:
        raise SluiceError(
            "operation_unknown",
            f"There is no operation {command.operation[:50]!r}; there are {', '.join(OPERATIONS)}.",
        )
    arguments = parse_object(operation.arguments, command.arguments)
    try:
        return operation.run(context, arguments)
    except DatabaseError as error:
        if error.constraint not in _CONSTRAINTS:
            raise
        raise SluiceError(*_CONSTRAINTS[error.constraint]) from None
