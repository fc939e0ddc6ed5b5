"""The data directory of a PostgreSQL server: made, recognised, mended, given its settings and password."""

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

#: Nothing of the caller's: neither its PG* variables nor its locale may change what the server does.
ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_NEEDED = ("PG_VERSION", "global/pg_control", "postgresql.conf")


class Cluster:
    """A data directory (PostgreSQL calls what is in it a database cluster) while no server runs on it.

    `programs` is the folder of PostgreSQL's programs, `settings` go beside postgresql.conf, and `notes` receives a
    sentence about whatever was found and mended. With `durable=False` making it does not wait for the disk.
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
        """Leave a complete directory with these settings and, if it or the password is new, this superuser password.

        LocalError if what is there belongs to another user or to another version of PostgreSQL.
        """
        # Under another name until it is complete, so that an interruption leaves nothing that looks like data.
        fresh = self._directory.with_name(self._directory.name + ".new")
        if fresh.exists():
            shutil.rmtree(fresh)
            self._notes.append("Removed what an interrupted first start had left of a data directory.")
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
            self._notes.append("Gave the database a new password, for the file with the old one was gone.")

    def _check_version(self) -> None:
        version = (self._directory / "PG_VERSION").read_text().strip()
        if version != MAJOR_VERSION:
            raise LocalError(
                f"{self._directory} holds data of PostgreSQL {version}, and this is PostgreSQL {MAJOR_VERSION}: "
                "move that directory away, or dump and restore it."
            )

    def _set_aside(self) -> None:
        """Move away what is no data directory. Removing it is not for us: the path may have been given by mistake."""
        if not any(self._directory.iterdir()):
            self._directory.rmdir()
            return
        number = 1
        while (aside := self._directory.with_name(f"{self._directory.name}.incomplete-{number}")).exists():
            number += 1
        self._directory.rename(aside)
        self._notes.append(f"The data directory was incomplete: moved it to {aside} and made a new one.")

    def _initialise(self, directory: Path) -> None:
        self._run(
            "initdb",
            f"--pgdata={directory}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            # The same order of text on every machine, whatever locales it has.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            # Replaced below; nobody can connect before that.
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
        # Single-user mode: no password is needed, none shows in a process list, and no server listens meanwhile.
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
        # Single-user mode ends well whatever became of its statements.
        if ran.returncode != 0 or "ERROR:" in ran.stderr:
            raise LocalError(f"PostgreSQL's {name} failed:\n{ran.stderr.strip() or ran.stdout.strip()}")
