"""Refusals of callers: what the database found wrong with a key, as errors, and which keys it did not know lately."""

import time
from collections.abc import Callable
from typing import Final

from sluice.domain.errors import SluiceError

# A key that is made this soon after a client tried it works after this time, in environments that saw the attempt.
UNKNOWN_SECONDS: Final = 10.0
UNKNOWN_MOST: Final = 10_000

_DETAILS: Final = {
    "key_unknown": "This API key is not known here. Check that it was copied whole.",
    "key_revoked": "This API key was revoked. Ask for a new one.",
    "key_expired": "This API key has expired. Ask for a new one.",
    "user_inactive": "The user of this API key is not active.",
    "scope_missing": "This API key may not do that. Ask for one with the scope that it needs.",
}


def refuse_unless_allowed(outcome: str) -> None:
    """Raise what key_check found wrong.

    Raises:
        SluiceError: key_unknown, key_revoked, key_expired, user_inactive, scope_missing.
    """
    if outcome in _DETAILS:
        raise SluiceError(outcome, _DETAILS[outcome])


class UnknownKeys:
    """The digests of keys that the database did not know, so that a flood of wrong ones does not reach it.

    Each is remembered for some seconds; when there are too many, the oldest makes room. Keys that are
    revoked, expired or valid are looked up each time.

    Args:
        seconds: how long each is remembered.
        most: how many are.
        clock: seconds, never decreasing.
    """

    def __init__(
        self,
        seconds: float = UNKNOWN_SECONDS,
        most: int = UNKNOWN_MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._until: dict[bytes, float] = {}  # the oldest first

    def __contains__(self, key_hash: bytes) -> bool:
        return self._until.get(key_hash, float("-inf")) > self._clock()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, key_hash: bytes) -> None:
        """Remember a key that has just been looked up in vain."""
        self._until.pop(key_hash, None)
        while len(self._until) >= self._most:
            del self._until[next(iter(self._until))]
        self._until[key_hash] = self._clock() + self._seconds
