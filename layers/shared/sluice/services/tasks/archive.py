"""Archiving: whole months of old requests are moved to the archive."""

from sluice.services.tasks.context import TaskContext


def run(context: TaskContext) -> dict[str, list[str]]:
    """Run the task once."""
    return {"archived": context.maintenance.archive_months(context.archive_after_days)}
