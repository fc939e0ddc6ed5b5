"""The states of a request and the changes between them that are legal. PostgreSQL makes the changes (sql/functions)."""

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """No further change follows."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    # A queued request can fail: its lifetime may end between two attempts.
    Status.QUEUED: frozenset({Status.PROCESSING, Status.CANCELLED, Status.EXPIRED, Status.FAILED}),
    Status.PROCESSING: frozenset({Status.QUEUED, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    # Until an operator redrives it, which begins another life.
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.EXPIRED: frozenset(),
}
