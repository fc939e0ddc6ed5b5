"""Erasing what a request asked and was answered."""

from dataclasses import dataclass
from uuid import UUID

from sluice.db.ledger import Ledger
from sluice.domain.errors import SluiceError
from sluice.messaging import Message, Sender
from sluice.services.access import refuse_unless_allowed
from sluice.services.dispatch import send_or_undispatch


@dataclass(frozen=True)
class Eraser:
    """Erases the content of requests of their own users; what they used and cost stays."""

    ledger: Ledger
    queue: Sender

    def erase(self, key_hash: bytes, request_id: UUID | None) -> None:
        """Erase a request of the caller, and cancel it first if it is unfinished.

        Args:
            request_id: None if what the caller gave is not an id; the key is checked all the same.

        Raises:
            SluiceError: request_not_found, also for another user's and an erased one; what key_check finds;
                database_unavailable.
        """
        done = self.ledger.erase(key_hash, request_id)
        refuse_unless_allowed(done.outcome)
        if done.outcome == "request_not_found" or done.user_id is None:
            raise SluiceError("request_not_found", "You have no request with this id.")
        send_or_undispatch(self.ledger, self.queue, [Message(next_id, done.user_id) for next_id in done.send])
