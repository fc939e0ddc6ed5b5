"""Quotes as clients get them: before a request, and beside what became of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sluice.api.problems import problem_details
from sluice.domain.requests import RequestState

if TYPE_CHECKING:
    from sluice.services.quote import Quote


def quote_view(quote: "Quote") -> dict[str, Any]:
    """A quote."""
    return {
        "accepted": quote.refusal is None,
        "refusal": None if quote.refusal is None else problem_details(quote.refusal),
    } | _quoted(quote.quoted)


def kept_quote(state: RequestState) -> dict[str, Any]:
    """What a request was accepted for, and what it came to; actual is None until it has ended."""
    quoted = state.quote or {}
    waited = None if state.started_at is None else max((state.started_at - state.created_at).total_seconds(), 0.0)
    actual = {
        "prompt_tokens": state.prompt_tokens,
        "completion_tokens": state.completion_tokens,
        "total_tokens": state.total_tokens,
        "cost": state.cost,
        "wait_seconds": None if waited is None else round(waited, 3),
        "processing_ms": state.processing_time_ms,
    }
    return _quoted(quoted) | {"actual": actual if state.status.is_final else None}


def _quoted(quoted: Mapping[str, Any]) -> dict[str, Any]:
    forecast = quoted.get("forecast")
    basis = None if forecast is None else {"answers": forecast["answers"], "own": forecast["is_own"]}
    return {
        "model": quoted["model"],
        "models": quoted["models"],
        "bound": _amounts(quoted, quoted["bound"]),
        "forecast": None if forecast is None else _amounts(quoted, forecast) | {"basis": basis},
        "cache": quoted.get("cache"),
        "wait_seconds": quoted.get("wait_seconds"),
        "wait_basis": quoted.get("wait_basis"),
        "processing_ms": quoted.get("processing_ms"),
    }


def _amounts(quoted: Mapping[str, Any], tokens: Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = tokens["prompt_tokens"], tokens["completion_tokens"]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cost": {
            "amount": tokens.get("amount"),
            "currency": quoted.get("currency"),
            "price_list": quoted.get("price_list"),
        },
    }
