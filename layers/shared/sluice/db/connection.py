"""An execution environment's connection: made when first needed, kept between invocations, renewed when broken."""

import logging
import random
import re
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.abc import RV, AdaptContext, PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from sluice.config import Settings
from sluice.db.credentials import CredentialsError, connection_parameters, forget_secret
from sluice.domain.errors import DatabaseError, SluiceError

Row = dict[str, Any]
Connection = psycopg.Connection[Row]
T = TypeVar("T")
Readers = Mapping[str, Callable[[Any], Any]]
"""By column: what makes a domain object of a text or a JSON document."""

logger = logging.getLogger(__name__)

# The transaction was rolled back whole, so running it again is safe whatever it does.
_ROLLED_BACK: Final = (pg.DeadlockDetected, pg.SerializationFailure)
# The server runs but is overloaded.
_OVERLOADED: Final = (pg.QueryCanceled, pg.LockNotAvailable, pg.TooManyConnections, pg.InsufficientResources)
_RETRY_AFTER_SECONDS: Final = 5
# For how long (from, to) it is remembered that the server has no free connection, or does not take any yet: until then
# nobody tries again, so that many environments do not keep it busy with refusing them. Each further time that none is
# free doubles it, up to so many times.
REFUSED_SECONDS: Final = (1.0, 2.0)
_DOUBLINGS: Final = 2
# How a server that has no free connection says so. libpq passes on the SQLSTATE of a failed connect in no other way.
_NO_FREE_CONNECTION: Final = re.compile(
    "too many connections|too many clients already|remaining connection slots are reserved"
)
_NOT_YET: Final = re.compile("the database system is (starting up|shutting down|not (yet )?accepting|in recovery)")
# Until a connection knows its role's statement_timeout, and how much longer than that an answer may take.
CONNECT_PATIENCE_SECONDS: Final = 5.0
PATIENCE_MARGIN_SECONDS: Final = 1.0
# A connection that will be closed by the server within this time is not used any more.
_IDLE_MARGIN_SECONDS: Final = 1.0
_ATTEMPTS: Final = 4
SCHEMA: Final = "sluice"

# Act as a role from now on, with the settings that its own login would have.
ASSUME_ROLE: Final = """
    SELECT set_config(split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1), false)
    FROM pg_db_role_setting d
    CROSS JOIN unnest(d.setconfig) AS s (setting)
    WHERE d.setrole = to_regrole(%(role)s)
      AND d.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT set_config('role', %(role)s, false)"""
# One of the connections that a role may have (its CONNECTION LIMIT, which PostgreSQL itself holds only against logins).
# Each is an advisory lock, which the session keeps until it ends, however it ends.
_TAKE_SLOT: Final = """
    SELECT r.rolconnlimit AS slots, (
        SELECT slot FROM generate_series(1, r.rolconnlimit) AS slot
        WHERE pg_try_advisory_lock(hashtext(r.rolname), slot)
        LIMIT 1) AS slot
    FROM pg_roles r
    WHERE r.rolname = %(role)s"""
# How long the server lets a statement of this role run and its session idle, in seconds; 0: without limit.
_TIMEOUTS: Final = """
    SELECT extract(epoch FROM current_setting('statement_timeout')::interval)::double precision AS statement,
           extract(epoch FROM current_setting('idle_session_timeout')::interval)::double precision AS idle"""


def connect(settings: Settings) -> Connection:
    """Open a connection as the settings say.

    No named prepared statements: they pin a connection of RDS Proxy and break behind pgbouncer.

    Raises:
        psycopg.OperationalError: the server cannot be reached or refuses, or has no connection free for this role.
    """
    try:
        connection = _open(settings)
    except psycopg.OperationalError as error:
        if not settings.database_secret_arn or "authentication" not in str(error):
            raise
        forget_secret()
        connection = _open(settings)
    try:
        if settings.database_secret_arn and settings.database_role:
            _take_slot(connection, settings.database_role)
            connection.execute(ASSUME_ROLE, {"role": settings.database_role})
        timeouts = connection.execute(_TIMEOUTS).fetchone() or {}
    except BaseException:
        connection.close()
        raise
    # A role without a limit (the owner, migrating) waits as long as it takes.
    connection.patience = timeouts["statement"] + PATIENCE_MARGIN_SECONDS if timeouts.get("statement") else None
    connection.idle_seconds = timeouts["idle"] - _IDLE_MARGIN_SECONDS if timeouts.get("idle") else None
    return connection


