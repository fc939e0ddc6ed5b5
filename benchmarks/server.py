"""The PostgreSQL server that is measured: durable, as in production, with the extensions that measure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Address:
    """Where a database is, for a superuser; it can be given to another process."""

    server: str
    dbname: str

    def url(self, schema: str = "public") -> str:
        """As a URL, with a search path."""
        return f"{self.server}/{self.dbname}?options=-csearch_path%3D{schema}%2Cpublic"

    def connect(self, schema: str = "public") -> Connection:
        """Connect as the functions do: autocommit, and no named prepared statements."""
        return psycopg.connect(self.url(schema), autocommit=True, prepare_threshold=None, row_factory=dict_row)


class BenchmarkServer:
    """A server of its own, with databases that are made and dropped by the lines.

    Attributes:
        admin: a superuser's connection to another database than those that are measured.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._url = postgres.url("").removesuffix("/")
        self.admin: Connection = Address(self._url, "postgres").connect()
        self.admin.execute("CREATE EXTENSION pg_stat_statements")
        self.admin.execute("CREATE EXTENSION pg_walinspect")
        self._made = 0

    @contextmanager
    def database(self, purpose: str) -> Iterator[Address]:
        """Make an empty database, and drop it in the end."""
        self._made += 1
        name = f"{re.sub(r'[^a-z]', '_', purpose.lower())}_{self._made}"
        self.admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield Address(self._url, name)
        finally:
            self.admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


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
