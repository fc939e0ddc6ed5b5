"""Expiry: idempotency keys, cached answers and events of webhooks whose time is over are deleted."""

from typing import Final

from sluice.services.tasks.context import TaskContext

# Keys, cached answers, and events, that one run deletes.
LIMIT: Final = 100_000


def run(context: TaskContext) -> dict[str, int]:
    """Run the task once."""
    return {
        "idempotency_keys": context.maintenance.expire_idempotency_keys(LIMIT),
        "cached_answers": context.maintenance.expire_cached_answers(LIMIT),
        "webhook_events": context.maintenance.expire_webhooks(LIMIT),
    }
