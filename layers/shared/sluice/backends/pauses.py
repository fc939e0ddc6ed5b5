"""How long a server asks to be left alone, in every way in which servers say so."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

# A longer pause than a year, and a moment that is not within a year, is no pause that anyone means.
_LONGEST_SECONDS: Final = 366 * 86_400
# Numbers from here on are moments: 1e9 seconds after 1970 were in 2001.
_EPOCH_SECONDS: Final = 10**9
_EPOCH_MILLISECONDS: Final = 10**12

_NUMBER: Final = re.compile(r"\d{1,15}(\.\d{1,9})?", re.ASCII)
_UNIT: Final = (
    r"milliseconds?|millis|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d"  # longest first
)
_STEP: Final = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s*({_UNIT})(?![a-z])", re.ASCII | re.IGNORECASE)
_SPAN: Final = re.compile(rf"(?:{_STEP.pattern}[\s,]*(?:and\s+)?)+", re.ASCII | re.IGNORECASE)
_SENTENCE: Final = re.compile(
    r"(?:try again|retry|retrying|wait|available|resets?)(?:\s+(?:again|your request|this request|the request))?"
    r"\s*(?:in|after|for|at least)?\s*:?\s*(?:about\s+)?",
    re.ASCII | re.IGNORECASE,
)
_FIELDS: Final = {
    "retrydelay": 1.0,
    "retry_delay": 1.0,
    "retry_after": 1.0,
    "retryafter": 1.0,
    "retry_after_seconds": 1.0,
    "retry-after": 1.0,
    "estimated_time": 1.0,
    "retry_after_ms": 0.001,
    "retry-after-ms": 0.001,
}
_POLICY: Final = re.compile(r";\s*(\w+)\s*=\s*(\d{1,15}(?:\.\d{1,9})?)", re.ASCII)
_MEMBER: Final = re.compile(r"(\w+)\s*=\s*(\d{1,15}(?:\.\d{1,9})?)", re.ASCII)


def asked_pause(status: int, headers: Mapping[str, str], document: Any = None) -> float | None:
    """Seconds that an error asks to wait before another attempt, the longest if it says so more than once.

    Args:
        document: the body, read as JSON.

    Returns:
        None if it asks for nothing that can be read.
    """
    found = [*_from_headers(status, headers), *_from_document(status, document, 0)]
    pauses = [seconds for seconds in found if seconds is not None and seconds <= _LONGEST_SECONDS]
    return max(pauses, default=None)


def seconds_of(text: str) -> float | None:
    """Seconds of a header's value: a number, a duration like 6m0s, a moment as a date, in RFC 3339 or since 1970.

    A moment that has passed is 0.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _seconds_of_number(float(text))
    if _SPAN.fullmatch(text):
        return _sum_of_steps(text)
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            at = read(text)
            moment = at if at.tzinfo else at.replace(tzinfo=UTC)
            return max(0.0, moment.timestamp() - time.time())
        except (ValueError, OverflowError, TypeError, IndexError):
            continue
    if "," in text:
        # The same header, sent twice.
        found = [seconds for part in text.split(",") if (seconds := seconds_of(part)) is not None]
        return max(found, default=None)
    return None


def _seconds_of_number(number: float) -> float | None:
    if not math.isfinite(number) or number < 0:
        return None
    if number >= _EPOCH_SECONDS:
        return max(0.0, number / (1000 if number >= _EPOCH_MILLISECONDS else 1) - time.time())
    return number


def _sum_of_steps(text: str) -> float:
    size = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    steps = [(float(amount), unit.lower()) for amount, unit in _STEP.findall(text)]
    return sum(n * (0.001 if unit.startswith(("ms", "milli")) else size[unit[0]]) for n, unit in steps)


def _from_headers(status: int, given: Mapping[str, Any]) -> Iterator[float | None]:
    headers = {name.lower(): value for name, value in given.items() if isinstance(value, str)}
    for name, value in headers.items():
        plain = name.replace("rate-limit", "ratelimit")
        if plain.endswith(("retry-after-ms", "retry-after-milliseconds")):
            yield float(value.strip()) / 1000 if _NUMBER.fullmatch(value.strip()) else None
        elif plain.endswith("retry-after"):
            yield seconds_of(value)
        elif plain == "ratelimit":
            yield from _from_policies(value)
        elif "ratelimit" in plain and "reset" in plain and _is_used_up(status, headers.get(_remaining(name))):
            yield seconds_of(value)


def _remaining(name: str) -> str:
    return name.replace("reset-after", "remaining").replace("reset", "remaining")


def _is_used_up(status: int, remaining: str | None) -> bool:
    """Whether an error is about this limit: nothing is left of it, or there were too many requests of some kind."""
    if remaining is None:
        return status == 429
    return bool(_NUMBER.fullmatch(remaining.strip())) and float(remaining) <= 0


def _from_policies(value: str) -> Iterator[float | None]:
    """The IETF's RateLimit header: `"default";r=0;t=30`, or, in earlier drafts, `limit=10, remaining=0, reset=30`."""
    members = dict(_MEMBER.findall(value))
    if "remaining" in members:
        if float(members["remaining"]) <= 0 and "reset" in members:
            yield float(members["reset"])
        return
    for policy in value.split(","):
        named = dict(_POLICY.findall(";" + policy))
        if "t" in named and float(named.get("r", "1")) <= 0:
            yield float(named["t"])


def _from_document(status: int, value: Any, depth: int) -> Iterator[float | None]:
    if depth > 6:
        return
    if isinstance(value, list):
        for each in value[:20]:
            yield from _from_document(status, each, depth + 1)
    elif isinstance(value, str):
        yield from _from_sentence(value)
    elif isinstance(value, dict):
        for name, member in value.items():
            plain = name.lower()
            if plain in _FIELDS:
                pause = _of_field(member)
                yield None if pause is None else pause * _FIELDS[plain]
            elif plain == "headers" and isinstance(member, dict):
                yield from _from_headers(status, member)
            elif plain in ("error", "errors", "message", "details", "detail", "metadata", "msg"):
                yield from _from_document(status, member, depth + 1)


def _of_field(value: Any) -> float | None:
    if isinstance(value, dict):
        # google.protobuf.Duration
        parts = [value.get("seconds", 0), value.get("nanos", 0)]
        numbers = [float(part) for part in parts if _NUMBER.fullmatch(str(part))]
        return numbers[0] + numbers[1] / 1e9 if len(numbers) == len(parts) else None
    if isinstance(value, str):
        return seconds_of(value)
    return None if isinstance(value, bool) or not isinstance(value, int | float) else _seconds_of_number(float(value))


def _from_sentence(text: str) -> Iterator[float | None]:
    """As in: Please try again in 6m0s."""
    for match in _SENTENCE.finditer(text[:10_000]):
        if span := _SPAN.match(text, match.end()):
            yield _sum_of_steps(span.group())
