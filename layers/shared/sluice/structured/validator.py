"""Whether a model's answer is what was asked for, found out within a deadline whatever schema and answer are.

A schema may refer to itself twice in one place, and then an answer that is nested thirty deep takes a billion steps.
The library cannot be interrupted, and may overflow its stack. So it works in a process of its own, which is killed at
the deadline. Lambda has no /dev/shm, which Python's own pools of processes need: this is one child with one socket.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sluice.structured import MAX_FINDING_BYTES
from sluice.structured.strict_json import StrictJsonError, parsed

MAX_DEPTH: Final = 100
"""How many objects and arrays of an answer may lie in each other."""

# The start takes a tenth of a second; a cold disk and other processes may make it longer.
_START_SECONDS: Final = 5.0
_FENCE: Final = "```"
# All that the child gets of the environment: where Lambda's Python finds its libraries. It needs no credentials.
_KEPT: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class Fault:
    """Why an answer is not what was asked for.

    Attributes:
        keyword: the keyword of JSON Schema that it does not meet; or json: it is not JSON, or none that can be kept;
            schema: the schema cannot be used; mismatch: it does not match, and why takes too long to say; timeout: it
            could not be found out in time. No text of the schema or the answer, so it may be logged.
        finding: what a model has to know to repair it: where, and what is expected. At most 500 bytes of UTF-8. It may
            quote the schema and the answer.
    """

    keyword: str
    finding: str


_TIMEOUT: Final = Fault("timeout", "The answer could not be compared with the schema in time. Make it simpler.")


def answer_text(text: str) -> str:
    """The answer in what a model wrote: without white space around it, and without one Markdown fence.

    Models that know no response format like to write ```json … ```. Anything else around the answer stays.
    """
    text = text.strip()
    if len(text) < 2 * len(_FENCE) or not text.startswith(_FENCE) or not text.endswith(_FENCE):
        return text
    # JSON never begins with a letter of "json", so nothing of the answer is lost.
    return text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()


class Validator:
    """Validates answers in a child process: one for all threads, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def find_fault(self, schema_text: str | None, answer: str, *, deadline_seconds: float = 2.0) -> Fault | None:
        """Validate an answer; None: it is what was asked for.

        Args:
            schema_text: a schema that check_schema() accepted. None: any JSON object will do.
            deadline_seconds: how long validating may take. Waiting for other threads and starting the child are not
                counted; the latter takes a tenth of a second, or the fault is timeout after five, twice.
        """
        try:
            value = parsed(answer, MAX_DEPTH)
        except StrictJsonError as error:
            return _fault("json", error.reason)
        if schema_text is None:
            return None if isinstance(value, dict) else _fault("type", "The answer must be a JSON object.")
        with self._lock:
            for _ in range(2):
                answered, said = False, None
                try:
                    self._child = self._child or _Child()
                    for reply in self._child.ask(schema_text, answer, deadline_seconds):
                        answered, said = True, reply
                except TimeoutError:
                    self._stop()
                    return _fault(said["keyword"], said["finding"]) if said else _TIMEOUT
                except (OSError, ValueError):
                    self._stop()
                except BaseException:
                    # Whatever stopped this thread: the next one must not read the answer to this job.
                    self._stop()
                    raise
                if answered:
                    return _fault(said["keyword"], said["finding"]) if said else None
                # The child died before it knew anything. It may not have been this answer that killed it.
        return _TIMEOUT

    def close(self) -> None:
        """End the child. The next call starts another one."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None


def _fault(keyword: str, finding: str) -> Fault:
    return Fault(keyword, finding.encode()[:MAX_FINDING_BYTES].decode(errors="ignore"))


class _Child:
    """A running child. Its standard input and output are one socket, because sockets have timeouts."""

    def __init__(self) -> None:
        self._received = b""
        self._socket, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo:
            undo.callback(self._socket.close)
            with theirs:
                self._process = subprocess.Popen(
                    # Without site: the paths are given, and it starts sooner.
                    [sys.executable, "-S", "-P", "-m", "sluice.structured.child"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    # A library that fails prints what it was working on.
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    # Ctrl-C in a terminal is for the parent, with which the child ends.
                    start_new_session=True,
                )
            undo.callback(self._end)
            try:
                self._receive(time.monotonic() + _START_SECONDS)
            except TimeoutError:
                raise ConnectionError("the validator did not start in time") from None
            undo.pop_all()

    def ask(self, schema_text: str, answer: str, seconds: float) -> Iterator[dict[str, str] | None]:
        """What is wrong with an answer, more and more precisely; None alone: nothing.

        Raises:
            TimeoutError: it took longer.
            OSError, ValueError: the child is dead.
        """
        until = time.monotonic() + seconds
        self._socket.settimeout(seconds)
        job = {"schema": schema_text, "answer": answer, "seconds": seconds}
        self._socket.sendall(json.dumps(job).encode() + b"\n")
        last = False
        while not last:
            reply = self._receive(until)
            last = reply["last"]
            yield reply["fault"]

    def stop(self) -> None:
        """Kill it."""
        self._end()
        self._socket.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionError("the validator has ended")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        received: dict[str, Any] = json.loads(line)
        return received


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path)
    return {"PYTHONPATH": paths, **{name: os.environ[name] for name in _KEPT if name in os.environ}}
