"""Brings a database to the schema that this code needs: forward only, safe to run twice and by many at once.

Everything is in the schema `sluice`, so that a database may hold other things too. sql/migrations holds the numbered
steps, each applied once in a transaction of its own; sql/functions holds what may be replaced at any time, applied
whole, in the order of its manifest, when any of it changed; sql/seed holds rows to start with, never touched again.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, LiteralString

import psycopg

from sluice.db.connection import Connection
from sluice.db.seed import seed
from sluice.domain.errors import SluiceError

SQL: Final = Path(__file__).parent.parent / "sql"
MINIMUM_SERVER_VERSION: Final = 180000  # uuidv7() and virtual generated columns
_TYPE_IS_NEWER: Final = "SL501"  # raised by define_type()
_FILE: Final = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql$")
_COMPATIBLE: Final = re.compile(r"^-- min_compatible_version: (\d+)$", re.MULTILINE)

# A schema that a database administrator has made, for an owner who may not make one, is taken as it is.
_SCHEMA: Final = """
    DO $$ BEGIN
        IF to_regnamespace('sluice') IS NULL THEN
            CREATE SCHEMA sluice;
        END IF;
    END $$"""
_RECORDS: Final = """
    CREATE TABLE IF NOT EXISTS sluice.schema_migrations (
        version                integer     PRIMARY KEY,
        name                   text        NOT NULL,
        checksum               text        NOT NULL,
        min_compatible_version integer     NOT NULL,
        applied_at             timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE TABLE IF NOT EXISTS sluice.schema_functions (
        one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )"""
LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('sluice.migrations'))"
# A step that waits longer than this for another lock would hold up everything behind it.
_STEP_SETTINGS: Final = """
    SELECT set_config('lock_timeout', '5s', true), set_config('search_path', 'sluice, pg_temp', true)"""
_RECORD_MIGRATION: Final = """
    INSERT INTO schema_migrations (version, name, checksum, min_compatible_version)
    VALUES (%(version)s, %(name)s, %(checksum)s, %(min_compatible_version)s)"""
_RECORD_FUNCTIONS: Final = """
    INSERT INTO schema_functions (checksum) VALUES (%(checksum)s)
    ON CONFLICT (one) DO UPDATE SET checksum = EXCLUDED.checksum, applied_at = clock_timestamp()"""
_APPLIED: Final = "SELECT version, name, checksum, min_compatible_version FROM schema_migrations ORDER BY version"


@dataclass(frozen=True)
class Migration:
    """One numbered step.

    Attributes:
        min_compatible_version: the oldest version of the code that can work on the schema once this is applied.
    """

    version: int
    name: str
    sql: LiteralString
    min_compatible_version: int

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class MigrationReport:
    """What a run did."""

    schema_version: int
    applied: list[int]
    functions_replaced: bool


def migrations(directory: Path = SQL / "migrations") -> list[Migration]:
    """The steps in a directory, in order.

    Raises:
        ValueError: a file's name or header is not a migration's, or the numbers have a gap.
    """
    found = []
    for path in sorted(directory.glob("*.sql")):
        name, text = _FILE.match(path.name), path.read_text(encoding="utf-8")
        compatible = _COMPATIBLE.search(text)
        if not name or not compatible:
            raise ValueError(f"{path.name}: a migration is called NNNN_name.sql and names its min_compatible_version")
        found.append(Migration(int(name["version"]), name["name"], text, int(compatible[1])))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations are numbered from 1 without a gap")
    return found


def function_files(directory: Path = SQL / "functions") -> list[Path]:
    """The files of functions, in the order of the manifest.

    Raises:
        ValueError: the manifest and the folder do not name the same files.
    """
    lines = (directory / "manifest.txt").read_text(encoding="utf-8").splitlines()
    named = [directory / line for line in lines if line and not line.startswith("#")]
    if sorted(named) != sorted(directory.rglob("*.sql")):
        raise ValueError("manifest.txt does not name each file of functions once")
    return named


def migrate(connection: Connection, steps: list[Migration] | None = None) -> MigrationReport:
    """Apply what is missing.

    A schema newer than this code is left as it is where it allows code this old, so that a rollback can finish.

    Args:
        connection: as the owner, in autocommit mode.
        steps: instead of those in sql/migrations.

    Raises:
        SluiceError: schema_incompatible, with the reason.
        psycopg.Error: a step failed; those before it stay, it is rolled back whole.
    """
    steps = migrations() if steps is None else steps
    if connection.info.server_version < MINIMUM_SERVER_VERSION:
        raise _incompatible("Sluice needs PostgreSQL 18 or newer.")
    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(_SCHEMA)
        connection.execute(_RECORDS)

    applied: list[int] = []
    while (step := _apply_next(connection, steps)) is not None:
        applied.append(step)

    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(_STEP_SETTINGS)
        records = connection.execute(_APPLIED).fetchall()
        if len(records) > len(steps):
            return MigrationReport(records[-1]["version"], applied, functions_replaced=False)
        try:
            with connection.transaction():
                replaced = _replace_functions(connection)
        except psycopg.Error as error:
            # The functions of a newer version are installed, and serve this one too: a rollback can finish.
            if error.sqlstate != _TYPE_IS_NEWER:
                raise
            replaced = False
        connection.execute("SELECT partitions_ensure()")
        seed(connection, SQL / "seed")
    return MigrationReport(steps[-1].version, applied, replaced)


def _apply_next(connection: Connection, steps: list[Migration]) -> int | None:
    """Apply the first step that is missing, under the lock, its record first; None: there is none."""
    with connection.transaction():
        connection.execute(LOCK)
        connection.execute(_STEP_SETTINGS)
        records = connection.execute(_APPLIED).fetchall()
        for row, step in zip(records, steps, strict=False):
            if row["checksum"] != step.checksum:
                raise _incompatible(f"Migration {step.version} was changed after it had been applied.")
        if len(records) >= len(steps):
            if len(records) > len(steps) and records[-1]["min_compatible_version"] > len(steps):
                raise _incompatible(
                    f"The schema is at version {records[-1]['version']} and needs code of version "
                    f"{records[-1]['min_compatible_version']} or newer; this code is of version {len(steps)}."
                )
            return None
        step = steps[len(records)]
        connection.execute(
            _RECORD_MIGRATION,
            {
                "version": step.version,
                "name": step.name,
                "checksum": step.checksum,
                "min_compatible_version": step.min_compatible_version,
            },
        )
        connection.execute(step.sql)
        return step.version


def _replace_functions(connection: Connection) -> bool:
    files = [path.read_text(encoding="utf-8") for path in function_files()]
    checksum = hashlib.sha256("\n".join(files).encode()).hexdigest()
    installed = connection.execute("SELECT checksum FROM schema_functions").fetchone()
    if installed is not None and installed["checksum"] == checksum:
        return False
    for text in files:
        connection.execute(text)
    connection.execute(_RECORD_FUNCTIONS, {"checksum": checksum})
    return True


def _incompatible(why: str) -> SluiceError:
    return SluiceError("schema_incompatible", why)
