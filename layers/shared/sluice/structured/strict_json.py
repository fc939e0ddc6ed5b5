"""JSON that a client or a model wrote, read without the liberties that Python's reader takes."""

import json
import math
from typing import Any, Final

_LONGEST_NAME: Final = 60


class StrictJsonError(ValueError):
    """A text is no JSON, or none that every reader reads alike and PostgreSQL can keep.

    Attributes:
        reason: one sentence that says what is wrong; may quote a member's name.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parsed(text: str, deepest: int) -> Any:
    """Read a JSON text.

    Refused beside what is no JSON: NaN and Infinity, numbers too large for a double, a member that is there twice, and
    U+0000 and halves of surrogate pairs, which JSONB cannot hold.

    Args:
        deepest: how many objects and arrays may lie in each other.

    Raises:
        StrictJsonError: see above.
    """
    try:
        value = json.loads(
            text, parse_constant=_refuse, parse_float=_float, parse_int=_int, object_pairs_hook=_object_once
        )
    except json.JSONDecodeError as error:
        # Its words are Python's own and quote nothing.
        raise StrictJsonError(f"It is not JSON: {error.msg}, at line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise StrictJsonError(_too_deep(deepest)) from None
    _check_values(value, deepest)
    return value


def _refuse(constant: str) -> Any:
    raise StrictJsonError(f"It is not JSON: {constant} is no number there.")


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise StrictJsonError("It has a number that is too large.")
    return number


def _int(digits: str) -> int:
    _float(digits)  # first, because Python refuses to read an integer of thousands of digits
    return int(digits)


def _object_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, member in members:
        if name in value:
            shown = json.dumps(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…")
            raise StrictJsonError(f"The member {shown} is there twice.")
        value[name] = member
    return value


def _too_deep(deepest: int) -> str:
    return f"It is nested too deeply: {deepest} levels are allowed."


def _check_values(value: Any, deepest: int) -> None:
    """Check depth and texts, level by level: the depth of the value is not the depth of calls."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for one in level:
            if isinstance(one, str):
                _check_text(one)
            elif isinstance(one, dict | list):
                if depth == deepest:
                    raise StrictJsonError(_too_deep(deepest))
                if isinstance(one, dict):
                    for name in one:
                        _check_text(name)
                inner += one.values() if isinstance(one, dict) else one
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StrictJsonError("It has half of a surrogate pair, which cannot be stored.") from None
    if "\0" in text:
        raise StrictJsonError("It has the character U+0000, which cannot be stored.")
