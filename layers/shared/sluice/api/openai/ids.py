"""Ids in OpenAI's form: each is made of the request's id in the ledger, so nothing else is stored or looked up."""

import re
from typing import Final
from uuid import UUID

_HEX: Final = "[0-9a-f]{32}"
_RESPONSE: Final = re.compile(rf"resp_({_HEX})", re.ASCII)
_ITEM: Final = re.compile(rf"(?:msg|fc|rs)_({_HEX})([0-9a-f]{{4}})", re.ASCII)
# Where the numbers of what was asked begin: an answer has fewer items.
_ASKED: Final = 0x8000


def response_id(request_id: UUID) -> str:
    """The id of a response."""
    return f"resp_{request_id.hex}"


def completion_id(request_id: UUID) -> str:
    """The id of a chat completion."""
    return f"chatcmpl-{request_id.hex}"


def request_of(given: str) -> UUID | None:
    """The request that a response's id names; None if it is none."""
    found = _RESPONSE.fullmatch(given)
    return UUID(found[1]) if found else None


def answer_item_id(prefix: str, request_id: UUID, number: int) -> str:
    """The id of an item of an answer.

    Args:
        prefix: msg (message), fc (call of a function), rs (reasoning).
        number: which item it is in the stored answer, from 0.
    """
    return f"{prefix}_{request_id.hex}{number:04x}"


def asked_item_id(prefix: str, request_id: UUID, number: int) -> str:
    """The id of an item of what was asked; number: from 0."""
    return f"{prefix}_{request_id.hex}{_ASKED + number:04x}"


def answer_item_of(given: str) -> tuple[UUID, int] | None:
    """The request and the number of the answer's item that an id names; None if it names none."""
    found = _ITEM.fullmatch(given)
    if found is None or int(found[2], 16) >= _ASKED:
        return None
    return UUID(found[1]), int(found[2], 16)
