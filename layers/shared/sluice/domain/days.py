"""Spans of days."""

from datetime import UTC, datetime
from typing import Final, Self

from pydantic import Field, model_validator

from sluice.domain.fields import Day, Strict

LONGEST_REPORT_DAYS: Final = 366


class Days(Strict):
    """A span of whole days (UTC), both included; by default this month up to today."""

    start: Day = Field(default_factory=lambda: datetime.now(UTC).date().replace(day=1))
    end: Day = Field(default_factory=lambda: datetime.now(UTC).date())

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"start, {self.start}, must not be after end, {self.end}")
        if (self.end - self.start).days >= LONGEST_REPORT_DAYS:
            raise ValueError(f"a report spans at most {LONGEST_REPORT_DAYS} days")
        return self
