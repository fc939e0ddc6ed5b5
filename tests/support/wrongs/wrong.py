"""How an error is described that is injected into books with a history, and what verification finds then."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.books import Violation

# A violation in short form: invariant, user, and requests or periods.
Short = tuple[str, str | None, *tuple[str | None, ...]]


@dataclass(frozen=True)
class Wrong:
    """An injected error, and the violations that a full and an incremental check find."""

    sql: str
    full: frozenset[Violation]
    incremental: frozenset[Violation]


def wrong(
    sql: str,
    *found: Short,
    unseen: bool = False,
    seen: tuple[Short, ...] | None = None,
) -> Wrong:
    """Describe an injected error.

    Args:
        sql: what injects it.
        found: violations as (invariant, user, request or period, ...).
        unseen: an incremental check does not find it.
        seen: what an incremental check finds, if not the same.
    """
    every = frozenset(violation for short in found for violation in expanded(*short))
    part = (
        frozenset() if unseen else every if seen is None else frozenset(v for short in seen for v in expanded(*short))
    )
    return Wrong(sql, every, part)


def expanded(invariant: str, user: str | None, *where: str | None) -> Iterator[Violation]:
    of_request = invariant in {
        "request_settled_once",
        "inflight_is_what_is_unfinished",
        "result_is_kept",
        "object_is_kept",
        "rows_as_declared",
    }
    for each in where:
        yield (invariant, user, each, None) if of_request else (invariant, user, None, each)
