"""Sluice's own package."""

import gc
from typing import Final

# How many more objects than at the last collection start another. What a function imports are hundreds of thousands that
# stay, through which Python's default (some hundreds) would look dozens of times; an invocation makes a few thousand.
COLLECT_AFTER: Final = 50_000

gc.set_threshold(COLLECT_AFTER)
