"""Operations on users."""

from dataclasses import asdict
from typing import Any, Final

from sluice.domain.fields import Email, Name, PageSize, Strict, Text, TierName, UserId
from sluice.services.admin.operation import AdminContext, Change, Operation, database_operation
from sluice.services.admin.refusals import refusal


class UserNamed(Strict):
    user_id: UserId


class UserCreate(Strict):
    user_id: UserId
    name: Name | None = None
    email: Email | None = None
    tier: TierName = "basic"


class UserList(Strict):
    after: Text = ""
    limit: PageSize = 100


class UserUpdate(Change):
    user_id: UserId
    name: Name | None = None
    email: Email | None = None
    tier: TierName = "basic"
    is_active: bool = True


def get_user(context: AdminContext, given: UserNamed) -> dict[str, Any]:
    users = context.administration.users(user_id=given.user_id)
    if not users:
        raise refusal("user_not_found")
    return asdict(users[0])


def list_users(context: AdminContext, given: UserList) -> list[dict[str, Any]]:
    return [asdict(user) for user in context.administration.users(after=given.after, limit=given.limit)]


def deactivate_user(context: AdminContext, given: UserNamed) -> Any:
    return context.administration.run("user.update", {"user_id": given.user_id, "is_active": False})


def activate_user(context: AdminContext, given: UserNamed) -> Any:
    return context.administration.run("user.update", {"user_id": given.user_id, "is_active": True})


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "user.create": database_operation("user.create", UserCreate),
    "user.get": Operation(UserNamed, get_user),
    "user.list": Operation(UserList, list_users),
    "user.update": database_operation("user.update", UserUpdate),
    "user.deactivate": Operation(UserNamed, deactivate_user),
    "user.activate": Operation(UserNamed, activate_user),
}
