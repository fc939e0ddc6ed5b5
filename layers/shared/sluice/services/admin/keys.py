"""Operations on API keys."""

from dataclasses import asdict
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Field

from sluice.domain.caching import MaxAge
from sluice.domain.fields import Id, Identifier, Name, Strict, Time, UserId
from sluice.domain.keys import new_key
from sluice.domain.vocabulary import SCOPES, Scope
from sluice.services.admin.operation import AdminContext, Operation, database_operation
from sluice.services.admin.refusals import refusal
from sluice.services.admin.users import UserNamed


def _distinct(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


class KeyCreate(Strict):
    user_id: UserId
    name: Name | None = None
    scopes: Annotated[list[Scope], Field(min_length=1), AfterValidator(_distinct)] = Field(default=list(SCOPES))
    expires_at: Time | None = None
    models: Annotated[list[Identifier], Field(min_length=1, max_length=100), AfterValidator(_distinct)] | None = None
    """Ids of the models that it may be used for; None: all."""
    cache_max_age: MaxAge | None = None


class KeyNamed(Strict):
    key_id: Id


class KeyRotate(Strict):
    key_id: Id
    overlap_seconds: int = Field(default=86_400, ge=0, le=30 * 86_400)
    expires_at: Time | None = None


class KeyExpire(Strict):
    key_id: Id
    expires_at: Time | None


def create_key(context: AdminContext, given: KeyCreate) -> dict[str, Any]:
    return _with_new_key(context, "key.create", given)


def rotate_key(context: AdminContext, given: KeyRotate) -> dict[str, Any]:
    return _with_new_key(context, "key.rotate", given)


def _with_new_key(context: AdminContext, operation: str, given: BaseModel) -> dict[str, Any]:
    """Make a key. This answer is the only place where the key itself is ever seen."""
    key = new_key()
    made = context.administration.run(
        operation, given.model_dump(mode="json") | {"key_hash": key.digest.hex(), "key_prefix": key.shown}
    )
    return dict(made) | {"api_key": key.secret}


def list_keys(context: AdminContext, given: UserNamed) -> list[dict[str, Any]]:
    rows = context.administration.keys(given.user_id)
    if not rows:
        raise refusal("user_not_found")
    return [asdict(row) for row in rows if row.key_id is not None]


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "key.create": Operation(KeyCreate, create_key),
    "key.list": Operation(UserNamed, list_keys),
    "key.rotate": Operation(KeyRotate, rotate_key),
    "key.expire": database_operation("key.expire", KeyExpire),
    "key.revoke": database_operation("key.revoke", KeyNamed),
}
