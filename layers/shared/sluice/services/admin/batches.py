"""Operations on batches."""

from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, Field

from sluice.domain.batches import BatchStatus, batch_name, batch_of
from sluice.domain.errors import SluiceError
from sluice.domain.fields import PageSize, Strict, UserId
from sluice.services.admin.operation import AdminContext, Operation
from sluice.services.admin.users import UserNamed, get_user


def _batch(name: str) -> str:
    if batch_of(name) is None:
        raise ValueError("must be the id of a batch: batch_ and 32 hexadecimal digits")
    return name


class BatchNamed(Strict):
    batch_id: Annotated[str, AfterValidator(_batch)]


class BatchesOf(Strict):
    """Batches, newest first, of one user or of all."""

    user_id: UserId | None = None
    status: BatchStatus | None = None
    limit: PageSize = Field(default=100)


def list_batches(context: AdminContext, given: BatchesOf) -> list[dict[str, Any]]:
    """Batches, newest first."""
    if given.user_id is not None:
        get_user(context, UserNamed(user_id=given.user_id))
    found = context.administration.batches(user_id=given.user_id, status=given.status, limit=given.limit)
    return [_view(each) for each in found]


def show_batch(context: AdminContext, given: BatchNamed) -> dict[str, Any]:
    """One batch."""
    found = context.administration.batches(batch_id=batch_of(given.batch_id))
    if not found:
        raise SluiceError("batch_not_found", "There is no batch with this id.")
    return _view(found[0])


def cancel_batch(context: AdminContext, given: BatchNamed) -> dict[str, Any]:
    """Cancel a batch. The recovery task wakes up who works on it, within a minute."""
    return _view(context.administration.run("batch.cancel", {"batch_id": str(batch_of(given.batch_id))}))


def _view(batch: Mapping[str, Any]) -> dict[str, Any]:
    faults = batch["faults"] or [{}]
    return {**batch, "batch_id": batch_name(UUID(batch["batch_id"])), "fault": faults[0].get("message")}


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "batch.list": Operation(BatchesOf, list_batches),
    "batch.show": Operation(BatchNamed, show_batch),
    "batch.cancel": Operation(BatchNamed, cancel_batch),
}
