"""Files in the stack's folder: atomic writes, locks, ends of logs."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file in one step, so that readers see either the old text or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as output:
            os.fchmod(descriptor, mode)
            output.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Lock:
    """A lock file held by one process at a time. The system releases it when its holder ends, even if killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock and write the process id to the file; return False, without waiting, if it is taken."""
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return True

    @property
    def held(self) -> bool:
        """True if this object holds the lock."""
        return self._file is not None

    def holder(self) -> str:
        """Return the process id of the holder, or "?" if it is unknown."""
        with contextlib.suppress(OSError):
            return self._path.read_text(encoding="utf-8") or "?"
        return "?"

    def release(self) -> None:
        """Release the lock. The file stays: if it were removed, two processes could lock different files."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """Return the text of a file that only its owner can read; create it on first use."""
    if not path.exists():
        write_atomically(path, make())
    return path.read_text(encoding="ascii").strip()


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a text file, or an empty string if it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
