"""Processes: identified by later runs, stopped with their children, never confused with others."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from local.processes import (
    Process,
    ProcessIdentity,
    ProcessRecord,
    end,
    group_members,
    kill_group,
    stopping_on_signals,
    wait_until,
)

# Starts a child that ignores SIGTERM, prints a line when it does, and waits.
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {CHILD!r}]); time.sleep(600)"
FAMILY = [sys.executable, "-c", PARENT]


@pytest.mark.parametrize("ending", [Process.stop, Process.kill])
def test_stop_and_kill_end_the_whole_group(start: Callable[..., Process], ending: Callable[[Process], None]) -> None:
    family = start(FAMILY)
    assert wait_until(lambda: family.log.read_text() == "1\n", 30)
    assert len(group_members(family.pid)) == 2
    ending(family)
    assert not family.alive
    assert group_members(family.pid) == []
    ending(family)


def test_stop_ends_the_children_of_a_dead_leader(start: Callable[..., Process]) -> None:
    family = start(FAMILY)
    assert wait_until(lambda: family.log.read_text() == "1\n", 30)
    family.signal(signal.SIGKILL)
    assert family.wait(30)
    assert family.exit_code == -signal.SIGKILL
    family.stop()
    assert group_members(family.pid) == []


def test_stop_closes_stdin(start: Callable[..., Process]) -> None:
    reader = start([sys.executable, "-c", "import sys; sys.stdin.read()"], keep_stdin=True)
    assert reader.alive
    reader.stop()
    assert not reader.alive


def test_log_has_both_output_streams(start: Callable[..., Process]) -> None:
    speaker = start([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"])
    assert speaker.wait(30)
    assert speaker.exit_code == 3
    assert sorted(speaker.log_tail().splitlines()) == ["err", "out"]


def test_identity_is_valid_while_the_process_runs(orphan: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(orphan.pid, "a server")
    assert identity is not None
    assert identity.alive()
    orphan.kill()
    orphan.wait()
    assert not identity.alive()
    assert ProcessIdentity.of(orphan.pid, "a server") is None


def test_process_with_a_reused_id_is_not_stopped(orphan: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(orphan.pid, "a server")
    assert identity is not None
    other = replace(identity, started="another time")
    assert not other.alive()
    assert not end(other)
    assert orphan.poll() is None


def test_recorded_process_can_be_stopped(tmp_path: Path, start: Callable[..., Process]) -> None:
    path = tmp_path / "processes.json"
    process = start(name="the emulator")
    ProcessRecord(path).add(process)
    [leftover] = ProcessRecord(path).leftovers()
    assert leftover == process.identity
    assert end(leftover)
    assert not leftover.alive()


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '[{"name": "x"}]', '{"pid": 1}', '[{"name": 1, "pid": [], "started": 1}]']
)
def test_damaged_record_counts_as_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "processes.json").write_text(content)
    assert list(ProcessRecord(tmp_path / "processes.json").leftovers()) == []


def test_cleared_record_is_removed(tmp_path: Path, start: Callable[..., Process]) -> None:
    record = ProcessRecord(tmp_path / "processes.json")
    record.add(start())
    record.clear()
    record.clear()
    assert list(record.leftovers()) == []
    assert not (tmp_path / "processes.json").exists()


def test_kill_of_an_empty_group_does_nothing(orphan: subprocess.Popen[bytes]) -> None:
    orphan.kill()
    orphan.wait()
    kill_group(orphan.pid)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stop_signals_raise_keyboard_interrupt(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)

    def be_interrupted() -> None:
        with stopping_on_signals():
            os.kill(os.getpid(), signum)
            signal.pause()

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert signal.getsignal(signum) is before
