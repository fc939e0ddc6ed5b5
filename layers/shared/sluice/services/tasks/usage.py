"""Usage: adds what is new in the audit log to the figures by user, model, day and month."""

from sluice.services.tasks.context import TaskContext


def run(context: TaskContext) -> dict[str, int]:
    """Run the task once."""
    return {"changed": context.maintenance.rollup_usage()}
