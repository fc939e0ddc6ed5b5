"""Accepting a request: one call of the database, then its message. The database decides whether it is accepted."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from sluice.db.connection import Database
from sluice.errors import SluiceError
from sluice.models import GenerateRequest
from sluice.queue import Message, Sender
from sluice.services.access import refuse_unless_allowed
from sluice.services.dispatch import send_or_undispatch

_UNFINISHED_RETRY_AFTER_SECONDS: Final = 5


@dataclass(frozen=True)
class Limits:
    """What a request may be: set by the deployment.

    Attributes:
        ttl_seconds: how long it may wait to be begun, at most and by default; not_before may lie so far ahead.
        max_attempts: how many attempts may come to nothing before it fails.
    """

    max_prompt_bytes: int
    ttl_seconds: int
    max_attempts: int


@dataclass(frozen=True)
class Accepted:
    """What became of a submission.

    Attributes:
        replayed: an idempotency key was seen before; the id is the first request's.
        quotas: the state of the user's quota by period, where it was looked at.
    """

    request_id: UUID
    user_id: str
    replayed: bool
    quotas: Sequence[Mapping[str, Any]]


def submit(
    database: Database,
    queue: Sender,
    key_hash: bytes,
    request: GenerateRequest,
    limits: Limits,
    idempotency_key: str | None = None,
) -> Accepted:
    """Accept a request and send its message.

    When the message cannot be sent the request is accepted all the same: the minute's sweep sends it.

    Raises:
        SluiceError: it was refused, and nothing was written; or database_unavailable.
    """
    size = len(request.prompt.encode())
    if size > limits.max_prompt_bytes:
        raise SluiceError(
            "prompt_too_long",
            f"The prompt is {size} bytes long in UTF-8; at most {limits.max_prompt_bytes} are accepted.",
            max_prompt_bytes=limits.max_prompt_bytes,
        )
    row = database.row(
        "request_create",
        {
            "key_hash": key_hash,
            "prompt": request.prompt,
            "model": request.model,
            "parameters": Jsonb(request.parameters.model_dump(exclude_none=True)),
            "metadata": None if request.metadata is None else Jsonb(request.metadata),
            "idempotency_key": idempotency_key,
            "body_hash": None if idempotency_key is None else _body_hash(request),
            "ttl_seconds": request.ttl_seconds,
            "ends_at": request.expires_at,
            "begins_at": request.not_before,
            "longest_seconds": limits.ttl_seconds,
            "max_attempts": limits.max_attempts,
        },
    )
    detail = row["detail"] or {}
    if row["outcome"] not in ("accepted", "replayed"):
        raise _refusal(row["outcome"], request, detail)
    send_or_undispatch(database, queue, [Message(request_id, row["user_id"]) for request_id in row["send"]])
    return Accepted(row["request_id"], row["user_id"], row["outcome"] == "replayed", detail.get("quotas", ()))


def rate_limit_headers(quotas: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """x-ratelimit-* headers, in OpenAI's names, for the period nearest its limit; none where nothing is limited.

    Args:
        quotas: by period: max_requests, requests_used, max_tokens, tokens_used (reserved ones included; limits may be
            None), reset_seconds.
    """
    headers: dict[str, str] = {}
    for kind in ("requests", "tokens"):
        limited = [q for q in quotas if q[f"max_{kind}"]]
        if not limited:
            continue
        nearest = max(limited, key=lambda q: (q[f"{kind}_used"] / q[f"max_{kind}"], q["reset_seconds"]))
        limit = nearest[f"max_{kind}"]
        headers[f"x-ratelimit-limit-{kind}"] = str(limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, limit - nearest[f"{kind}_used"]))
        headers[f"x-ratelimit-reset-{kind}"] = str(int(nearest["reset_seconds"]))
    return headers


def _body_hash(request: GenerateRequest) -> bytes:
    # Of what the body means, so that another spelling of the same JSON is the same request. Members that came with a
    # later version are left out where they are not given: a repeat may meet a newer version than the first.
    newer = {name for name in ("ttl_seconds", "expires_at", "not_before") if getattr(request, name) is None}
    return hashlib.sha256(json.dumps(request.model_dump(mode="json", exclude=newer), sort_keys=True).encode()).digest()


def _refusal(outcome: str, request: GenerateRequest, detail: Mapping[str, Any]) -> SluiceError:
    refuse_unless_allowed(outcome)
    quotas = detail.get("quotas", ())
    match outcome:
        case "model_unknown":
            return SluiceError(outcome, f"There is no model {request.model!r}. GET /models lists those there are.")
        case "model_missing":
            return SluiceError(outcome, "No default model is set: name one. GET /models lists those there are.")
        case "max_tokens_exceeded":
            limit = detail["max_tokens_limit"]
            return SluiceError(outcome, f"This model writes at most {limit} tokens.", max_tokens_limit=limit)
        case "lifetime_invalid":
            return _lifetime_refusal(outcome, detail)
        case "idempotency_conflict":
            return SluiceError(outcome, "This Idempotency-Key was used with another body. Use a new key.")
        case "quota_too_small" if detail["max_requests"] == 0:
            return SluiceError(
                outcome, f"The {detail['period']} quota allows no requests at all.", period=detail["period"]
            )
        case "quota_too_small":
            return SluiceError(
                outcome,
                f"The request needs up to {detail['tokens_needed']} tokens; the {detail['period']} quota could never "
                "hold it. Shorten the prompt or lower max_tokens.",
                tokens_needed=detail["tokens_needed"],
                period=detail["period"],
            )
        case "quota_exceeded":
            return SluiceError(
                outcome,
                f"The quota is used up; it resets in {detail['retry_after']} s.",
                retry_after=int(detail["retry_after"]),
                headers=rate_limit_headers(quotas),
            )
        case "unfinished_exceeded":
            return SluiceError(
                outcome,
                f"{detail['max_unfinished']} of your requests are unfinished, the most there may be. Wait for some.",
                retry_after=_UNFINISHED_RETRY_AFTER_SECONDS,
                headers=rate_limit_headers(quotas),
            )
    raise AssertionError(f"request_create answered {outcome}")


def _lifetime_refusal(outcome: str, detail: Mapping[str, Any]) -> SluiceError:
    longest = detail["longest_seconds"]
    text = {
        "begins_late": f"not_before may be at most {longest} s ahead.",
        "ends_past": "expires_at must be in the future.",
        "ends_early": "expires_at must be after not_before.",
        "ends_late": f"A request may wait to be begun for {longest} s at most, from not_before where that is given.",
    }[detail["why"]]
    return SluiceError(outcome, text, longest_seconds=longest)
