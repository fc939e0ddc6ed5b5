"""The scheduled tasks: each by name, so that a schedule, a person and a test run the same."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.arguments import RollupTask
from sluice.db.connection import Database, Row
from sluice.errors import DatabaseError, SluiceError
from sluice.queue import Message, Sender
from sluice.services.dispatch import send_or_undispatch
from sluice.services.verify import verify

logger = logging.getLogger(__name__)

# Bounds one run; what is left is the next minute's.
SWEEP_AT_MOST: Final = 5000
# A message needs some time to appear in the queue's counts.
REDISPATCH_GRACE_SECONDS: Final = 60
# A request that has been out for so long without being claimed is sent again whatever the queue's counts say.
REDISPATCH_LONG_SECONDS: Final = 900
# Idempotency keys that one run deletes.
EXPIRE_AT_MOST: Final = 100_000
# Rows of the audit log that one batch of the chain seals, and batches that one run adds.
SEAL_AT_MOST: Final = 10_000
SEALS_AT_MOST: Final = 100


@dataclass(frozen=True)
class Context:
    """What tasks work with.

    Attributes:
        full, head: see verify().
    """

    database: Database
    queue: Sender
    archive_after_days: int
    full: bool = False
    head: str | None = None


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


def expire(context: Context) -> dict[str, int]:
    """Delete idempotency keys whose time is over."""
    row = context.database.row("idempotency_expire", {"at_most": EXPIRE_AT_MOST}, repeatable=True)
    return {"idempotency_keys": row["expired"]}


def audit(context: Context) -> dict[str, Any]:
    """Seal what is new in the audit log, and log the chain's head: the copy of it that is outside the database."""
    sealed = 0
    head = None
    for _ in range(SEALS_AT_MOST):
        batch = context.database.row("audit_seal", {"at_most": SEAL_AT_MOST}, repeatable=True)
        sealed += batch["sealed"]
        head = batch["head"]
        if not batch["is_more"]:
            break
    logger.info("audit head", extra={"head": head, "sealed": sealed})
    return {"sealed": sealed, "head": head}


def check(context: Context) -> dict[str, Any]:
    """Verify that the books balance and that the audit log is what was sealed."""
    return verify(context.database, full=context.full, head=context.head)


TASKS: Final[dict[RollupTask, Callable[[Context], dict[str, Any]]]] = {
    "recover": recover,
    "usage": usage,
    "stats": stats,
    "partitions": partitions,
    "archive": archive,
    "expire": expire,
    "audit": audit,
    "verify": check,
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
