"""What tasks work with."""

from dataclasses import dataclass

from sluice.db.ledger import Ledger
from sluice.db.maintenance import Maintenance
from sluice.messaging import DeadLetters, Sender, Waker
from sluice.storage import Storage


@dataclass(frozen=True)
class TaskContext:
    """What tasks work with.

    Attributes:
        redispatch_grace_seconds: how long a message may need to appear in the queue's counts.
        full, head: see verify().
        storage: the bucket; None: there is none.
        webhook_queue: is woken up when webhooks are due; None: nobody is.
        batch_queue: the same of batches.
    """

    ledger: Ledger
    maintenance: Maintenance
    queue: Sender
    dead_letters: DeadLetters
    archive_after_days: int
    redispatch_grace_seconds: int
    full: bool = False
    head: str | None = None
    storage: Storage | None = None
    webhook_queue: Waker | None = None
    batch_queue: Waker | None = None
