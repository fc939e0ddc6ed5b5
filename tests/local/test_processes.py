"""Processes: recognised again by another run, ended with all that they started, never mistaken for others."""

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

# Starts a child that ignores every request to end, says so, and waits.
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {CHILD!r}]); time.sleep(600)"
FAMILY = [sys.executable, "-c", PARENT]


@pytest.mark.parametrize("ending", [Process.stop, Process.kill])
def test_a_process_ends_when_told_and_leaves_no_member_of_its_group(
    start: Callable[..., Process], ending: Callable[[Process], None]
) -> None:
    family = start(FAMILY)
    assert wait_until(lambda: family.log.read_text() == "1\n", 30)
    assert len(group_members(family.pid)) == 2
    ending(family)
    assert not family.alive
    assert group_members(family.pid) == []
    ending(family)


def test_stopping_one_that_has_died_ends_what_it_left(start: Callable[..., Process]) -> None:
    family = start(FAMILY)
    assert wait_until(lambda: family.log.read_text() == "1\n", 30)
    family.signal(signal.SIGKILL)
    assert family.wait(30)
    assert family.exit_code == -signal.SIGKILL
    family.stop()
    assert group_members(family.pid) == []


def test_a_kept_stdin_closes_with_its_holder(start: Callable[..., Process]) -> None:
    reader = start([sys.executable, "-c", "import sys; sys.stdin.read()"], keep_stdin=True)
    assert reader.alive
    reader.stop()
    assert not reader.alive


def test_the_log_gets_what_the_process_says(start: Callable[..., Process]) -> None:
    speaker = start([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"])
    assert speaker.wait(30)
    assert speaker.exit_code == 3
    assert sorted(speaker.log_tail().splitlines()) == ["err", "out"]


def test_an_identity_holds_while_the_process_lives(orphan: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(orphan.pid, "a server")
    assert identity is not None
    assert identity.alive()
    orphan.kill()
    orphan.wait()
    assert not identity.alive()
    assert ProcessIdentity.of(orphan.pid, "a server") is None


def test_a_process_with_the_same_id_but_another_start_is_left_alone(orphan: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(orphan.pid, "a server")
    assert identity is not None
    stranger = replace(identity, started="another time")
    assert not stranger.alive()
    assert not end(stranger)
    assert orphan.poll() is None


def test_a_leftover_is_ended_by_its_record(tmp_path: Path, start: Callable[..., Process]) -> None:
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
def test_a_damaged_record_counts_as_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "processes.json").write_text(content)
    assert list(ProcessRecord(tmp_path / "processes.json").leftovers()) == []


def test_a_record_that_was_cleared_is_gone(tmp_path: Path, start: Callable[..., Process]) -> None:
    record = ProcessRecord(tmp_path / "processes.json")
    record.add(start())
    record.clear()
    record.clear()
    assert list(record.leftovers()) == []
    assert not (tmp_path / "processes.json").exists()


def test_killing_an_empty_group_does_nothing(orphan: subprocess.Popen[bytes]) -> None:
    orphan.kill()
    orphan.wait()
    kill_group(orphan.pid)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_signal_to_stop_takes_one_way_out(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)

    def be_interrupted() -> None:
        with stopping_on_signals():
            os.kill(os.getpid(), signum)
            signal.pause()

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert signal.getsignal(signum) is before
