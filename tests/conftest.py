"""Fixtures of all tests: a PostgreSQL for the run, and a fresh, migrated database per test.

SLUICE_TEST_DSN names another server instead (PostgreSQL 18 with pg_stat_statements preloaded), as a superuser.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psycopg
import pytest
from psycopg.rows import dict_row

from local.postgres import Postgres
from sluice.db.connection import Connection
from sluice.db.migrate import migrate

# Must precede their import: helpers' assertions get the same messages as tests'.
pytest.register_assert_rewrite("tests.support")

from tests.support.database import with_schema  # noqa: E402
from tests.support.start import begin  # noqa: E402

begin()
# Read when the layer's telemetry is imported, as on Lambda.
os.environ["POWERTOOLS_METRICS_NAMESPACE"] = "Sluice"


_MEMORY_BYTES: Final = 2 << 30  # six times what a process of the tests has been seen to need


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Keep the tests of a group in one process: pytest 9.2 does not look where pytest-xdist 3.8 notes the group.

    To be removed with https://github.com/pytest-dev/pytest-xdist/issues/1386.
    """
    for item in items:
        noted = getattr(item, "_nodeid", item.nodeid)
        if noted != item.nodeid:
            item._id = type(item._id).parse(noted)


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server, as its superuser. Not durable, which is faster."""
    if given := os.environ.get("SLUICE_TEST_DSN"):
        yield given
        return
    settings = {"max_connections": "500"}
    with _memory_folder() as memory:
        folder = memory or tmp_path_factory.mktemp("postgres")
        server = Postgres(folder / "data", durable=False, settings=settings)
        server.start()
        yield server.url("postgres")
        server.destroy()


@contextmanager
def _memory_folder() -> Iterator[Path | None]:
    """A folder in memory, where the system has one with room. On ext4, where databases are made and dropped all the time,
    each file that is made has to pass over the inodes of those just deleted, which is most of what an empty test takes."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK | os.X_OK) or shutil.disk_usage(memory).free < _MEMORY_BYTES:
        yield None
        return
    with TemporaryDirectory(prefix="sluice-tests-", dir=memory) as made:
        Path(made).chmod(0o711)  # under root the server runs as another account
        yield Path(made)


def open_database(dsn: str, name: str) -> Connection:
    """Connect as the functions do, apart from their roles."""
    return psycopg.connect(with_schema(dsn, name), autocommit=True, prepare_threshold=None, row_factory=dict_row)


@pytest.fixture(scope="session")
def create_database(server_dsn: str) -> Iterator[Callable[..., str]]:
    """Creates databases, optionally from a template, and drops them at the end."""
    made: list[str] = []

    def create(template: str = "template1") -> str:
        name = f"sluice_test_{uuid.uuid4().hex}"
        with open_database(server_dsn, "postgres") as admin:
            # Twice as fast as the other strategy, which writes the copy to the log too.
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        made.append(name)
        return name

    yield create
    with open_database(server_dsn, "postgres") as admin:
        for name in reversed(made):
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


# As a role's settings in one database are written.
_ROLE_SETTINGS = """
    SELECT r.rolname AS role, split_part(s.setting, '=', 1) AS name,
           quote_literal(substr(s.setting, strpos(s.setting, '=') + 1)) AS value
    FROM pg_db_role_setting c
    JOIN pg_database d ON d.oid = c.setdatabase
    JOIN pg_roles r ON r.oid = c.setrole
    CROSS JOIN LATERAL unnest(c.setconfig) AS s (setting)
    WHERE d.datname = %s
"""


@pytest.fixture(scope="session")
def template_database(server_dsn: str, create_database: Callable[..., str]) -> str:
    """A database with the schema, migrated once and copied for each test."""
    name = create_database()
    with open_database(server_dsn, name) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        migrate(connection)
    return name


@pytest.fixture
def empty_dsn(server_dsn: str, create_database: Callable[..., str]) -> str:
    """A database without a schema."""
    return with_schema(server_dsn, create_database())


@pytest.fixture(scope="session")
def copied_database(
    server_dsn: str, create_database: Callable[..., str], template_database: str
) -> Callable[[], AbstractContextManager[str]]:
    """Makes databases with the schema and only the shipped rows, which are dropped before all of it is written."""

    @contextmanager
    def copied() -> Iterator[str]:
        name = create_database(template_database)
        with open_database(server_dsn, "postgres") as admin:
            # They belong to one database and are not copied.
            for each in admin.execute(_ROLE_SETTINGS, [template_database]).fetchall():
                admin.execute(f'ALTER ROLE {each["role"]} IN DATABASE "{name}" SET {each["name"]} TO {each["value"]}')
        yield with_schema(server_dsn, name)
        with open_database(server_dsn, "postgres") as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    return copied


@pytest.fixture
def dsn(copied_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """A database of the test, as its owner."""
    with copied_database() as made:
        yield made
