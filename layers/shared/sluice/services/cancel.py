"""Cancelling a request."""

from dataclasses import dataclass
from uuid import UUID

from sluice.db.ledger import Ledger
from sluice.domain.errors import SluiceError
from sluice.domain.states import Status
from sluice.messaging import Message, Sender
from sluice.services.access import refuse_unless_allowed
from sluice.services.dispatch import send_or_undispatch


@dataclass(frozen=True)
class Canceller:
    """Cancels requests of their own users."""

    ledger: Ledger
    queue: Sender

    def cancel(self, key_hash: bytes, request_id: UUID | None) -> Status:
        """Cancel a request of the caller: at once if no worker has it, else when its worker has answered.

        Args:
            request_id: None if what the caller gave is not an id; the key is checked all the same.

        Returns:
            its status: cancelled, or still processing.

        Raises:
            SluiceError: request_not_found, also for another user's; request_finished; what key_check finds;
                database_unavailable.
        """
        done = self.ledger.cancel(key_hash, request_id)
        if done.outcome == "request_finished":
            raise SluiceError(
                "request_finished", f"The request is {done.status} and cannot be cancelled.", request_status=done.status
            )
        refuse_unless_allowed(done.outcome)
        if done.outcome == "request_not_found" or done.status is None or done.user_id is None:
            raise SluiceError("request_not_found", "You have no request with this id.")
        send_or_undispatch(self.ledger, self.queue, [Message(next_id, done.user_id) for next_id in done.send])
        return done.status
