"""What a client says about answers that are given again."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from sluice.domain.fields import Strict

LONGEST_AGE_SECONDS: Final = 30 * 86_400
"""cache_rules() in the database forgets answers of this age."""
MaxAge = Annotated[int, Field(ge=0, le=LONGEST_AGE_SECONDS)]


class CacheChoice(Strict):
    """How a request may be answered with what an equal one was answered.

    Attributes:
        max_age: how old that answer may be, in seconds; None: what key, model or tier say, or else an hour.
        scope: whose answers count: those of all requests of the user, or of those with the same API key.
        refresh: ask the model in any case, and keep its answer for others.
        sampled: also where the answer is a matter of chance: the temperature is not 0, and there is no seed.
    """

    max_age: MaxAge | None = None
    scope: Literal["user", "key"] = "user"
    refresh: bool = False
    sampled: bool = False


Cache = CacheChoice | Literal[False]
"""False: no equal request has anything to do with this one."""


def cache_json(cache: Cache | None) -> Mapping[str, Any] | Literal[False] | None:
    """The choice as it is submitted: only what was chosen."""
    return cache.model_dump(exclude_unset=True) if isinstance(cache, CacheChoice) else cache
