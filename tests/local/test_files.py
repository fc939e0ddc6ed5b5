"""Files in the stack's folder: atomic writes, permissions, locks, ends of logs."""

import subprocess
import sys
from pathlib import Path

import pytest

from local.files import Lock, read_or_create, tail, write_atomically


def test_only_the_owner_can_read_a_written_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "stack.json", "{}")
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600


def test_write_replaces_the_file_atomically(tmp_path: Path) -> None:
    target = tmp_path / "stack.json"
    write_atomically(target, "old")
    with target.open() as reader:
        write_atomically(target, "new")
        assert reader.read() == "old"
    assert target.read_text() == "new"


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "stack.json"
    write_atomically(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(target, "half \udc80")
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]
    assert target.read_text() == "old"


def test_text_is_created_only_once(tmp_path: Path) -> None:
    assert read_or_create(tmp_path / "password", lambda: "first") == "first"
    assert read_or_create(tmp_path / "password", lambda: "second") == "first"


def test_lock_has_one_known_holder(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert second.holder().isdigit()
    first.release()
    assert second.acquire()
    second.release()


def test_killed_holder_releases_the_lock(tmp_path: Path) -> None:
    take_and_die = (
        "import os, signal, sys; from pathlib import Path; from local.files import Lock; "
        "assert Lock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", take_and_die, tmp_path / "lock"], cwd=root, check=False)
    assert died.returncode == -9
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()


def test_tail_returns_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"\xff first\nsecond\nthird\n")
    assert tail(log, 2) == "second\nthird"
    assert tail(tmp_path / "none.log") == ""
