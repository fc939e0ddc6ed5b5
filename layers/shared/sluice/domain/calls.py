"""Calls of models: which of them a worker may make for a claim, and what it reports of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self


@dataclass(frozen=True)
class Plan:
    """What a worker may do for a claim beside calling its model.

    Attributes:
        fallbacks: models that may answer in its place, in order, with the columns of the table models.
        repair_attempts: how often a model may still be asked again whose answer is not of the form that was asked for.
        skip: models that are not to be called: their circuit breakers are open.
        probe: a model that is called although its breaker is open, to see whether it answers again.
        failing: models whose last calls failed; the worker reports if one of them answers.
    """

    fallbacks: Sequence[Mapping[str, Any]] = ()
    repair_attempts: int = 0
    skip: Sequence[str] = ()
    probe: str | None = None
    failing: Sequence[str] = ()

    @classmethod
    def of_json(cls, plan: Mapping[str, Any] | None) -> Self:
        """As the database gives it; None: nothing but the model. Members that are not known here are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in (plan or {}).items() if name in known})


@dataclass(frozen=True)
class ModelCall:
    """One call of a model.

    Attributes:
        cause: why it failed or has to be repeated, a key of sluice.domain.failures.FAILURES; None: it answered.
        http_status: what the model's server answered with, where that was an error.
        prompt_tokens, completion_tokens: what is booked for it; None: the model reported nothing.
        cached_tokens, reasoning_tokens: parts of them, as in Completion.
        is_charged: its tokens are charged to the user, if its attempt ends the request.
        is_outage: the model as a whole seems to be out of service.
        is_probe: see Plan.probe.
    """

    model_id: str
    backend: str
    begun_at: datetime
    ended_at: datetime
    cause: str | None = None
    http_status: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    is_charged: bool = False
    is_outage: bool = False
    is_probe: bool = False

    @property
    def is_answer(self) -> bool:
        """Whether the model answered, whatever became of its answer."""
        return self.cause is None or (self.is_charged and self.http_status is None)

    def to_json(self) -> dict[str, Any]:
        """As settle() gets it: every field that has a value, and is not false."""
        given = {name: value for name, value in vars(self).items() if value is not None and value is not False}
        return given | {"begun_at": self.begun_at.isoformat(), "ended_at": self.ended_at.isoformat()}


TOKEN_COUNTS: Final = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


def tokens_of(calls: Sequence[ModelCall], *, charged_only: bool) -> dict[str, Any]:
    """What calls used together, by count; None: nothing that is known.

    Args:
        charged_only: only what is charged to the user.
    """
    counted = [call for call in calls if call.prompt_tokens is not None and (call.is_charged or not charged_only)]
    sums = {name: sum(getattr(call, name) or 0 for call in counted) for name in TOKEN_COUNTS}
    whole = {name: sums[name] if counted else None for name in TOKEN_COUNTS[:2]}
    return whole | {name: sums[name] or None for name in TOKEN_COUNTS[2:]}