def _take_slot(connection: Connection, role: str) -> None:
    """Hold the limit of a role's connections where all functions log in as one user.

    Raises:
        psycopg.errors.TooManyConnections: the role has as many as it may.
    """
    found = connection.execute(_TAKE_SLOT, {"role": role}).fetchone()
    if found is not None and found["slots"] >= 0 and found["slot"] is None:
        raise pg.TooManyConnections(f'too many connections for role "{role}"')


class PatientConnection(psycopg.Connection[Row]):
    """A connection that gives up on a server that no longer responds.

    A server that runs ends a statement that takes too long; a host that vanished or hangs says nothing, and TCP alone
    would wait for minutes.

    Attributes:
        patience: seconds that a statement may take, the server's own limit included; None: without limit.
        idle_seconds: how long it may be unused before the server closes it, less a margin; None: without limit.
    """

    patience: float | None = CONNECT_PATIENCE_SECONDS
    idle_seconds: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as psycopg does, but no longer than the patience, with psycopg's own error at its end."""
        return super().wait(gen, interval, self.patience if timeout is None else timeout)


def _open(settings: Settings) -> PatientConnection:
    return PatientConnection.connect(
        **connection_parameters(settings), autocommit=True, prepare_threshold=None, row_factory=dict_row
    )


class Database:
    """Calls functions of the schema, each call a transaction of its own.

    Every method takes the function's name, its arguments by keyword (`user_id=...` is its parameter p_user_id), and
    repeatable: running it twice does what running it once does, so it may be sent again when the connection was lost
    and it is unknown whether it was committed.

    Every method raises SluiceError (database_unavailable; nothing is known to have been written) and DatabaseError (the
    statement was refused).
    """

    def __init__(self, opener: Callable[[], Connection]) -> None:
        self._opener = opener
        self._connection: Connection | None = None
        self._used = _now()
        self._refusal = ""
        self._refused_until = 0.0
        self._crowded = 0  # how often in a row there was no free connection

    def rows(
        self,
        result: type[T],
        function: LiteralString,
        *,
        repeatable: bool = False,
        readers: Readers | None = None,
        **arguments: Any,
    ) -> list[T]:
        """Call a function that returns rows of a composite type.

        Args:
            result: a dataclass; each of its fields is a column of the same name.
            readers: for columns that hold domain objects; a column that is NULL is None.
        """
        columns = tuple(field.name for field in fields(result))  # type: ignore[arg-type]  # a dataclass
        rows = self._call(_statement(function, tuple(arguments), columns), arguments, repeatable)
        for column, read in (readers or {}).items():
            for row in rows:
                row[column] = None if row[column] is None else read(row[column])
        return [result(**row) for row in rows]

    def row(
        self,
        result: type[T],
        function: LiteralString,
        *,
        repeatable: bool = False,
        readers: Readers | None = None,
        **arguments: Any,
    ) -> T:
        """Call a function that returns one row of a composite type; otherwise as rows()."""
        (row,) = self.rows(result, function, repeatable=repeatable, readers=readers, **arguments)
        return row

    def values(self, function: LiteralString, *, repeatable: bool = False, **arguments: Any) -> list[Any]:
        """Call a function that returns a set of single values."""
        rows = self._call(_statement(function, tuple(arguments), None), arguments, repeatable)
        return [row["value"] for row in rows]

    def value(self, function: LiteralString, *, repeatable: bool = False, **arguments: Any) -> Any:
        """Call a function that returns a single value, or None if it returns nothing."""
        (value,) = self.values(function, repeatable=repeatable, **arguments)
        return value

    def open(self) -> None:
        """Connect now instead of at the first call."""
        if self._connection is None:
            self._connection = self._connect()

    def ping(self) -> None:
        """Make sure that the database answers."""
        self._call(sql.SQL("SELECT 1 AS answer"), {}, repeatable=True)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, statement: sql.SQL | sql.Composed, arguments: Mapping[str, Any], repeatable: bool) -> list[Row]:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._run(statement, arguments)
            except _ROLLED_BACK:
                if attempt == _ATTEMPTS:
                    raise _unavailable("is busy") from None
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, not a secret
            except _OVERLOADED as error:
                self.close()
                logger.warning("database overloaded", extra={"sqlstate": error.sqlstate})
                raise _unavailable("is overloaded") from None
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self.close()
                logger.warning("database connection failed", extra={"sqlstate": error.sqlstate})
                if not repeatable or attempt > 1:
                    raise _unavailable("cannot be reached") from None
            except psycopg.Error as error:
                raise DatabaseError(error.sqlstate, error.diag.constraint_name) from None
        raise AssertionError("unreachable")

    def _run(self, statement: sql.SQL | sql.Composed, arguments: Mapping[str, Any]) -> list[Row]:
        if self._connection is not None and (self._has_idled() or _is_dead(self._connection)):
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        try:
            return self._connection.execute(statement, arguments).fetchall()
        finally:
            self._used = _now()

    def _has_idled(self) -> bool:
        """Return True if the server has closed the connection by now, or will at any moment.

        An environment that was frozen may not have been told yet.
        """
        limit = getattr(self._connection, "idle_seconds", None)
        return limit is not None and max(now - used for now, used in zip(_now(), self._used, strict=True)) > limit

    def _connect(self) -> Connection:
        """Connect, unless that has just failed.

        Raises:
            SluiceError: database_unavailable.
        """
        if time.monotonic() < self._refused_until:
            raise _unavailable(self._refusal)
        try:
            connection = self._opener()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            why: str = "cannot be reached"
            doublings: int | None = 0
            if isinstance(error, pg.TooManyConnections) or _NO_FREE_CONNECTION.search(str(error)):
                why, doublings = "has no free connection", min(self._crowded, _DOUBLINGS)
                self._crowded += 1
            # What is refused at once because nobody listens costs nothing, and the server may be back at any moment.
            elif not (isinstance(error, pg.ConnectionTimeout) or _NOT_YET.search(str(error))):
                doublings = None
            logger.warning("no database connection", extra={"sqlstate": error.sqlstate, "why": why})
        except CredentialsError as error:
            why, doublings = "has no credentials to be reached with", 0
            logger.warning("database credentials cannot be had", extra={"error": str(error)})
        else:
            self._crowded = 0
            return connection
        if doublings is not None:
            pause = random.uniform(*REFUSED_SECONDS) * 2**doublings  # noqa: S311 - jitter, not a secret
            self._refusal, self._refused_until = why, time.monotonic() + pause
        raise _unavailable(why)


