"""Sending the messages of requests that the database has marked as dispatched."""

import logging
from collections.abc import Sequence

from sluice.db.ledger import Ledger
from sluice.domain.errors import SluiceError
from sluice.messaging import Message, Sender

logger = logging.getLogger(__name__)


def send_or_undispatch(ledger: Ledger, queue: Sender, messages: Sequence[Message]) -> int:
    """Send messages and leave those that could not be sent to the recovery task; returns how many were sent."""
    unsent = queue.send(messages) if messages else []
    if unsent:
        try:
            ledger.undispatch(unsent)
        except SluiceError:
            # They stay marked as sent; the recovery task finds them missing from the queue and sends them later.
            logger.warning("unsent requests could not be marked", extra={"requests": len(unsent)})
    return len(messages) - len(unsent)
