"""The scheduled tasks: each by name, so that a schedule, a person and a test run the same."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.db.connection import Database, Row
from sluice.errors import DatabaseError, SluiceError
from sluice.models import RollupTask
from sluice.queue import Message, Sender
from sluice.services.dispatch import send_or_undispatch

logger = logging.getLogger(__name__)

# Bounds one run; what is left is the next minute's.
SWEEP_AT_MOST: Final = 5000
# A message needs some time to appear in the queue's counts.
REDISPATCH_GRACE_SECONDS: Final = 60
# A request that has been out for so long without being claimed is sent again whatever the queue's counts say.
REDISPATCH_LONG_SECONDS: Final = 900


@dataclass(frozen=True)
class Context:
    """What tasks work with."""

    database: Database
    queue: Sender
    archive_after_days: int


def recover(context: Context) -> dict[str, int]:
    """Take back expired claims, end what is out of time, send what has no message or lost it."""
    done = context.database.row("request_recover", {"at_most": SWEEP_AT_MOST}, repeatable=True)
    waiting = context.database.rows("request_dispatch", {"at_most": SWEEP_AT_MOST}, repeatable=True)
    dispatched = _send(context, waiting)
    redispatched = 0
    depth = context.queue.depth()
    if depth is not None:
        lost = context.database.rows(
            "request_redispatch",
            {
                "queue_depth": depth,
                "grace_seconds": REDISPATCH_GRACE_SECONDS,
                "long_seconds": REDISPATCH_LONG_SECONDS,
                "at_most": SWEEP_AT_MOST,
            },
        )
        redispatched = _send(context, lost)
    return dict(done) | {"dispatched": dispatched, "redispatched": redispatched}


def usage(context: Context) -> dict[str, int]:
    """Add what is new to usage and usage_by_model."""
    return context.database.row("rollup_usage")


def stats(context: Context) -> dict[str, int]:
    """Add what is new to request_stats."""
    return context.database.row("rollup_stats")


def partitions(context: Context) -> dict[str, list[str]]:
    """Make this month's and the next months' partitions where they are missing."""
    rows = context.database.rows("partitions_ensure", repeatable=True)
    return {"created": [row["name"] for row in rows]}


def archive(context: Context) -> dict[str, list[str]]:
    """Move whole months of old requests to the archive."""
    rows = context.database.rows("archive_months", {"older_than_days": context.archive_after_days}, repeatable=True)
    return {"archived": [row["name"] for row in rows]}


TASKS: Final[dict[RollupTask, Callable[[Context], dict[str, Any]]]] = {
    "recover": recover,
    "usage": usage,
    "stats": stats,
    "partitions": partitions,
    "archive": archive,
}


def run(context: Context, names: Sequence[RollupTask]) -> dict[str, dict[str, Any]]:
    """Run tasks in the order given, all of them even if one fails.

    Returns:
        each task's figures.

    Raises:
        SluiceError: task_failed, naming the failed and with the others' figures.
    """
    figures: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            figures[name] = TASKS[name](context)
        except (SluiceError, DatabaseError) as error:
            logger.error("task failed", extra={"task": name, "error": str(error)})
            failed[name] = str(error)
    if failed:
        raise SluiceError("task_failed", f"Failed: {', '.join(failed)}.", failed=failed, done=figures)
    return figures


def _send(context: Context, rows: Sequence[Row]) -> int:
    messages = [Message(row["request_id"], row["user_id"]) for row in rows]
    return send_or_undispatch(context.database, context.queue, messages)
