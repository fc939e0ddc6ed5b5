"""Cancelling a request."""

from uuid import UUID

from sluice.db.connection import Database
from sluice.errors import SluiceError
from sluice.queue import Message, Sender
from sluice.services.access import refuse_unless_allowed
from sluice.services.dispatch import send_or_undispatch


def cancel(database: Database, queue: Sender, key_hash: bytes, request_id: UUID | None) -> str:
    """Cancel a request of the caller: at once where no worker has it, else when its worker has answered.

    Args:
        request_id: None where what the caller gave is no id; the key is looked at all the same.

    Returns:
        its status: cancelled, or still processing.

    Raises:
        SluiceError: request_not_found, also for another user's; request_finished; what key_check finds;
            database_unavailable.
    """
    row = database.row("request_cancel", {"key_hash": key_hash, "request_id": request_id}, repeatable=True)
    if row["outcome"] == "request_finished":
        raise SluiceError(
            "request_finished", f"The request is {row['status']} and cannot be cancelled.", request_status=row["status"]
        )
    refuse_unless_allowed(row["outcome"])
    if row["outcome"] == "request_not_found":
        raise SluiceError("request_not_found", "You have no request with this id.")
    send_or_undispatch(database, queue, [Message(next_id, row["user_id"]) for next_id in row["send"]])
    return str(row["status"])
