"""Running tasks by name, so that a schedule, a person and a test run the same."""

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Any, Final

from pydantic import Field

from sluice.domain.errors import DatabaseError, SluiceError
from sluice.domain.fields import ChainHead, Strict, one_of
from sluice.services import tasks
from sluice.services.tasks.context import TaskContext

logger = logging.getLogger(__name__)

Task = Callable[[TaskContext], dict[str, Any]]
_NOT_TASKS: Final = {"context", "run"}


def _find_tasks() -> dict[str, Task]:
    """The function run() of every other module of this package, by the module's name: a new file is a new task."""
    names = [module.name for module in iter_modules(tasks.__path__) if module.name not in _NOT_TASKS]
    return {name: import_module(f"{tasks.__name__}.{name}").run for name in names}


TASKS: Final[dict[str, Task]] = _find_tasks()


class TasksEvent(Strict):
    """What RollupFunction is invoked with.

    Attributes:
        tasks: to run, in this order.
        full: verify: everything, not only what is new.
        head: verify: must still be in the audit log's chain.
    """

    tasks: Annotated[list[Annotated[str, one_of(TASKS)]], Field(min_length=1)]
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
