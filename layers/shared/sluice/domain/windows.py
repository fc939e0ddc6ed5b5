"""Completion windows: within which time a caller needs an answer. Whoever can wait leaves room for others."""

from datetime import timedelta
from typing import Final, Literal

CompletionWindow = Literal["2h", "8h", "24h"]
"""As completion_windows() in the database has them. A request without one is answered as soon as possible."""

SOONEST: Final = "soonest"
"""How a caller says that a request has no completion window, and how usage names it."""

WINDOW_LENGTHS: Final[dict[CompletionWindow, timedelta]] = {
    "2h": timedelta(hours=2),
    "8h": timedelta(hours=8),
    "24h": timedelta(hours=24),
}


def window_of(name: CompletionWindow | Literal["soonest"] | None) -> CompletionWindow | None:
    """The completion window that a caller names; None: none."""
    return None if name == SOONEST else name
