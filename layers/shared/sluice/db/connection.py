"""An execution environment's connection: made when first needed, kept between invocations, renewed when broken."""

import logging
import random
import select
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from psycopg import errors as pg
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from sluice.config import Settings
from sluice.db.credentials import connection_parameters, forget_secret
from sluice.db.queries import query
from sluice.errors import DatabaseError, SluiceError

Row = dict[str, Any]
Connection = psycopg.Connection[Row]

logger = logging.getLogger(__name__)

# The transaction was rolled back whole, so running it again is safe whatever it does.
_ROLLED_BACK: Final = (pg.DeadlockDetected, pg.SerializationFailure)
# The server is there but has no room or time for us.
_OVERLOADED: Final = (pg.QueryCanceled, pg.LockNotAvailable, pg.TooManyConnections, pg.InsufficientResources)
_RETRY_AFTER_SECONDS: Final = 5
# Until a connection knows its role's statement_timeout, and how much longer than that an answer may take.
CONNECT_PATIENCE_SECONDS: Final = 5.0
PATIENCE_MARGIN_SECONDS: Final = 1.0
_ATTEMPTS: Final = 4


def connect(settings: Settings) -> Connection:
    """Open a connection as the settings say.

    No named prepared statements: they pin a connection of RDS Proxy and break behind pgbouncer.

    Raises:
        psycopg.OperationalError: the server cannot be reached or refuses.
    """
    try:
        connection = _open(settings)
    except psycopg.OperationalError as error:
        if not settings.database_secret_arn or "authentication" not in str(error):
            raise
        forget_secret()
        connection = _open(settings)
    if settings.database_secret_arn and settings.database_role:
        connection.execute(query("role_assume"), {"role": settings.database_role})
    limit = connection.execute(query("statement_limit")).fetchone()
    seconds = limit["seconds"] if limit else 0
    # A role without a limit (the owner, migrating) waits as long as it takes.
    connection.patience = seconds + PATIENCE_MARGIN_SECONDS if seconds else None
    return connection


class PatientConnection(psycopg.Connection[Row]):
    """A connection that does not wait for ever for a server that has fallen silent.

    The server ends a statement that takes too long, if it lives; a host that vanished or hangs says nothing, and TCP
    alone would wait for minutes.

    Attributes:
        patience: seconds that a statement may take, the server's own limit included; None: for ever.
    """

    patience: float | None = CONNECT_PATIENCE_SECONDS

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as psycopg does, but no longer than the patience, with psycopg's own error at its end."""
        return super().wait(gen, interval, self.patience if timeout is None else timeout)


def _open(settings: Settings) -> PatientConnection:
    return PatientConnection.connect(
        **connection_parameters(settings), autocommit=True, prepare_threshold=None, row_factory=dict_row
    )


class Database:
    """Runs named queries, each a transaction of its own."""

    def __init__(self, opener: Callable[[], Connection]) -> None:
        self._opener = opener
        self._connection: Connection | None = None

    def rows(self, name: str, parameters: Mapping[str, Any] | None = None, *, repeatable: bool = False) -> list[Row]:
        """Run a named query and return its rows.

        Args:
            name: the query's name in sql/queries.
            parameters: its values.
            repeatable: running it twice does what running it once does, so it may be sent again when the connection
                was lost and nobody knows whether it was committed.

        Raises:
            SluiceError: database_unavailable; nothing is known to have been written.
            DatabaseError: the statement was refused.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._run(name, parameters)
            except _ROLLED_BACK:
                if attempt == _ATTEMPTS:
                    raise _unavailable("is busy") from None
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, not a secret
            except _OVERLOADED as error:
                self.close()
                logger.warning("database overloaded", extra={"sqlstate": error.sqlstate})
                raise _unavailable("is overloaded") from None
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                fresh = self._connection is None
                self.close()
                logger.warning("database connection failed", extra={"sqlstate": error.sqlstate, "query": name})
                if fresh or not repeatable or attempt > 1:
                    raise _unavailable("cannot be reached") from None
            except psycopg.Error as error:
                raise DatabaseError(error.sqlstate, error.diag.constraint_name) from None
            except (BotoCoreError, ClientError) as error:
                logger.warning("database secret cannot be read", extra={"error": type(error).__name__})
                raise _unavailable("has no credentials to be reached with") from None
        raise AssertionError("unreachable")

    def row(self, name: str, parameters: Mapping[str, Any] | None = None, *, repeatable: bool = False) -> Row:
        """The one row of a query that always has one; otherwise as rows()."""
        (row,) = self.rows(name, parameters, repeatable=repeatable)
        return row

    def close(self) -> None:
        """Drop the connection; the next query opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, name: str, parameters: Mapping[str, Any] | None) -> list[Row]:
        if self._connection is not None and _is_dead(self._connection):
            self.close()
        if self._connection is None:
            self._connection = self._opener()
        cursor = self._connection.execute(query(name), parameters)
        return cursor.fetchall() if cursor.description else []


def _is_dead(connection: Connection) -> bool:
    """Whether an idle connection was closed from the other side.

    An idle server says little, so a readable socket most often holds its farewell (a restart, an idle timeout). Seen
    before anything is sent, it makes a reconnect safe for every statement.
    """
    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
        return True
    wait = 0.0
    # The farewell and the end of the stream come one after the other; a mere notice is followed by nothing.
    while select.select([connection.fileno()], [], [], wait)[0]:
        try:
            connection.pgconn.consume_input()
        except psycopg.Error:
            return True
        wait = 0.01
    return False


def _unavailable(why: str) -> SluiceError:
    return SluiceError(
        "database_unavailable",
        f"The database {why}. Try again later.",
        retry_after=_RETRY_AFTER_SECONDS,
    )
