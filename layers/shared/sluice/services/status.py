"""What a client reads: one request, the recent ones, the models."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sluice.db.connection import Database
from sluice.errors import SluiceError
from sluice.services.access import refuse_unless_allowed

MAX_PAGE: Final = 100
DEFAULT_PAGE: Final = 20


def status(database: Database, key_hash: bytes, request_id: str) -> dict[str, Any]:
    """One request of the caller.

    Raises:
        SluiceError: request_not_found, also for another user's; what key_check finds; database_unavailable.
    """
    wanted = as_uuid(request_id)
    # Also for an id that is none: the key is looked at first.
    row = database.row("request_show", {"key_hash": key_hash, "request_id": wanted}, repeatable=True)
    refuse_unless_allowed(row["outcome"])
    if wanted is None:
        raise SluiceError("request_not_found", "The id in the path is not a UUID, as every request id is.")
    if row["outcome"] == "request_not_found":
        raise SluiceError("request_not_found", "You have no request with this id.")
    metadata = {} if row["metadata"] is None else {"metadata": row["metadata"]}
    return (
        _view(row)
        | {
            "estimated_tokens": row["estimated_tokens"],
            "reserved_tokens": row["reserved_tokens"],
            "cost": row["cost"],
            "result": row["result"],
            "queue": None if row["queue"] is None else _queue(row["queue"]),
        }
        | metadata
    )


def history(database: Database, key_hash: bytes, cursor: str | None, limit: str | None) -> dict[str, Any]:
    """A page of the caller's requests, newest first.

    Args:
        cursor: the next_cursor of the page before; None for the first.
        limit: how many, 1 to MAX_PAGE, as text.

    Returns:
        requests, and next_cursor, which is None on the last page.

    Raises:
        SluiceError: invalid_input; what key_check finds; database_unavailable.
    """
    before = _cursor(cursor)
    at_most = _limit(limit)
    # One more than asked for tells whether there is a next page.
    rows = database.rows(
        "request_history", {"key_hash": key_hash, "before": before, "at_most": at_most + 1}, repeatable=True
    )
    if rows:
        refuse_unless_allowed(rows[0]["outcome"])
    page = rows[:at_most]
    return {
        "requests": [_view(row) | {"prompt": row["prompt"]} for row in page],
        "next_cursor": str(page[-1]["request_id"]) if len(rows) > at_most else None,
    }


def models(database: Database, key_hash: bytes) -> dict[str, Any]:
    """The models that the caller may name.

    Raises:
        SluiceError: what key_check finds; database_unavailable.
    """
    rows = database.rows("model_offer", {"key_hash": key_hash}, repeatable=True)
    if rows:
        refuse_unless_allowed(rows[0]["outcome"])
    return {
        "models": [
            {
                "model": row["model_id"],
                "is_default": row["is_default"],
                "max_tokens_default": row["max_tokens_default"],
                "max_tokens_limit": row["max_tokens_limit"],
            }
            for row in rows
        ]
    }


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    error = None if row["error_code"] is None else {"code": row["error_code"], "message": row["error_message"]}
    return {
        "request_id": str(row["request_id"]),
        "status": row["status"],
        "model": row["model_id"],
        "error": error,
        "usage": {
            "prompt_tokens": row["prompt_tokens"],
            "completion_tokens": row["completion_tokens"],
            "total_tokens": row["total_tokens"],
        },
        "created_at": _time(row["created_at"]),
        "started_at": _time(row["started_at"]),
        "completed_at": _time(row["completed_at"]),
        "processing_time_ms": row["processing_time_ms"],
    }


def _queue(line: Mapping[str, Any]) -> dict[str, Any]:
    """What an unfinished request waits for, where it stands, and how long that may take."""
    place, ended = line["place"], line["ended"]
    return {
        "waits_for": line["waits_for"],
        "until": _moment(line["until"]),
        "position": place,
        # At the rate of late. Where that is not known yet, nothing is guessed.
        "estimated_wait_seconds": math.ceil(place * line["seconds"] / ended) if ended else None,
        "estimate_basis": {"answered": ended, "seconds": math.ceil(line["seconds"])} if ended else None,
        "failed_attempts": line["failures"],
        "max_attempts": line["max_attempts"],
        "last_error": line["last_error"],
        "expires_at": _moment(line["expires_at"]),
        "cancel_requested_at": _moment(line["cancel_requested_at"]),
    }


def _moment(text: str | None) -> str | None:
    return None if text is None else _time(datetime.fromisoformat(text))


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_uuid(text: str) -> UUID | None:
    """A request's id; None where a text is none."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _cursor(text: str | None) -> UUID | None:
    cursor = None if text is None else as_uuid(text)
    if text is not None and cursor is None:
        raise SluiceError("invalid_input", "cursor must be the next_cursor of an earlier page.")
    return cursor


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    # Python reads no number of more than 4,300 digits.
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= MAX_PAGE:
        raise SluiceError("invalid_input", f"limit must be a whole number from 1 to {MAX_PAGE}.")
    return int(text)
