"""Closing months: the statements of users whose month is over and has no unfinished request."""

import logging
from typing import Final

from sluice.domain.errors import SluiceError
from sluice.services.invoices import close_month
from sluice.services.tasks.context import TaskContext

logger = logging.getLogger(__name__)

# Months that one run closes at most; the next day's run closes the rest.
LIMIT: Final = 10_000


def run(context: TaskContext) -> dict[str, int]:
    """Close what is due. A month whose prices are in several currencies stays open: it has no total.

    A month that was due for adjustments which are billed elsewhere, or are none any more, is passed over.
    """
    statements, figures = context.maintenance.statements, {"closed": 0, "open": 0}
    for due in statements.due(LIMIT):
        try:
            closed = close_month(statements, due.user_id, due.month, actor="rollup")
        except SluiceError as error:
            if not error.is_refusal:
                raise
            logger.warning("month stays open", extra={"user_id": due.user_id, "code": error.code})
            closed = None
        if closed is not None and "statement_id" not in closed:
            statements.skip(due.user_id)
        else:
            figures["open" if closed is None else "closed"] += 1
    return figures
