"""Verification: the ledger's invariants and the audit log's chain."""

from typing import Any

from sluice.services.tasks.context import TaskContext
from sluice.services.verify import verify


def run(context: TaskContext) -> dict[str, Any]:
    """Verify that the books balance and that the audit log is what was sealed."""
    return verify(context.maintenance, full=context.full, head=context.head)
