"""Audit: what is new in the audit log is sealed, and the chain's head is logged, a copy outside of the database."""

import logging
from typing import Any, Final

from sluice.services.tasks.context import TaskContext

logger = logging.getLogger(__name__)

# Rows that one batch of the chain seals, and batches that one run adds.
ROWS_PER_BATCH: Final = 10_000
BATCHES: Final = 100


def run(context: TaskContext) -> dict[str, Any]:
    """Seal what is new and log the chain's head."""
    sealed = 0
    head = None
    for _ in range(BATCHES):
        batch = context.maintenance.seal_audit(ROWS_PER_BATCH)
        sealed += batch.sealed
        head = batch.head
        if not batch.is_more:
            break
    logger.info("audit head", extra={"head": head, "sealed": sealed})
    return {"sealed": sealed, "head": head}
