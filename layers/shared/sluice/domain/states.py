"""The states of a request and the legal changes between them. PostgreSQL makes the changes (sql/functions)."""

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
        """True if no further change follows, but for a redrive of a failed request."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    # A queued request can fail: its lifetime may end between two attempts.
    Status.QUEUED: frozenset({Status.PROCESSING, Status.CANCELLED, Status.EXPIRED, Status.FAILED}),
    Status.PROCESSING: frozenset({Status.QUEUED, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.EXPIRED: frozenset(),
}
