"""Operations on tiers, and on what single users may do beside theirs."""

from typing import Annotated, Any, Final

from pydantic import Field, create_model

from sluice.domain.caching import MaxAge
from sluice.domain.errors import SluiceError
from sluice.domain.fields import Count, Identifier, Strict, TierName, UserId
from sluice.domain.vocabulary import PERIODS, Frequency, Period
from sluice.services.admin.operation import AdminContext, Change, NoArguments, Operation, database_operation
from sluice.services.admin.refusals import refusal
from sluice.services.admin.users import UserNamed


class PeriodLimit(Strict):
    """Limits of one period; None: unlimited."""

    max_requests: int | None = Field(default=None, ge=0, le=2**31 - 1)
    max_tokens: int | None = Field(default=None, ge=0, le=10**15)


def _limits_model() -> type[Strict]:
    """A model with a field for each period."""
    fields: dict[str, Any] = {period: (PeriodLimit, PeriodLimit()) for period in PERIODS}
    return create_model("PeriodLimits", __base__=Strict, **fields)


PeriodLimits = _limits_model()


FileBytes = Annotated[int, Field(ge=0, le=10**15)]
"""Of all files of a user; None: unlimited."""


class TierNamed(Strict):
    tier: TierName


class TierSet(Change):
    tier: TierName
    reset_frequency: Frequency = "monthly"
    max_unfinished: Count = 100
    dispatch_window: Count = 10
    price_list: Identifier = "standard"
    cache_max_age: MaxAge | None = None
    max_file_bytes: FileBytes | None = None
    limits: PeriodLimits = PeriodLimits()  # type: ignore[valid-type]  # made at run time


class QuotaSet(Change):
    user_id: UserId
    limits: PeriodLimits = PeriodLimits()  # type: ignore[valid-type]  # made at run time
    max_unfinished: Count = 100
    dispatch_window: Count = 10
    reset_frequency: Frequency = "monthly"
    max_file_bytes: FileBytes | None = None


class QuotaClear(Strict):
    user_id: UserId
    periods: Annotated[list[Period], Field(min_length=1)] | None = None


def list_tiers(context: AdminContext, _: NoArguments) -> list[Any]:
    return context.administration.tiers()


def get_tier(context: AdminContext, given: TierNamed) -> Any:
    tiers = context.administration.tiers(given.tier)
    if not tiers:
        raise SluiceError("tier_not_found", "There is no tier of this name.")
    return tiers[0]


def get_quota(context: AdminContext, given: UserNamed) -> Any:
    quota = context.administration.quota(given.user_id)
    if quota is None:
        raise refusal("user_not_found")
    return quota


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "tier.list": Operation(NoArguments, list_tiers),
    "tier.get": Operation(TierNamed, get_tier),
    "tier.set": database_operation("tier.set", TierSet),
    "quota.get": Operation(UserNamed, get_quota),
    "quota.set": database_operation("quota.set", QuotaSet),
    "quota.clear": database_operation("quota.clear", QuotaClear),
}
