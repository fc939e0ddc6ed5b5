"""Expiry: idempotency keys and cached answers whose time is over are deleted."""

from typing import Final

from sluice.services.tasks.context import TaskContext

# Keys, and cached answers, that one run deletes.
LIMIT: Final = 100_000


def run(context: TaskContext) -> dict[str, int]:
    """Run the task once."""
    return {
        "idempotency_keys": context.maintenance.expire_idempotency_keys(LIMIT),
        "cached_answers": context.maintenance.expire_cached_answers(LIMIT),
    }
