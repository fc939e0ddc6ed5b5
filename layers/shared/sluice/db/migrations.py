"""Brings a database to the schema that this code needs: forward only, safe to run twice and by many at once.

sql/migrations holds the numbered steps, each applied once in a transaction of its own; sql/functions holds what may be
replaced at any time, applied whole when any of it changed; sql/seed holds rows to start with, never touched again.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

from psycopg.types.json import Jsonb

from sluice.db.connection import Connection
from sluice.db.queries import SQL, query
from sluice.errors import SluiceError

MINIMUM_SERVER_VERSION: Final = 180000  # uuidv7() and virtual generated columns
_FILE: Final = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql$")
_COMPATIBLE: Final = re.compile(r"^-- min_compatible_version: (\d+)$", re.MULTILINE)


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
class Report:
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


def migrate(connection: Connection, steps: list[Migration] | None = None) -> Report:
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
    version = connection.execute(query("server_version")).fetchone()
    if version is None or version["version"] < MINIMUM_SERVER_VERSION:
        raise _incompatible("Sluice needs PostgreSQL 18 or newer.")
    with connection.transaction():
        connection.execute(query("migration_lock"))
        connection.execute(query("migration_ledger"))

    applied: list[int] = []
    while (step := _apply_next(connection, steps)) is not None:
        applied.append(step)

    with connection.transaction():
        connection.execute(query("migration_lock"))
        ledger = connection.execute(query("migration_applied")).fetchall()
        if len(ledger) > len(steps):
            return Report(ledger[-1]["version"], applied, functions_replaced=False)
        connection.execute(query("migration_patience"))
        replaced = _replace_functions(connection)
        connection.execute(query("partitions_ensure"))
        _seed(connection)
    return Report(steps[-1].version, applied, replaced)


def _apply_next(connection: Connection, steps: list[Migration]) -> int | None:
    """Apply the first step that is missing, under the lock, its ledger row first; None: there is none."""
    with connection.transaction():
        connection.execute(query("migration_lock"))
        ledger = connection.execute(query("migration_applied")).fetchall()
        for row, step in zip(ledger, steps, strict=False):
            if row["checksum"] != step.checksum:
                raise _incompatible(f"Migration {step.version} was changed after it had been applied.")
        if len(ledger) >= len(steps):
            if len(ledger) > len(steps) and ledger[-1]["min_compatible_version"] > len(steps):
                raise _incompatible(
                    f"The schema is at version {ledger[-1]['version']} and needs code of version "
                    f"{ledger[-1]['min_compatible_version']} or newer; this code is of version {len(steps)}."
                )
            return None
        step = steps[len(ledger)]
        connection.execute(
            query("migration_record"),
            {
                "version": step.version,
                "name": step.name,
                "checksum": step.checksum,
                "min_compatible_version": step.min_compatible_version,
            },
        )
        connection.execute(query("migration_patience"))
        connection.execute(step.sql)
        return step.version


def _replace_functions(connection: Connection) -> bool:
    files = [path.read_text(encoding="utf-8") for path in sorted((SQL / "functions").glob("*.sql"))]
    checksum = hashlib.sha256("\n".join(files).encode()).hexdigest()
    installed = connection.execute(query("functions_checksum")).fetchone()
    if installed is not None and installed["checksum"] == checksum:
        return False
    for text in files:
        connection.execute(text)
    connection.execute(query("functions_record"), {"checksum": checksum})
    return True


def _seed(connection: Connection) -> None:
    """Insert the tiers and models that are shipped, where no row has their name."""
    for tier in _seed_rows("tiers"):
        limits = tier.pop("limits")
        if connection.execute(query("tier_seed"), tier).fetchone() is not None:
            for period, limit in limits.items():
                connection.execute(query("tier_limit_seed"), {"tier": tier["tier"], "quota_period": period} | limit)
    for model in _seed_rows("models"):
        defaults = {"overhead_tokens": 64, "timeout_seconds": 60, "is_default": False, "is_active": True}
        connection.execute(query("model_seed"), {"description": Jsonb(defaults | model)})


def _seed_rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((SQL / "seed" / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def _incompatible(why: str) -> SluiceError:
    return SluiceError("schema_incompatible", why)
