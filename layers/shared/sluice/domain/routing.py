"""Which models a client would have answer, and how often each may be asked."""

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from sluice.domain.documents import ResponseFormat
from sluice.domain.fields import Identifier

ModelNames = Annotated[list[Identifier], Field(max_length=8)]
"""Models that may answer, in order."""
RepairAttempts = Annotated[int, Field(ge=0, le=5)]
"""How often a model may be asked again whose answer has not the form that was asked for."""
USUAL_REPAIRS: Final = 1
"""Where the client asks for a form and says nothing about repairs."""


def candidates(model: str | None, models: Sequence[str] | None) -> tuple[str | None, tuple[str, ...] | None]:
    """The model that a client asks for, and its fallbacks.

    Args:
        model: the one that the client names first, if it does.
        models: the others; None: those that the operator has set. An empty list forbids any.
    """
    if models is None:
        return model, None
    named = ([] if model is None else [model]) + list(models)
    return (named[0] if named else None), tuple(named[1:])


def repairs(form: ResponseFormat | None, attempts: int | None) -> int | None:
    """How often an answer of this form may be asked for again; None: no form was asked for."""
    if form is None:
        return None
    return USUAL_REPAIRS if attempts is None else attempts
