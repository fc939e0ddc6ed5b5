"""Parts of an answer, and answers that the client has already: what RFC 9110 says in its sections 13 and 14."""

import re
from dataclasses import dataclass
from typing import Final

_RANGE: Final = re.compile(
    r"bytes[ \t]*=[ \t]*(?:(?P<first>\d+)-(?P<last>\d*)|-(?P<suffix>\d+))[ \t]*", re.ASCII | re.IGNORECASE
)
_TAG: Final = re.compile(r'(?:W/)?("[!#-~]*")', re.ASCII)
_STRONG_TAG: Final = re.compile(r'(?:W/"[!#-~]*")|("[!#-~]*")', re.ASCII)
# Longer than any answer; Python refuses to read numbers of thousands of digits.
_DIGITS: Final = 15


@dataclass(frozen=True)
class Span:
    """A part of an answer: bytes from `first` up to and with `last`, both from 0."""

    first: int
    last: int


class UnsatisfiableError(Exception):
    """The answer has no such part."""


def wanted_span(header: str | None, length: int) -> Span | None:
    """The part that a Range header asks for; None: all of it.

    None is also for several parts, for other units than bytes and for what cannot be read: a server may ignore these.

    Raises:
        UnsatisfiableError: nothing of it lies within the answer.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None:
        return None
    if found["suffix"] is not None:
        size = min(_number(found["suffix"]), length)
        if size == 0:
            raise UnsatisfiableError
        return Span(length - size, length - 1)
    first = _number(found["first"])
    last = _number(found["last"]) if found["last"] else length - 1
    if found["last"] and last < first:
        return None
    if first >= length:
        raise UnsatisfiableError
    return Span(first, min(last, length - 1))


def has_tag(header: str | None, tag: str) -> bool:
    """Whether If-None-Match names this entity tag, or any."""
    given = (header or "").strip()
    return given == "*" or tag in _TAG.findall(given)


def may_have_tag(header: str | None, tag: str) -> bool:
    """Whether If-Match names this entity tag, or any, or is not there; a weak tag is another (RFC 9110, 13.1.1)."""
    given = (header or "*").strip()
    return given == "*" or tag in _STRONG_TAG.findall(given)


def is_current(if_range: str | None, tag: str) -> bool:
    """Whether If-Range lets a Range apply: it names the tag, or is not there. A date never does: answers have none."""
    return if_range is None or if_range.strip() == tag


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return 10**_DIGITS if len(digits) > _DIGITS else int(digits or "0")
