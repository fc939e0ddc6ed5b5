"""Progress of a run, one sentence at a time."""

import time
from collections.abc import Callable

Report = Callable[[str], None]


def timed_report() -> Report:
    """Return a function that prints sentences, each after the seconds that have passed since this call."""
    began = time.monotonic()

    def report(sentence: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {sentence}", flush=True)

    return report
