"""Operations on requests: list, cancel, redrive."""

from dataclasses import asdict
from typing import Annotated, Any, Final, Self

from pydantic import Field, StringConstraints, model_validator

from sluice.domain.documents import FinishReason
from sluice.domain.fields import Id, PageSize, Strict, Time, UserId
from sluice.domain.states import Status
from sluice.services.admin.operation import AdminContext, Operation, database_operation
from sluice.services.read import read_page

ErrorCode = Annotated[str, StringConstraints(pattern=r"^[a-z_]+$", max_length=50)]
"""An error code of a request; sluice.domain.failures lists them."""


class RequestNamed(Strict):
    request_id: Id


class RequestList(Strict):
    """Newest first, of those that are not archived; start and end are times of acceptance, end not included."""

    user_id: UserId | None = None
    status: Status | None = None
    error_code: ErrorCode | None = None
    finish_reason: FinishReason | None = None
    start: Time | None = None
    end: Time | None = None
    before: Id | None = None
    limit: PageSize = 100


class RequestRedrive(Strict):
    """One failed request; or a page of those that failed for a reason in a period, of one user or of all.

    Attributes:
        start, end: when they failed, end not included.
        after: the next_cursor of the page before.
        dry_run: only say which.
    """

    request_id: Id | None = None
    error_code: ErrorCode | None = None
    start: Time | None = None
    end: Time | None = None
    user_id: UserId | None = None
    after: Id | None = None
    limit: PageSize = Field(default=1000)
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if self.request_id is not None:
            if self.error_code or self.start or self.end or self.user_id or self.after:
                raise ValueError("give request_id alone, or error_code, start and end")
        elif self.error_code is None or self.start is None or self.end is None:
            raise ValueError("give request_id; or error_code, start and end")
        elif self.end <= self.start:
            raise ValueError("start must be before end")
        return self


def list_requests(context: AdminContext, given: RequestList) -> dict[str, Any]:
    filters = given.model_dump(exclude={"limit"})
    page = read_page(lambda limit: context.administration.requests(**filters, limit=limit), given.limit)
    return {
        "requests": [asdict(request) for request in page.items],
        "next_cursor": page.items[-1].request_id if page.has_next else None,
    }


def redrive_requests(context: AdminContext, given: RequestRedrive) -> Any:
    lifetime = {"ttl_seconds": context.longest_seconds, "max_attempts": context.max_attempts}
    return context.administration.run("request.redrive", given.model_dump(mode="json") | lifetime)


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "request.list": Operation(RequestList, list_requests),
    "request.get": database_operation("request.get", RequestNamed),
    "request.cancel": database_operation("request.cancel", RequestNamed),
    "request.redrive": Operation(RequestRedrive, redrive_requests),
}
