"""Which signals stop a run: those that were ignored when it began stay ignored, except for SIGTERM."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.processes import stopping_on_signals

ROOT = Path(__file__).parents[2]


@contextmanager
def ignoring(signum: signal.Signals) -> Iterator[None]:
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(signum: signal.Signals) -> None:
    with ignoring(signum), stopping_on_signals():
        os.kill(os.getpid(), signum)
        assert signal.getsignal(signum) is signal.SIG_IGN


def test_sigterm_always_stops() -> None:
    def be_terminated() -> None:
        with ignoring(signal.SIGTERM), stopping_on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    with pytest.raises(KeyboardInterrupt):
        be_terminated()


# Output that cannot be written ----------------------------------------------------------------------------------------


def close_output() -> None:
    os.close(1)


def fill_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def break_output() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)


@pytest.mark.parametrize("prepare", [close_output, fill_output, break_output])
@pytest.mark.parametrize("command", [["run"], ["demo"], ["--help"]])
def test_nothing_is_started_that_cannot_be_shown(
    tmp_path: Path, command: list[str], prepare: Callable[[], None]
) -> None:
    arguments = command if "--help" in command else [*command, "--state", str(tmp_path / "state")]
    done = subprocess.run(
        [sys.executable, "-m", "local", *arguments],
        cwd=ROOT,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith("sluice: The output cannot be written: ")
    assert not (tmp_path / "state").exists()
