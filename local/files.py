"""Files of the stack's own folder: replaced whole, locked, looked at from their end."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` in one step, so that a reader sees the old text or the new, never a part."""
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
    """A lock file held by one process at a time. The system drops it when its holder ends, however that happens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; never waits. The file then says who holds it."""
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
        """Whether it is this object that holds the lock."""
        return self._file is not None

    def holder(self) -> str:
        """What the present holder wrote: its process id, or "?" if it cannot be read."""
        with contextlib.suppress(OSError):
            return self._path.read_text(encoding="utf-8") or "?"
        return "?"

    def release(self) -> None:
        """Give the lock back; the file stays, for removing it could part two holders."""
        if self._file is not None:
            self._file.close()
            self._file = None


def kept(path: Path, make: Callable[[], str]) -> str:
    """The text in a file readable by us alone; made on first use."""
    if not path.exists():
        write_atomically(path, make())
    return path.read_text(encoding="ascii").strip()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a text file, or nothing if it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
