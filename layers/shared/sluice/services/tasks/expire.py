"""Expiry: idempotency keys, cached answers, events of webhooks, files, uploads and lines of batches are deleted when
their time is over."""

from typing import Final

from sluice.services.tasks.context import TaskContext

# Of each of these, how many one run deletes.
LIMIT: Final = 100_000


def run(context: TaskContext) -> dict[str, int]:
    """Run the task once."""
    return {
        "idempotency_keys": context.maintenance.expire_idempotency_keys(LIMIT),
        "cached_answers": context.maintenance.expire_cached_answers(LIMIT),
        "webhook_events": context.maintenance.expire_webhooks(LIMIT),
        "files": context.maintenance.expire_files(LIMIT),
        "batch_lines": context.maintenance.expire_batch_lines(LIMIT),
    }
