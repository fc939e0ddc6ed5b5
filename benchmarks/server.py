"""The PostgreSQL server that is measured: durable, as in production, with the extensions that measure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from local.postgres import Postgres
from sluice.db.connection import Connection

SETTINGS: Final = {
    # As in production. PostgreSQL's defaults, written down because the figures depend on them.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # What is measured: the statements that a client sends, with the planning of each.
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "top",
    "pg_stat_statements.track_planning": "on",
    "pg_stat_statements.track_utility": "off",
    # Nothing may happen by itself in the middle of a round. Each follows a VACUUM (ANALYZE), each line a checkpoint.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
    "shared_buffers": "1GB",
    "log_min_duration_statement": "-1",
}
"""Beside those that local.postgres sets; printed in the report."""


class BenchmarkServer:
    """A server of its own, with databases that are made and dropped by the lines.

    Attributes:
        admin: a superuser's connection to another database than those that are measured.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self.admin: Connection = self.connect("postgres")
        self.admin.execute("CREATE EXTENSION pg_stat_statements")
        self.admin.execute("CREATE EXTENSION pg_walinspect")
        self._made = 0

    def connect(self, dbname: str, schema: str = "public") -> Connection:
        """Connect as the functions do: autocommit, and no named prepared statements."""
        return psycopg.connect(self.url(dbname, schema), autocommit=True, prepare_threshold=None, row_factory=dict_row)

    def url(self, dbname: str, schema: str = "public") -> str:
        """The address of a database, for a superuser, with a search path."""
        return f"{self._postgres.url(dbname)}?options=-csearch_path%3D{schema}%2Cpublic"

    @contextmanager
    def database(self, purpose: str) -> Iterator[str]:
        """Make an empty database, and drop it in the end."""
        self._made += 1
        name = f"{re.sub(r'[^a-z]', '_', purpose.lower())}_{self._made}"
        self.admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield name
        finally:
            self.admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def settle_down(self, dbname: str) -> None:
        """Do now what autovacuum would do at some time."""
        with self.connect(dbname) as connection:
            connection.execute("VACUUM (ANALYZE)")

    def checkpoint(self) -> None:
        """Write everything out now, so that it does not happen while something is measured."""
        self.admin.execute("CHECKPOINT")


@contextmanager
def running_server() -> Iterator[BenchmarkServer]:
    """Start a server in a folder for temporary files, and remove both in the end."""
    with TemporaryDirectory(prefix="sluice-benchmarks-") as folder:
        postgres = Postgres(Path(folder) / "data", durable=True, settings=SETTINGS)
        postgres.start()
        try:
            server = BenchmarkServer(postgres)
            with server.admin:
                yield server
        finally:
            postgres.destroy()
