"""Waiting for the end of a request: cheap looks at the database, a few a second."""

import time
from typing import Final
from uuid import UUID

from sluice.db.ledger import Ledger

LOOK_SECONDS: Final = 0.25
LONGEST_SECONDS: Final = 25
"""API Gateway gives up after 30 s, and starting an environment may be a part of them."""


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


def wait_in_a_slot(ledger: Ledger, request_id: UUID, seconds: float) -> bool:
    """Wait in a function that others need: only if few enough callers wait there already.

    Returns:
        True: it waited. Whether the request has ended is to be looked up.

    Raises:
        SluiceError: database_unavailable.
    """
    deadline = time.monotonic() + min(seconds, LONGEST_SECONDS)
    slot = ledger.begin_waiting()
    if slot is None:
        return False
    try:
        wait_until_ended(ledger, request_id, deadline)
    finally:
        ledger.end_waiting(slot)
    return True
