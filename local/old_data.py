"""Data of versions that kept their tables in the schema `public`."""

from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from local.postgres import Postgres

_IS_OLD = """
SELECT to_regclass('public.schema_migrations') IS NOT NULL AND to_regclass('sluice.schema_migrations') IS NULL
"""


def set_aside_old_data(
    server: Postgres, dbname: str, owner: str, password: str, *, state_dir: Path, key_file: Path
) -> str | None:
    """Replace a database with the old layout by a new one. The old database is renamed, not removed.

    This version keeps its tables in the schema `sluice` and has no migration from the old layout.

    Args:
        server: is running.
        dbname: the database, which exists.
        owner: of the database.
        password: the owner's.
        state_dir: the folder of the data, for the message.
        key_file: the demo user's API key, which is removed together with the old data.

    Returns:
        A sentence for the user, or None if there is no old data.
    """
    with psycopg.connect(server.url(dbname)) as connection:
        row = connection.execute(_IS_OLD).fetchone()
    if row is None or not row[0]:
        return None
    kept = f"{dbname}_before_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        connection.execute(rename.format(sql.Identifier(dbname), sql.Identifier(kept)))
    server.ensure_database(dbname, owner, password)
    key_file.unlink(missing_ok=True)
    return (
        f"The data in {state_dir} was made by an earlier layout that this version cannot read; it was kept as the "
        f"database {kept}, and a new one was started."
    )
