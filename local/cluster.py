"""The data directory of a PostgreSQL server: creation, checks, repair, settings and password."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from psycopg import sql

from local.account import Account
from local.errors import LocalError
from local.files import write_atomically
from local.ports import LOOPBACK

MAJOR_VERSION = "18"
SUPERUSER = "postgres"

# Without the caller's PG* variables and locale, which would change how the server works.
ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_NEEDED = ("PG_VERSION", "global/pg_control", "postgresql.conf")


class Cluster:
    """A data directory (PostgreSQL's term is database cluster) while no server runs on it.

    Args:
        directory: its path.
        account: owns it.
        programs: the folder of PostgreSQL's programs.
        settings: written to a file that postgresql.conf includes.
        durable: False if creating it need not wait for the disk.
        notes: gets a sentence about every repair.
    """

    def __init__(
        self,
        directory: Path,
        account: Account,
        programs: Path,
        *,
        settings: Mapping[str, str],
        durable: bool,
        notes: list[str],
    ) -> None:
        self._directory = directory
        self._account = account
        self._programs = programs
        self._settings = settings
        self._durable = durable
        self._notes = notes

    def prepare(self, password: str, *, password_is_new: bool) -> None:
        """Make sure that the directory is complete and has these settings, and set a new password.

        Args:
            password: the superuser's.
            password_is_new: True to set it in an existing directory too.

        Raises:
            LocalError: the directory belongs to another user or another version of PostgreSQL.
        """
        # Created under another name, so that an interruption leaves no incomplete data directory.
        fresh = self._directory.with_name(self._directory.name + ".new")
        if fresh.exists():
            shutil.rmtree(fresh)
            self._notes.append("Removed the incomplete data directory of an interrupted first start.")
        if self._directory.exists() and not self._account.owns(self._directory):
            raise LocalError(f"{self._directory} was made by another user: run as that one, or remove it.")
        if self._directory.exists() and not all((self._directory / name).is_file() for name in _NEEDED):
            self._set_aside()
        if not self._directory.exists():
            fresh.mkdir(mode=0o700)
            self._account.give(fresh)
            self._initialise(fresh)
            self._set_password(fresh, password)
            fresh.rename(self._directory)
            return
        self._check_version()
        self._write_settings(self._directory)
        if password_is_new:
            self._set_password(self._directory, password)
            self._notes.append("Set a new database password, because the file with the old one was missing.")

    def _check_version(self) -> None:
        version = (self._directory / "PG_VERSION").read_text().strip()
        if version != MAJOR_VERSION:
            raise LocalError(
                f"{self._directory} holds data of PostgreSQL {version}, and this is PostgreSQL {MAJOR_VERSION}: "
                "move that directory away, or dump and restore it."
            )

    def _set_aside(self) -> None:
        """Move away a directory that is not a data directory. Not removed: the path may be a mistake."""
        if not any(self._directory.iterdir()):
            self._directory.rmdir()
            return
        number = 1
        while (aside := self._directory.with_name(f"{self._directory.name}.incomplete-{number}")).exists():
            number += 1
        self._directory.rename(aside)
        self._notes.append(f"The data directory was incomplete: moved it to {aside} and created a new one.")

    def _initialise(self, directory: Path) -> None:
        self._run(
            "initdb",
            f"--pgdata={directory}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            # Text sorts the same on every machine, whatever locales it has.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            # Replaced below; no connection is possible before that.
            "--auth=reject",
            "--no-instructions",
            *([] if self._durable else ["--no-sync"]),
        )
        (directory / "pg_hba.conf").write_text(f"host all all {LOOPBACK}/32 scram-sha-256\n")
        with (directory / "postgresql.conf").open("a") as configuration:
            configuration.write("\ninclude 'sluice.conf'  # written at each start\n")
        self._write_settings(directory)

    def _set_password(self, directory: Path, password: str) -> None:
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(SUPERUSER), sql.Literal(password))
        # Single-user mode: needs no password, shows none in the process list, and opens no port.
        self._run("postgres", "--single", "-D", str(directory), "postgres", given=statement.as_string() + "\n")

    def _write_settings(self, directory: Path) -> None:
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        write_atomically(directory / "sluice.conf", "\n".join(lines) + "\n", mode=0o644)

    def _run(self, name: str, *arguments: str, given: str = "") -> None:
        ran = subprocess.run(
            [self._programs / name, *arguments],
            check=False,
            input=given,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd="/",
            **self._account.run_as(),
        )
        # Single-user mode exits with 0 even if its statements failed.
        if ran.returncode != 0 or "ERROR:" in ran.stderr:
            raise LocalError(f"PostgreSQL's {name} failed:\n{ran.stderr.strip() or ran.stdout.strip()}")
