"""Progress of a run, one sentence at a time."""

import time
from collections.abc import Callable

from local.errors import LocalError
from sluice_cli.output import abandon_output, check_output, reason

Report = Callable[[str], None]


def say(text: str) -> None:
    """Print text for a person.

    Raises:
        LocalError: nobody can read it.
    """
    try:
        check_output()
        print(text, flush=True)
    except OSError as error:
        abandon_output()
        raise LocalError(f"The output cannot be written: {reason(error)}.") from error


def timed_report() -> Report:
    """Return a function that prints sentences, each after the seconds that have passed since this call."""
    began = time.monotonic()

    def report(sentence: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {sentence}")

    return report
