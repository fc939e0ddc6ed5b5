"""The files of the stack's folder: replaced whole, private, locked by one run at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from local.files import Lock, kept, tail, write_atomically


def test_a_file_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "stack.json", "{}")
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "stack.json"
    write_atomically(target, "old")
    with target.open() as reader:
        write_atomically(target, "new")
        assert reader.read() == "old"
    assert target.read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "stack.json"
    write_atomically(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(target, "half \udc80")
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]
    assert target.read_text() == "old"


def test_a_kept_text_is_made_once(tmp_path: Path) -> None:
    assert kept(tmp_path / "password", lambda: "first") == "first"
    assert kept(tmp_path / "password", lambda: "second") == "first"


def test_a_lock_has_one_holder_who_is_known(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert second.holder().isdigit()
    first.release()
    assert second.acquire()
    second.release()


def test_a_lock_falls_with_its_holder_however_it_dies(tmp_path: Path) -> None:
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


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"\xff first\nsecond\nthird\n")
    assert tail(log, 2) == "second\nthird"
    assert tail(tmp_path / "none.log") == ""
