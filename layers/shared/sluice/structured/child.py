"""The process that validates answers, run by validator.py as `python -m sluice.structured.child`.

It reads one job a line from its standard input, and writes lines until one is the last: a single one if nothing is
wrong, or one for each time that it knows better what is. Whether an answer matches mostly takes microseconds; why it
does not may take more time and memory than there is. It ends with its input, and writes what it reads nowhere else.
"""

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sluice.structured import MAX_FINDING_BYTES
from sluice.structured.references import joined
from sluice.structured.rules import SchemaRefusedError, compiled

if TYPE_CHECKING:
    import jsonschema_rs

# A hostile schema may ask for all the memory there is. The process starts with 40 MB of addresses.
_MAX_MEMORY_BYTES: Final = 256 * 1024 * 1024
# The library copies the faulty value for each error: ten thousand errors in a large answer would be gigabytes.
_LONGEST_LISTED: Final = 16 * 1024
_MAX_LINE_CHARACTERS: Final = 160
# So much longer than its client waits may a job take, if the client is no longer there to end it.
_EXTRA_SECONDS: Final = 1.0


def main() -> None:
    """Do jobs until there are no more."""
    for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, _MAX_MEMORY_BYTES)):
        with contextlib.suppress(ValueError, OSError):  # not every system has each
            resource.setrlimit(limit, (most, most))
    # The kernel's own reaction, since Python's handlers wait for the library to return.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    compiled("true")  # loads the library
    _reply({"ready": True})
    for line in sys.stdin.buffer:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job["seconds"] + _EXTRA_SECONDS)
        known: dict[str, str] | None = None
        for known in _faults(job["schema"], job["answer"]):
            _reply({"fault": known, "last": False})
        _reply({"fault": known, "last": True})
        signal.setitimer(signal.ITIMER_REAL, 0)


def _reply(value: Any) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


_compiled = lru_cache(maxsize=8)(compiled)


def _faults(schema_text: str, answer: str) -> Iterator[dict[str, str]]:
    """What is wrong, more and more precisely."""
    import jsonschema_rs  # noqa: PLC0415 - loaded by main()

    try:
        validator = _compiled(schema_text)
    except SchemaRefusedError as error:
        yield {"keyword": "schema", "finding": error.reason}
        return
    value = json.loads(answer)
    if validator.is_valid(value):
        return
    yield {"keyword": "mismatch", "finding": "The answer does not match the schema."}
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        yield _described([error])
    if len(answer) <= _LONGEST_LISTED:
        yield _described(validator.iter_errors(value))


def _described(errors: "Iterable[jsonschema_rs.ValidationError]") -> dict[str, str]:
    keyword, lines, size = "", [], 0
    for error in errors:
        keyword = keyword or error.kind.name
        for line in _lines(error):
            lines.append(line)
            size += len(line.encode()) + 1
            if size > MAX_FINDING_BYTES:
                return {"keyword": keyword, "finding": "\n".join(lines)}
    return {"keyword": keyword, "finding": "\n".join(lines)}


def _lines(error: "jsonschema_rs.ValidationError", choice: str = "") -> Iterator[str]:
    """What is wrong, and where there were choices, what is wrong with each."""
    where = joined(error.instance_path) or "the top"
    message = "nothing may be here" if error.kind.name == "falseSchema" else error.message
    line = f"{choice}At {where}: {message}"
    yield line if len(line) <= _MAX_LINE_CHARACTERS else line[:_MAX_LINE_CHARACTERS] + "…"
    if error.kind.name in ("anyOf", "oneOf"):
        for number, branch in enumerate(getattr(error.kind, "context", ()), 1):
            for inner in branch:
                yield from _lines(inner, f"{choice}Choice {number}: ")


if __name__ == "__main__":
    main()
