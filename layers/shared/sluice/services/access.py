"""Refusals of callers: what the database found wrong with a key, as errors."""

from typing import Final

from sluice.domain.errors import SluiceError

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
