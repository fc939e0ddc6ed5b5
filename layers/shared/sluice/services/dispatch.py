"""Sending the messages of requests that the database has marked as dispatched."""

import logging
from collections.abc import Sequence

from sluice.db.connection import Database
from sluice.errors import SluiceError
from sluice.queue import Message, Sender

logger = logging.getLogger(__name__)


def send_or_undispatch(database: Database, queue: Sender, messages: Sequence[Message]) -> int:
    """Send messages and leave those that could not be sent to the sweep; how many were sent."""
    unsent = queue.send(messages) if messages else []
    if unsent:
        try:
            database.rows("request_undispatch", {"ids": unsent}, repeatable=True)
        except SluiceError:
            # They stay marked as sent; the sweep finds them missing from the queue and sends them somewhat later.
            logger.warning("unsent requests could not be marked", extra={"requests": len(unsent)})
    return len(messages) - len(unsent)
