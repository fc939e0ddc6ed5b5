"""Fixtures for the local stack: processes and a PostgreSQL server that are cleaned up after each test."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.postgres import Postgres
from local.processes import Process

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes and stops them after the test."""
    started: list[Process] = []

    def start(command: list[str] = SLEEPER, *, name: str = "a server", keep_stdin: bool = False) -> Process:
        process = Process.start(
            name, command, log=tmp_path / "process.log", env=dict(os.environ), keep_stdin=keep_stdin
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop(seconds=0)


@pytest.fixture
def orphan() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads its own group and is not watched, as left behind by a killed run."""
    process = subprocess.Popen(SLEEPER, start_new_session=True)
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server that has not been started yet."""
    server = Postgres(tmp_path / "postgres", durable=False)
    yield server
    server.destroy()


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port of 127.0.0.1 that is in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
