"""Operations on the audit log, verification and the scheduled tasks."""

from dataclasses import asdict
from typing import Annotated, Any, Final

from pydantic import StringConstraints

from sluice.domain.fields import ChainHead, Id, PageSize, Strict, Time, UserId
from sluice.services.admin.operation import AdminContext, Operation
from sluice.services.read import read_page
from sluice.services.tasks.run import TasksEvent


class AuditList(Strict):
    user_id: UserId | None = None
    request_id: Id | None = None
    action: Annotated[str, StringConstraints(pattern=r"^[a-z_.]+$", max_length=50)] | None = None
    start: Time | None = None
    end: Time | None = None
    after: Id | None = None
    limit: PageSize = 100


class Verify(Strict):
    full: bool = False
    head: ChainHead | None = None


def list_audit(context: AdminContext, given: AuditList) -> dict[str, Any]:
    filters = given.model_dump(exclude={"limit"})
    page = read_page(lambda limit: context.administration.audit(**filters, limit=limit), given.limit)
    return {
        "entries": [asdict(entry) for entry in page.items],
        "next_cursor": page.items[-1].audit_id if page.has_next else None,
    }


def run_verify(context: AdminContext, given: Verify) -> Any:
    return context.run_rollup({"tasks": ["verify"]} | given.model_dump())["verify"]


def run_rollup(context: AdminContext, given: TasksEvent) -> Any:
    context.administration.note("rollup.run", {"tasks": given.tasks})
    return context.run_rollup(given.model_dump())


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    "audit.list": Operation(AuditList, list_audit),
    "verify": Operation(Verify, run_verify),
    "rollup.run": Operation(TasksEvent, run_rollup),
}
