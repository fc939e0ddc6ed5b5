"""API keys: 256 random bits behind a prefix that people and secret scanners recognise."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "sluice_"
_RANDOM_BYTES: Final = 32
# 32 bytes are 43 characters of unpadded base64url (RFC 4648, 5).
_FORM: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
_SHOWN: Final = len(PREFIX) + 6


@dataclass(frozen=True)
class NewKey:
    """A key that exists only here and in its owner's hands.

    Attributes:
        shown: the prefix by which people tell keys apart; it is not secret.
    """

    secret: str
    shown: str
    digest: bytes


def new_key() -> NewKey:
    """Make a key."""
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return NewKey(secret, secret[:_SHOWN], digest(secret))


def is_well_formed(key: str) -> bool:
    """Return True if a text has the form of a key; others need not be looked up."""
    return _FORM.fullmatch(key) is not None


def digest(key: str) -> bytes:
    """The hash under which a key is stored. SHA-256 without salt or stretching: 256 random bits cannot be guessed."""
    return hashlib.sha256(key.encode()).digest()
