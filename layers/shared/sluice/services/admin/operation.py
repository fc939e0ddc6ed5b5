"""What an administrative operation is, and what it works with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, model_validator

from sluice.db.administration import Administration
from sluice.db.reports import Reports
from sluice.domain.fields import Strict

A = TypeVar("A", bound=BaseModel)


@dataclass(frozen=True)
class AdminContext:
    """What operations work with.

    Attributes:
        run_rollup: has RollupFunction run tasks, with that function's own rights, and returns their figures.
        longest_seconds, max_attempts: the lifetime and attempts of a request that is redriven.
    """

    administration: Administration
    reports: Reports
    run_rollup: Callable[[Mapping[str, Any]], Any]
    longest_seconds: int
    max_attempts: int


@dataclass(frozen=True)
class Operation(Generic[A]):
    """An operation: the form of its arguments, and what it does."""

    arguments: type[A]
    run: Callable[[AdminContext, A], Any]


class NoArguments(Strict):
    """An operation without arguments."""


class Change(Strict):
    """Changes what is among its arguments and leaves the rest as it is."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if len(self.model_fields_set) < 2:
            raise ValueError(f"nothing to change: give at least one of {', '.join(list(type(self).model_fields)[1:])}")
        return self


def database_operation(name: str, arguments: type[A]) -> Operation[A]:
    """An operation that the database carries out (sql/functions/admin). A change passes on only what it was given."""

    def run(context: AdminContext, given: A) -> Any:
        return context.administration.run(name, given.model_dump(mode="json", exclude_unset=isinstance(given, Change)))

    return Operation(arguments, run)
