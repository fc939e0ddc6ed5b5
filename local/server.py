"""Base class of the stack's servers: a child process that is started first and waited for later."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from local.errors import LocalError
from local.files import tail
from local.processes import Process, wait_until

_START_SECONDS = 60.0  # PostgreSQL's recovery after a crash included


class Server(ABC):
    """A server in a child process. A subclass starts the process and says when it is ready.

    Attributes:
        name: what messages call it.
        log: the file that it writes to.
        port: where it listens; 0 until it is started for the first time, unless a port was requested.
    """

    name: ClassVar[str]

    def __init__(self, log: Path, port: int | None) -> None:
        self.log = log
        self.port = port or 0
        self._requested_port = port
        self._process: Process | None = None

    @property
    def process(self) -> Process | None:
        """The server process; None if it was not started or has been stopped."""
        return self._process

    @property
    def alive(self) -> bool:
        """True while the server process runs."""
        return self._process is not None and self._process.alive

    def wait_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            LocalError: it ended, or did not answer in time; the message has the end of its log.
        """
        if not self._becomes_ready():
            raise self._not_started(tail(self.log))

    def stop(self) -> None:
        """Stop the server. Safe to call if it does not run."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    @abstractmethod
    def _ready(self) -> bool:
        """Return True if the server answers now."""

    def _becomes_ready(self) -> bool:
        """Wait until the server is ready or has ended; return True if it is ready."""
        wait_until(lambda: not self.alive or self._ready(), _START_SECONDS)
        return self.alive and self._ready()

    def _not_started(self, log_tail: str) -> LocalError:
        title = self.name[0].upper() + self.name[1:]
        return LocalError(f"{title} did not start. The end of its log, {self.log}:\n{log_tail}")