class _Statement(sql.Composed):
    """Makes its text once: psycopg asks for it at each execution. The text is ASCII, so the same in every encoding."""

    def __init__(self, composed: sql.Composed) -> None:
        super().__init__(list(composed))
        self._text: bytes | None = None

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        if self._text is None:
            self._text = super().as_bytes(context)
        return self._text


@cache
def _statement(function: LiteralString, arguments: tuple[str, ...], columns: tuple[str, ...] | None) -> _Statement:
    """The call of a function: its columns by name, so that columns which a newer version adds are not in the way."""
    call = sql.SQL("{}({})").format(
        sql.Identifier(SCHEMA, function),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder(name)) for name in arguments
        ),
    )
    if columns is None:
        return _Statement(sql.SQL("SELECT {} AS value").format(call))
    return _Statement(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(map(sql.Identifier, columns)), call))


def _is_dead(connection: Connection) -> bool:
    """Return True if an idle connection was closed by the server.

    An idle server sends little, so a readable socket most often holds its last message (a restart, an idle timeout).
    Seen before anything is sent, it makes a reconnect safe for every statement.
    """
    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
        return True
    wait = 0.0
    # That message and the end of the stream come one after the other; a mere notice is followed by nothing.
    while select.select([connection.fileno()], [], [], wait)[0]:
        try:
            connection.pgconn.consume_input()
        except psycopg.Error:
            return True
        wait = 0.01
    return False


def _now() -> tuple[float, float]:
    """The time by both clocks, in seconds: either may stand still while an environment is frozen."""
    return time.monotonic(), time.time()


def _unavailable(why: str) -> SluiceError:
    return SluiceError(
        "database_unavailable",
        f"The database {why}. Try again later.",
        retry_after=_RETRY_AFTER_SECONDS,
    )
