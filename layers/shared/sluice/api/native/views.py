"""What clients get: requests, models and queue positions as JSON."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sluice.api.native.quotes import kept_quote
from sluice.domain.documents import Output
from sluice.domain.failures import fault_of
from sluice.domain.requests import ModelOffer, QueueState, RequestFacts, RequestState, token_parts
from sluice.services.read import History


def request_view(state: RequestState) -> dict[str, Any]:
    """One request with its answer."""
    return (
        _common(state)
        | {
            "estimated_tokens": state.estimated_tokens,
            "reserved_tokens": state.reserved_tokens,
            "cost": state.cost,
            "result": None if state.output is None else _result(state.output),
            "empty_reason": None if state.output is None else state.output.empty_reason,
            "queue": None if state.queue is None else _queue(state.queue, state.promote_at),
        }
        | ({} if state.metadata is None else {"metadata": state.metadata})
        | ({} if state.output is None else _result_facts(state.output, state.request_id))
        | ({} if state.answered_by is None else {"answered_by": state.answered_by})
        | ({} if state.cached_from is None else {"cached_from": str(state.cached_from)})
        | ({} if state.quote is None else {"quote": kept_quote(state)})
        | ({} if not state.attempts else {"attempts": [_attempt(each) for each in state.attempts]})
    )


def history_view(page: History) -> dict[str, Any]:
    """A page of requests; next_cursor is None on the last one."""
    return {
        "requests": [_common(summary) | {"prompt": summary.prompt} for summary in page.requests],
        "next_cursor": None if page.next_cursor is None else str(page.next_cursor),
    }


def model_view(offer: ModelOffer) -> dict[str, Any]:
    """A model that a client may name."""
    return {
        "model": offer.model_id,
        "is_default": offer.is_default,
        "max_tokens_default": offer.max_tokens_default,
        "max_tokens_limit": offer.max_tokens_limit,
        "kind": offer.kind,
        "aliases": offer.aliases,
    }


def _result(output: Output) -> Any:
    """The answer: its text, or the value of one that is JSON; None for a file."""
    if output.file is not None:
        return None
    return json.loads(output.text) if output.result_type == "json" else output.text


def _result_facts(output: Output, request_id: UUID) -> dict[str, Any]:
    """What the answer is, where it is no text; of a file also where it is."""
    if output.file is None:
        return {"result_type": output.result_type} if output.result_type else {}
    return {
        "result_type": "file",
        "mime_type": output.file.mime_type,
        "byte_length": output.file.byte_length,
        "result_url": f"/results/{request_id}",
    }


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    names = ("attempt", "model", "backend", "cause", "http_status", "prompt_tokens", "completion_tokens", "cost")
    return (
        {name: attempt[name] for name in names}
        | token_parts(attempt["cached_tokens"], attempt["reasoning_tokens"])
        | {"charged": attempt["is_charged"]}
        | {name: _time(datetime.fromisoformat(attempt[name])) for name in ("begun_at", "ended_at")}
    )


def _common(request: RequestFacts) -> dict[str, Any]:
    code = request.error_code
    error = None if code is None else {"code": code, "message": request.error_message, "fault": fault_of(code)}
    facts: dict[str, Any] = {
        "request_id": str(request.request_id),
        "status": request.status,
        "model": request.model_id,
        "error": error,
        "finish_reason": request.finish_reason,
        "usage": {
            "prompt_tokens": request.prompt_tokens,
            "completion_tokens": request.completion_tokens,
            "total_tokens": request.total_tokens,
        }
        | token_parts(request.cached_tokens, request.reasoning_tokens),
        "created_at": _time(request.created_at),
        "started_at": _time(request.started_at),
        "completed_at": _time(request.completed_at),
        "processing_time_ms": request.processing_time_ms,
    }
    if request.completion_window is not None:
        facts |= {"window": request.completion_window, "due_at": _time(request.due_at)}
    return facts


def _queue(queue: QueueState, promote_at: datetime | None) -> dict[str, Any]:
    """What an unfinished request waits for, where it stands, and how long that may take."""
    wait, basis = None, None
    # At the rate of the last minutes. If that is not known yet, nothing is guessed.
    if queue.position and queue.ended and queue.seconds is not None:
        wait = math.ceil(queue.position * queue.seconds / queue.ended)
        basis = {"answered": queue.ended, "seconds": math.ceil(queue.seconds)}
    return {
        "waits_for": queue.waits_for,
        "until": _time(queue.until),
        "position": queue.position,
        "estimated_wait_seconds": wait,
        "estimate_basis": basis,
        "failed_attempts": queue.failed_attempts,
        "max_attempts": queue.max_attempts,
        "last_error": queue.last_error,
        "last_error_fault": fault_of(queue.last_error),
        "expires_at": _time(queue.expires_at),
        "cancel_requested_at": _time(queue.cancel_requested_at),
    } | ({} if promote_at is None else {"promote_at": _time(promote_at)})


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
