"""Expiry: idempotency keys whose time is over are deleted."""

from typing import Final

from sluice.services.tasks.context import TaskContext

# Keys that one run deletes.
LIMIT: Final = 100_000


def run(context: TaskContext) -> dict[str, int]:
    """Run the task once."""
    return {"idempotency_keys": context.maintenance.expire_idempotency_keys(LIMIT)}
