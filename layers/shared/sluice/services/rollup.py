"""The scheduled tasks: each by name, so that a schedule, a person and a test run the same."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic import ValidationError

from sluice.arguments import RollupTask
from sluice.db.connection import Database, Row
from sluice.errors import DatabaseError, SluiceError
from sluice.models import QueueMessage
from sluice.queue import DeadLetters, Delivery, Message, Sender
from sluice.services.dispatch import send_or_undispatch
from sluice.services.verify import verify

logger = logging.getLogger(__name__)

# Bounds one run; what is left is the next minute's.
SWEEP_AT_MOST: Final = 5000
# Of what has been out for so long without being claimed, a little is sent again whatever the queue's counts say.
REDISPATCH_LONG_SECONDS: Final = 900
# Receives of ten dead letters each that one run makes.
DEAD_LETTER_RECEIVES: Final = 100
# Idempotency keys that one run deletes.
EXPIRE_AT_MOST: Final = 100_000
# Rows of the audit log that one batch of the chain seals, and batches that one run adds.
SEAL_AT_MOST: Final = 10_000
SEALS_AT_MOST: Final = 100


@dataclass(frozen=True)
class Context:
    """What tasks work with.

    Attributes:
        redispatch_grace_seconds: how long a message may need to appear in the queue's counts.
        full, head: see verify().
    """

    database: Database
    queue: Sender
    dead_letters: DeadLetters
    archive_after_days: int
    redispatch_grace_seconds: int
    full: bool = False
    head: str | None = None


def recover(context: Context) -> dict[str, int]:
    """Take back expired claims, end what is out of time, send what has no message, or lost it, or has a dead one."""
    swept = context.database.row("request_sweep", {"at_most": SWEEP_AT_MOST}, repeatable=True)
    waiting = context.database.rows("request_dispatch", {"at_most": SWEEP_AT_MOST}, repeatable=True)
    figures = dict(swept) | {"dispatched": _send(context, waiting), "redispatched": 0} | _revive(context)
    depth = context.queue.depth()
    if depth is not None:
        lost = context.database.rows(
            "request_redispatch",
            {
                "queue_depth": depth,
                "grace_seconds": context.redispatch_grace_seconds,
                "long_seconds": REDISPATCH_LONG_SECONDS,
                "at_most": SWEEP_AT_MOST,
            },
        )
        figures["redispatched"] = _send(context, lost)
    return figures


def _revive(context: Context) -> dict[str, int]:
    """Read the dead letters: send those again whose requests wait for them, remove what can be read, leave the rest.

    A request without attempts left has failed in the sweep before, with a reason; here its message is only removed.
    """
    revived = unreadable = 0
    seen: set[str] = set()
    for _ in range(DEAD_LETTER_RECEIVES):
        received = context.dead_letters.receive()
        if not received or seen.issuperset(letter.message_id for letter in received):
            break
        seen.update(letter.message_id for letter in received)
        named = {letter: request_id for letter in received if (request_id := _named(letter)) is not None}
        unreadable += len(received) - len(named)
        waiting = context.database.rows("request_resend", {"ids": list(named.values())}, repeatable=True)
        revived += _send(context, waiting)
        context.dead_letters.delete(list(named))
    if unreadable:
        logger.error("unreadable dead letters", extra={"messages": unreadable})
    return {"revived": revived, "unreadable": unreadable}


def _named(letter: Delivery) -> UUID | None:
    try:
        return QueueMessage.model_validate_json(letter.body).request_id
    except ValidationError:
        return None


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
