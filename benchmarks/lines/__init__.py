"""The lines of the report, each a module with a function that measures and returns its tables.

A new line is a module here, or beside this folder, and an entry in LINES.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks import cold_starts, handlers
from benchmarks.bench import Bench
from benchmarks.lines import (
    archive,
    batches,
    depth,
    foreground,
    lifecycle,
    peers,
    plans,
    refusals,
    storage,
    throughput,
    upkeep,
    webhooks,
)
from benchmarks.report import Table

LINES: Final[Mapping[str, Callable[[Bench], Sequence[Table]]]] = {
    "lifecycle": lifecycle.run,
    "peers": peers.run,
    "throughput": throughput.run,
    "batches": batches.run,
    "foreground": foreground.run,
    "webhooks": webhooks.run,
    "depth": depth.run,
    "rollups": depth.rollups,
    "plans": plans.run,
    "archive": archive.run,
    "refusals": refusals.run,
    "upkeep": upkeep.run,
    "storage": storage.run,
    "handlers": handlers.run,
    **({"cold_starts": cold_starts.run} if cold_starts.IS_POSSIBLE else {}),
}
"""In the order of the report."""
