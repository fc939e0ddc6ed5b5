"""Recovery, every minute: nothing that was accepted is ever forgotten."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from sluice.domain.requests import DispatchedRequest
from sluice.messaging import Message, requested_id
from sluice.services.dispatch import send_or_undispatch
from sluice.services.tasks.context import TaskContext

logger = logging.getLogger(__name__)

# Requests that one run handles, by kind; the next minute's run handles the rest.
LIMIT: Final = 5000
# Of requests dispatched so long ago and not claimed, a few are sent again whatever the queue's counts say.
LONG_SECONDS: Final = 900
# Receives of ten dead letters each that one run makes.
DEAD_LETTER_RECEIVES: Final = 100


def run(context: TaskContext) -> dict[str, int]:
    """Take back expired claims, end what is out of time, send requests whose message is missing, lost or dead, and have
    the webhooks sent and the batches worked on that are due."""
    figures = asdict(context.maintenance.recover(LIMIT))
    figures["dispatched"] = _send(context, context.ledger.dispatch(LIMIT))
    figures["redispatched"] = 0
    figures |= _revive(context)
    depth = context.queue.depth()
    if depth is not None:
        lost = context.ledger.redispatch(
            depth, grace_seconds=context.redispatch_grace_seconds, long_seconds=LONG_SECONDS, limit=LIMIT
        )
        figures["redispatched"] = _send(context, lost)
    webhooks = context.maintenance.recover_webhooks(LIMIT)
    if webhooks.due and context.webhook_queue is not None:
        context.webhook_queue.wake()
    figures |= {"webhooks_due": webhooks.due, "webhooks_dead": webhooks.dead}
    figures["batches_due"] = context.maintenance.due_batches()
    if figures["batches_due"] and context.batch_queue is not None:
        context.batch_queue.wake()
    return figures


def _revive(context: TaskContext) -> dict[str, int]:
    """Read the dead letters: send those again whose requests wait for them, delete what can be read, leave the rest.

    A request without attempts left has failed before, with a reason; here its message is only deleted.
    """
    revived = unreadable = 0
    seen: set[str] = set()
    for _ in range(DEAD_LETTER_RECEIVES):
        received = context.dead_letters.receive()
        if not received or seen.issuperset(letter.message_id for letter in received):
            break
        seen.update(letter.message_id for letter in received)
        named = {letter: request_id for letter in received if (request_id := requested_id(letter)) is not None}
        unreadable += len(received) - len(named)
        revived += _send(context, context.ledger.resend(list(named.values())))
        context.dead_letters.delete(list(named))
    if unreadable:
        logger.error("unreadable dead letters", extra={"messages": unreadable})
    return {"revived": revived, "unreadable": unreadable}


def _send(context: TaskContext, requests: Sequence[DispatchedRequest]) -> int:
    messages = [Message(request.request_id, request.user_id) for request in requests]
    return send_or_undispatch(context.ledger, context.queue, messages)
