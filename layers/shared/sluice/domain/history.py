"""Which of a user's requests to list."""

from collections.abc import Collection
from typing import Annotated, Any, Final, Self

from pydantic import PlainValidator, model_validator

from sluice.domain.failures import FAILURES
from sluice.domain.fields import Id, Identifier, Strict, Time, one_of
from sluice.domain.states import Status

MAX_PAGE: Final = 100
DEFAULT_PAGE: Final = 20


def _page_size(text: Any) -> int:
    # Python reads no number of more than 4,300 digits.
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 3
    if not is_number or not 1 <= int(text) <= MAX_PAGE:
        raise ValueError(f"must be a whole number from 1 to {MAX_PAGE}")
    return int(text)


def _statuses(text: Any) -> Collection[Status]:
    names = text.split(",") if isinstance(text, str) else []
    if not names or not set(names) <= set(Status):
        raise ValueError(f"must be one or more of {', '.join(Status)}, with commas between them")
    return [Status(name) for name in dict.fromkeys(names)]


class HistoryQuery(Strict):
    """The query of GET /requests: every filter is text, and all of them apply.

    Attributes:
        cursor: only requests older than this one.
        start, end: when they were accepted, end not included.
    """

    limit: Annotated[int, PlainValidator(_page_size)] = DEFAULT_PAGE
    cursor: Id | None = None
    status: Annotated[Collection[Status], PlainValidator(_statuses)] | None = None
    model: Identifier | None = None
    error_code: Annotated[str, one_of(FAILURES)] | None = None
    start: Time | None = None
    end: Time | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError("start must be before end")
        return self
