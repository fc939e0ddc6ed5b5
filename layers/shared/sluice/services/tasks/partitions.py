"""Partitions: this month's and the next months' are made where they are missing."""

from sluice.services.tasks.context import TaskContext


def run(context: TaskContext) -> dict[str, list[str]]:
    """Run the task once."""
    return {"created": context.maintenance.ensure_partitions()}
