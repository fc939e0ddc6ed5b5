"""Operations on budgets: a user's limits in money, for all requests, those with one key, or those to one model."""

from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from sluice.domain.fields import Currency, Id, Identifier, Price, Strict, UserId
from sluice.services.admin.operation import AdminContext, Operation, database_operation
from sluice.services.admin.tiers import get_quota
from sluice.services.admin.users import UserNamed


class BudgetScope(Strict):
    """Which requests a budget limits.

    Attributes:
        key_id: those with this key, or with one that replaced it in a rotation; None: with any.
        model_id: those to this model; None: to any.
    """

    user_id: UserId
    key_id: Id | None = None
    model_id: Identifier | None = None


class Amounts(Strict):
    """Limits by period; None removes one."""

    daily: Price | None = None
    monthly: Price | None = None


class BudgetSet(BudgetScope):
    """Sets the limits that are given, in the currency of the user's price list.

    Attributes:
        currency: if it is given, it must be that one.
    """

    limits: Amounts
    currency: Currency | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.limits.model_fields_set:
            raise ValueError("nothing to change: limits needs daily or monthly; null removes a limit")
        return self


class BudgetClear(BudgetScope):
    """Removes the budgets of a scope, or with is_all every budget of the user."""

    is_all: Annotated[bool, Field(strict=True)] = False


def set_budget(context: AdminContext, given: BudgetSet) -> Any:
    return context.administration.run("budget.set", given.model_dump(mode="json", exclude_unset=True))


def list_budgets(context: AdminContext, given: UserNamed) -> dict[str, Any]:
    return {"user_id": given.user_id, "budgets": get_quota(context, given)["budgets"]}


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "budget.set": Operation(BudgetSet, set_budget),
    "budget.list": Operation(UserNamed, list_budgets),
    "budget.clear": database_operation("budget.clear", BudgetClear),
}
