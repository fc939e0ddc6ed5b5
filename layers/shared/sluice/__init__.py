"""Sluice's own package."""

import gc
from typing import Final

# How many more objects than at the last collection start another. What a function imports stays: Python's default, some
# hundreds, would look through it dozens of times while it grows. An invocation makes a few thousand.
COLLECT_AFTER: Final = 50_000

gc.set_threshold(COLLECT_AFTER)
