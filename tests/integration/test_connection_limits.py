"""Each database role keeps to its connections, however its functions log in, and the others always get theirs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from local.postgres import Postgres
from local.processes import wait_until
from sluice.config import Settings
from sluice.db.connection import Connection, Database, PatientConnection, connect
from sluice.db.connection_limits import RESERVE, limit_connections
from sluice.db.migrate import migrate
from sluice.domain.errors import SluiceError
from tests.support.functions import Context, event, load
from tests.support.service import Service

LIMIT = 3
CROWD = 24
ROLES = ("submit", "status", "worker", "rollup", "admin")
PASSWORD = "only here"

# As a person invokes the migration: nobody waits for an answer at an address.
INVOKED = {name: value for name, value in event("migrate-update").items() if name != "ResponseURL"}

Connect = Callable[[str], Connection]


@pytest.fixture
def owner(service: Service) -> Iterator[Connection]:
    """The owner's connection; roles belong to the server, so what a test changes of them is put back."""
    yield service.owner
    for role in ROLES:
        service.owner.execute(f"ALTER ROLE sluice_{role} PASSWORD NULL CONNECTION LIMIT -1")


@pytest.fixture(params=["as the function's role", "as the secret's user"])
def connect_as(request: pytest.FixtureRequest, dsn: str, owner: Connection, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Connects as a function does, in both ways of logging in."""
    by_role = request.param == "as the function's role"
    if by_role:
        for role in ROLES:
            owner.execute(f"ALTER ROLE sluice_{role} PASSWORD '{PASSWORD}'")

    def parameters(settings: Settings) -> dict[str, Any]:
        login = {"user": settings.database_role, "password": PASSWORD} if by_role else {}
        return {**conninfo_to_dict(dsn), **login}

    monkeypatch.setattr("sluice.db.connection.connection_parameters", parameters)
    arn = "" if by_role else "arn"
    return lambda role: connect(Settings(database_secret_arn=arn, database_role=f"sluice_{role}"))


def limit(owner: Connection, role: str, most: int) -> None:
    owner.execute(f"ALTER ROLE sluice_{role} CONNECTION LIMIT {most}")


def crowd(connect_as: Connect, role: str, number: int = CROWD) -> list[Connection | None]:
    """What came of connecting so often at the same instant."""
    barrier = Barrier(number)

    def attempt(_: int) -> Connection | None:
        barrier.wait()
        try:
            return connect_as(role)
        except psycopg.OperationalError:
            return None

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(attempt, range(number)))


def close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


def test_a_crowd_gets_no_more_than_the_limit(connect_as: Connect, owner: Connection) -> None:
    limit(owner, "submit", LIMIT)
    for _ in range(3):
        kept = [connection for connection in crowd(connect_as, "submit") if connection is not None]
        assert 1 <= len(kept) <= LIMIT
        while len(kept) < LIMIT:  # a crowd may be refused more than it must; one after the other, all are given
            kept.append(connect_as("submit"))
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            connect_as("submit")
        with connect_as("status") as other:
            assert other.execute("SELECT current_user AS me").fetchone() == {"me": "sluice_status"}
        close(kept)
        assert wait_until(lambda: _connects(connect_as, "submit"), 20)


def _connects(connect_as: Connect, role: str) -> bool:
    try:
        connect_as(role).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_connection_that_dies_leaves_its_place_to_another(connect_as: Connect, owner: Connection) -> None:
    limit(owner, "submit", 1)
    first = connect_as("submit")
    assert not _connects(connect_as, "submit")
    owner.execute("SELECT pg_terminate_backend(%s, 5000)", (first.info.backend_pid,))
    with connect_as("submit") as second:
        assert second.execute("SELECT current_user AS me").fetchone() == {"me": "sluice_submit"}
    first.close()


def test_a_refused_connection_is_not_left_open(connect_as: Connect, owner: Connection) -> None:
    limit(owner, "submit", 1)
    kept = connect_as("submit")
    for _ in range(10):
        assert not _connects(connect_as, "submit")
    count = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert wait_until(lambda: owner.execute(count).fetchone() == {"n": 1}, 20)
    kept.close()


def test_without_a_limit_all_are_given(connect_as: Connect) -> None:
    connections = [connection for connection in crowd(connect_as, "submit") if connection is not None]
    assert len(connections) == CROWD
    close(connections)


@pytest.mark.parametrize(
    ("role", "seconds"), [("submit", 15), ("status", 15), ("admin", 15), ("worker", 120), ("rollup", 120)]
)
def test_connections_of_bursty_roles_are_soon_given_back(connect_as: Connect, role: str, seconds: int) -> None:
    with connect_as(role) as connection:
        shown = connection.execute("SELECT current_setting('idle_session_timeout')::interval AS i").fetchone()
        assert shown is not None
        assert shown["i"].total_seconds() == seconds
        assert isinstance(connection, PatientConnection)
        # Renewed by the client before the server can close it between two statements.
        assert connection.idle_seconds == seconds - 1


def test_an_idle_session_frees_its_connection(connect_as: Connect, owner: Connection) -> None:
    limit(owner, "submit", 1)
    idle = connect_as("submit")
    idle.execute("SET idle_session_timeout = '200ms'")
    assert wait_until(lambda: _connects(connect_as, "submit"), 20)
    idle.close()


# The client --------------------------------------------------------------------------------------------------------


class Opener:
    """Counts attempts to connect."""

    def __init__(self, connect_as: Connect) -> None:
        self.connect_as = connect_as
        self.attempts = 0

    def __call__(self) -> Connection:
        self.attempts += 1
        return self.connect_as("submit")


def refused(database: Database) -> SluiceError:
    with pytest.raises(SluiceError) as raised:
        database.ping()
    return raised.value


def test_while_the_limit_is_reached_nobody_tries_again(
    connect_as: Connect, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(owner, "submit", 1)
    kept = connect_as("submit")
    opener = Opener(connect_as)
    database = Database(opener)
    monkeypatch.setattr("sluice.db.connection.REFUSED_SECONDS", (3600, 3600))
    for _ in range(100):
        error = refused(database)
        assert (error.code, error.retry_after) == ("database_unavailable", 5)
        assert error.detail == "The database has no free connection. Try again later."
    assert opener.attempts == 1

    kept.close()
    assert wait_until(lambda: _connects(connect_as, "submit"), 20)
    monkeypatch.setattr("sluice.db.connection.REFUSED_SECONDS", (0, 0))
    database = Database(opener)
    database.ping()
    assert opener.attempts == 2
    database.close()


def test_each_failed_connect_is_followed_by_another_when_its_time_is_over(
    connect_as: Connect, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(owner, "submit", 0)
    opener = Opener(connect_as)
    database = Database(opener)
    monkeypatch.setattr("sluice.db.connection.REFUSED_SECONDS", (0, 0))
    for _ in range(3):
        refused(database)
    assert opener.attempts == 3
    limit(owner, "submit", 1)
    database.ping()
    database.close()


@pytest.mark.parametrize("change", [{"port": 1}, {"dbname": "no_such_database"}])
def test_a_server_that_is_away_is_asked_again_at_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """It may be back at any moment."""
    monkeypatch.setattr("sluice.db.connection.REFUSED_SECONDS", (3600, 3600))
    nowhere = make_conninfo(dsn, connect_timeout=2, **change)
    opener = Opener(lambda _: psycopg.connect(nowhere, row_factory=dict_row))
    database = Database(opener)
    for _ in range(3):
        assert refused(database).detail == "The database cannot be reached. Try again later."
    assert opener.attempts == 3


NO_FREE_CONNECTION = "The database has no free connection. Try again later."
AWAY = "The database cannot be reached. Try again later."


@pytest.mark.parametrize(
    ("said", "detail", "attempts"),
    [
        ('remaining connection slots are reserved for roles with privileges of "x"', NO_FREE_CONNECTION, 1),
        ("remaining connection slots are reserved for roles with the SUPERUSER attribute", NO_FREE_CONNECTION, 1),
        ("sorry, too many clients already", NO_FREE_CONNECTION, 1),
        ('too many connections for role "sluice_submit"', NO_FREE_CONNECTION, 1),
        ('too many connections for database "sluice"', NO_FREE_CONNECTION, 1),
        ("the database system is starting up", AWAY, 1),
        ("the database system is shutting down", AWAY, 1),
        ("the database system is in recovery mode", AWAY, 1),
        ("the database system is not yet accepting connections", AWAY, 1),
        ('role "sluice_submit" is not permitted to log in', AWAY, 3),
    ],
)
def test_what_the_server_says_decides_whether_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, said: str, detail: str, attempts: int
) -> None:
    """libpq passes on the message of a failed connect, but not its SQLSTATE."""
    monkeypatch.setattr("sluice.db.connection.REFUSED_SECONDS", (3600, 3600))

    def refuse(_: str) -> Connection:
        raise psycopg.OperationalError(f'connection to server at "127.0.0.1", port 5432 failed: FATAL:  {said}')

    opener = Opener(refuse)
    database = Database(opener)
    for _ in range(3):
        assert refused(database).detail == detail
    assert opener.attempts == attempts


def test_a_server_that_does_not_answer_is_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.db.connection.REFUSED_SECONDS", (3600, 3600))

    def wait(_: str) -> Connection:
        raise psycopg.errors.ConnectionTimeout("connection timeout expired")

    opener = Opener(wait)
    database = Database(opener)
    for _ in range(3):
        assert refused(database).detail == AWAY
    assert opener.attempts == 1


def test_a_connection_that_has_idled_is_renewed_before_anything_is_sent(connect_as: Connect) -> None:
    opened: list[PatientConnection] = []

    def opener() -> Connection:
        connection = connect_as("submit")
        assert isinstance(connection, PatientConnection)
        opened.append(connection)
        return connection

    database = Database(opener)
    database.ping()
    database.ping()
    assert len(opened) == 1
    opened[0].idle_seconds = 0
    database.ping()
    assert len(opened) == 2
    assert opened[0].closed
    database.close()


# The migration -----------------------------------------------------------------------------------------------------


def connection_limits_of(owner: Connection) -> dict[str, int]:
    rows = owner.execute("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE 'sluice\\_%'").fetchall()
    return {row["rolname"].removeprefix("sluice_"): row["rolconnlimit"] for row in rows}


def test_the_migration_sets_the_limits_and_follows_the_parameters(owner: Connection, deploy: Any) -> None:
    deploy("migrate")
    load("admin.migrate").handler(INVOKED, Context())
    before = connection_limits_of(owner)
    assert (before["submit"], before["status"], before["worker"]) == (20, 20, 10)
    assert (before["rollup"], before["admin"], before["definer"]) == (4, 5, -1)

    deploy("migrate", SUBMIT_CONCURRENCY="7", STATUS_CONCURRENCY="30", WORKER_CONCURRENCY="2")
    report = load("admin.migrate").handler(INVOKED, Context())
    after = connection_limits_of(owner)
    assert (after["submit"], after["status"], after["worker"]) == (7, 30, 4)
    assert report["Data"]["Connections"].startswith(
        "Connection limits: submit 7, status 30, worker 4, openai 10, foreground 10, rollup 4, admin 5, webhooks 2,"
    )


def test_migrations_at_the_same_time_do_not_disturb_each_other(owner: Connection, dsn: str) -> None:
    barrier = Barrier(6)

    def change(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            for turn in range(5):
                barrier.wait()
                limit_connections(connection, submit=10 + number + turn, status=20, openai=10, worker=5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, range(6)))
    assert 14 <= connection_limits_of(owner)["submit"] <= 19


# A small server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, str]]:
    """A server with few connections, and the address of its database as an owner who is no superuser."""
    settings = {"max_connections": str(RESERVE + 20)}
    server = Postgres(tmp_path_factory.mktemp("small") / "data", durable=False, settings=settings)
    server.start()
    server.ensure_database("sluice", "small_owner", PASSWORD)
    dsn = server.url("sluice", user="small_owner", password=PASSWORD)
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        migrate(connection)
        limit_connections(connection, submit=20, status=20, openai=10, worker=5)
    yield server, dsn
    server.destroy()


def test_whatever_the_burst_the_others_and_the_owner_get_in(
    small_server: tuple[Postgres, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All functions log in as the owner here, who has no connections reserved."""
    _, dsn = small_server
    monkeypatch.setattr("sluice.db.connection.connection_parameters", lambda _: conninfo_to_dict(dsn))

    def connect_as(role: str) -> Connection:
        return connect(Settings(database_secret_arn="arn", database_role=f"sluice_{role}"))

    with ExitStack() as kept, psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as owner:
        limits = connection_limits_of(owner)
        assert limits["submit"] + limits["status"] + limits["worker"] + limits["rollup"] + limits["admin"] < 20
        for role in ("submit", "status"):
            for _ in range(3):
                for connection in crowd(connect_as, role, RESERVE // 2):
                    if connection is not None:
                        kept.enter_context(connection)
            while _connects_and_stays(connect_as, role, kept):
                pass
        for role in ("worker", "rollup", "admin"):
            for _ in range(limits[role]):
                kept.enter_context(connect_as(role))
        with psycopg.connect(dsn) as operator:
            assert operator.execute("SELECT 1").fetchone() == (1,)


def _connects_and_stays(connect_as: Connect, role: str, kept: ExitStack) -> bool:
    try:
        kept.enter_context(connect_as(role))
    except psycopg.OperationalError:
        return False
    return True
