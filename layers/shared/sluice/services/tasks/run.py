"""Running tasks by name, so that a schedule, a person and a test run the same."""

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from sluice.domain.errors import DatabaseError, SluiceError
from sluice.domain.fields import ChainHead, Strict
from sluice.services.tasks import archive, audit, expire, partitions, recover, stats, usage, verify
from sluice.services.tasks.context import TaskContext

logger = logging.getLogger(__name__)

TASKS: Final[dict[str, Callable[[TaskContext], dict[str, Any]]]] = {
    "recover": recover.run,
    "usage": usage.run,
    "stats": stats.run,
    "partitions": partitions.run,
    "archive": archive.run,
    "expire": expire.run,
    "audit": audit.run,
    "verify": verify.run,
}


def _known(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"must be one of {', '.join(TASKS)}")
    return name


class TasksEvent(Strict):
    """What RollupFunction is invoked with.

    Attributes:
        tasks: to run, in this order.
        full: verify: everything, not only what is new.
        head: verify: must still be in the audit log's chain.
    """

    tasks: Annotated[list[Annotated[str, AfterValidator(_known)]], Field(min_length=1)]
    full: bool = False
    head: ChainHead | None = None


def run_tasks(context: TaskContext, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run tasks in the order given, all of them even if one fails.

    Returns:
        each task's figures.

    Raises:
        SluiceError: task_failed, naming the failed and with the others' figures.
    """
    figures: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            figures[name] = TASKS[name](context)
        except (SluiceError, DatabaseError) as error:
            logger.error("task failed", extra={"task": name, "error": str(error)})
            failed[name] = str(error)
    if failed:
        raise SluiceError("task_failed", f"Failed: {', '.join(failed)}.", failed=failed, done=figures)
    return figures
