"""Waiting for the end of a request: cheap looks at the database, a few a second."""

import time
from typing import Final
from uuid import UUID

from sluice.db.ledger import Ledger

LOOK_SECONDS: Final = 0.25


def wait_until_ended(ledger: Ledger, request_id: UUID, deadline: float) -> bool:
    """Wait until a request has ended, and look once in any case; False if it has not.

    Args:
        deadline: by time.monotonic().

    Raises:
        SluiceError: database_unavailable.
    """
    while not ledger.ended(request_id):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(LOOK_SECONDS, left))
    return True
