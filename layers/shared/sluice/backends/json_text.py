"""JSON that a client wrote, which the documents keep as text and a server wants as a value; and JSON for a server."""

import json
from typing import Any, Final

from sluice.backends.protocol import ModelError

# Servers refuse less, and what is nested a thousand deep cannot be written again.
_DEEPEST: Final = 100


def parsed(text: str) -> Any:
    """The value, its members in the order in which they were written.

    Raises:
        ModelError: model_rejected, the text is not JSON, or no server would read it.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ModelError("model_rejected") from None
    if not _is_shallow(value, _DEEPEST):
        raise ModelError("model_rejected")
    return value


def written(value: Any) -> str:
    """The value as JSON for a server.

    Raises:
        ModelError: model_rejected, it cannot be written.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        # A number in a schema that is too large for Python; no server would read what it becomes.
        raise ModelError("model_rejected") from None


def _refuse(_: str) -> Any:
    # NaN and Infinity, which Python would read.
    raise ValueError


def _is_shallow(value: Any, levels: int) -> bool:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(member, levels - 1) for member in members)
