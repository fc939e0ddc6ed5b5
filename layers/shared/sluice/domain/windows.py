"""Completion windows."""

from typing import Literal

CompletionWindow = Literal["2h", "8h", "24h"]
