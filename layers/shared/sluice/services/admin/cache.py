"""Operations on the answer cache."""

from typing import Any, Final, Self

from pydantic import model_validator

from sluice.domain.fields import Identifier, Strict, UserId
from sluice.services.admin.operation import Operation, database_operation


class CachePurge(Strict):
    """Whose cached answers are to be found no longer: a user's, those of a model, or a user's of a model."""

    user_id: UserId | None = None
    model_id: Identifier | None = None

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.user_id is None and self.model_id is None:
            raise ValueError("give user_id, model_id or both")
        return self


OPERATIONS: Final[dict[str, Operation[Any]]] = {"cache.purge": database_operation("cache.purge", CachePurge)}
