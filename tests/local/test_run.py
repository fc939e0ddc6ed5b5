"""The command `python -m local`: errors are one sentence, and the next run cleans up after a killed one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.__main__ import main
from local.files import Lock
from local.processes import Process, ProcessIdentity, ProcessRecord, group_members, wait_until
from local.stack import Stack

ROOT = Path(__file__).parents[2]


def test_second_run_in_the_same_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = Lock(tmp_path / "stack.lock")
    assert lock.acquire()
    (tmp_path / "stack.json").write_text("from the first run")
    try:
        assert main(["run", "--state", str(tmp_path)]) == 1
    finally:
        lock.release()
    assert f"already running in {tmp_path} (process {os.getpid()})" in capsys.readouterr().err
    assert (tmp_path / "stack.json").read_text() == "from the first run"


@pytest.mark.parametrize("option", ["--api-port", "--llm-port", "--database-port"])
def test_port_in_use_is_one_sentence(
    state: Path, busy_port: int, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--state", str(state), option, str(busy_port)]) == 1
    said = capsys.readouterr().err
    assert f"Port {busy_port}, asked for by {option}" in said
    assert len(said.splitlines()) == 1
    assert not (state / "processes.json").exists()


def test_leftovers_of_a_killed_run_are_removed(
    tmp_path: Path, busy_port: int, start: Callable[..., Process], capsys: pytest.CaptureFixture[str]
) -> None:
    leftover = start(name="the AWS emulator")
    ProcessRecord(tmp_path / "processes.json").add(leftover)
    (tmp_path / "stack.json").write_text("{}")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "unpacked").touch()
    # The busy port stops it after the clean-up and before it starts anything.
    assert main(["run", "--state", str(tmp_path), "--api-port", str(busy_port)]) == 1
    assert wait_until(lambda: not leftover.alive, 30)
    assert not (tmp_path / "stack.json").exists()
    assert not (tmp_path / "tmp").exists()
    assert f"Stopped the AWS emulator (process {leftover.pid}), left behind" in capsys.readouterr().out


def test_run_restores_signal_handlers(tmp_path: Path, busy_port: int) -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(each) for each in signals]
    main(["run", "--state", str(tmp_path), "--api-port", str(busy_port)])
    assert [signal.getsignal(each) for each in signals] == before


class Run:
    """`python -m local run` as a process."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.output = state / "output"
        state.mkdir(exist_ok=True)
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local", "run", "--no-prompt", "--state", str(state)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert wait_until(lambda: "Serving until" in self.text or self.process.poll() is not None, 180)
        assert self.process.poll() is None, self.text
        self.servers = list(ProcessRecord(state / "processes.json").leftovers())

    @property
    def text(self) -> str:
        return self.output.read_text()

    def still_running(self) -> list[ProcessIdentity]:
        return [each for each in self.servers if each.alive() or group_members(each.pid)]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    yield folder
    for leftover in ProcessRecord(folder / "processes.json").leftovers():
        if leftover.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leftover.pid, signal.SIGKILL)
    Stack(folder).destroy()
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.xdist_group("stack")
def test_next_run_cleans_up_after_a_kill_and_restarts_only_the_database(state: Path) -> None:
    killed = Run(state)
    killed.process.kill()
    killed.process.wait()
    assert (state / "stack.json").exists()

    run = Run(state)
    assert killed.still_running() == []
    assert "left behind by a run that was killed" in run.text
    info = json.loads((state / "stack.json").read_text())
    assert set(info["pids"].values()) <= {server.pid for server in run.servers}

    os.kill(info["pids"]["postgres"], signal.SIGKILL)
    assert wait_until(lambda: "It runs again." in run.text, 60), run.text
    assert "PostgreSQL ended by itself (exit code -9)" in run.text
    revived = json.loads((state / "stack.json").read_text())
    assert revived["pids"]["postgres"] != info["pids"]["postgres"]
    assert revived | {"pids": info["pids"]} == info
    run.servers = list(ProcessRecord(state / "processes.json").leftovers())

    os.kill(info["pids"]["ministack"], signal.SIGKILL)
    assert run.process.wait(60) == 1
    assert "sluice: The AWS emulator ended by itself (exit code -9)" in run.text
    assert run.still_running() == []
    assert not (state / "stack.json").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("stack")
def test_terminated_run_shuts_down_cleanly(state: Path) -> None:
    run = Run(state)
    run.process.terminate()
    assert run.process.wait(60) == 0
    assert run.still_running() == []
    assert not (state / "stack.json").exists()
    assert not (state / "tmp").exists()
    assert (state / "logs" / "functions" / "migrate.log").read_text().startswith("START")
