"""Old requests, written straight into the tables: as many as it takes, all of them answered."""

from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import sql

from benchmarks.seed_sql import MODEL
from benchmarks.sides import ANSWER, COMPLETION_TOKENS, PROMPT, PROMPT_TOKENS, Compared, SluiceSide
from sluice.db.connection import Connection

_SAMPLE: Final = 1000

# One answered request of each user is the model of all others: what it wrote is copied with other ids and times.
_TEMPLATES: Final = """
    CREATE TEMP TABLE templates AS
    SELECT DISTINCT ON (user_id) request_id, result_id, created_at, substr(user_id, 5)::integer AS number
    FROM requests WHERE status = 'completed' ORDER BY user_id"""
_COPIES: Final = """
    CREATE TEMP TABLE copies AS
    SELECT t.number, t.request_id AS old_id, t.created_at AS old_at, uuidv7(n.at - clock_timestamp()) AS request_id,
           uuidv7(n.at - clock_timestamp()) AS result_id
    FROM (SELECT n, %(start)s::timestamptz + n * (%(end)s::timestamptz - %(start)s) / %(number)s AS at
          FROM generate_series(0, %(number)s - 1) n) AS n
    JOIN (SELECT *, row_number() OVER (ORDER BY number) - 1 AS place, count(*) OVER () AS number_of_them
          FROM templates) AS t ON t.place = n.n %% t.number_of_them"""
# What a copy has instead of its original's value. Other columns are copied, or get their defaults where this says NULL.
_TIME: Final = "t.{} - c.old_at + uuid_extract_timestamp(c.request_id)"
_TABLES: Final[dict[str, dict[str, str | None]]] = {
    "requests": {
        "request_id": "c.request_id",
        "result_id": "c.result_id",
        **{name: _TIME.format(name) for name in ("created_at", "updated_at", "started_at", "completed_at")},
    },
    "prompts": {"request_id": "c.request_id"},
    "results": {
        "result_id": "c.result_id",
        "request_id": "c.request_id",
        "created_at": _TIME.format("created_at"),
    },
    "audit_log": {
        "audit_id": "uuidv7(uuid_extract_timestamp(c.request_id) - clock_timestamp())",
        "request_id": "c.request_id",
        "at": _TIME.format("at"),
        "xact_id": None,
    },
}
_COLUMNS: Final = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"""

_SEED_USERS: Final = "SELECT count(*) AS number FROM users"
_SEED_COPIES: Final = """
    CREATE TEMP TABLE copies AS
    SELECT n %% %(users)s AS number, gen_random_uuid() AS request_id, gen_random_uuid() AS result_id,
           %(start)s::timestamptz + n * (%(end)s::timestamptz - %(start)s) / %(number)s AS at
    FROM generate_series(0, %(number)s - 1) n"""
_SEED_RESULTS: Final = """
    INSERT INTO results (result_id, content, token_count, created_at)
    SELECT result_id, %(answer)s, %(completion)s, at FROM copies"""
_SEED_REQUESTS: Final = """
    INSERT INTO requests (request_id, user_id, prompt, result_id, status, created_at, completed_at, processing_time_ms,
                          estimated_tokens, prompt_tokens, completion_tokens, total_tokens, model)
    SELECT request_id, 'user' || number, %(prompt)s, result_id, 'completed', at AT TIME ZONE 'UTC',
           at AT TIME ZONE 'UTC', 1500, %(total)s, %(prompt_tokens)s, %(completion)s, %(total)s, %(model)s
    FROM copies"""

Known = list[tuple[int, UUID]]
"""Some of the requests, each with its user's number."""


def fill(side: Compared, number: int, start: datetime, end: datetime) -> Known:
    """Add answered requests of all users, evenly from one time to another in the same month."""
    span = {"number": number, "start": start, "end": end}
    schema = "sluice" if isinstance(side, SluiceSide) else "public"
    with side.address.connect(schema) as connection:
        connection.execute("SET synchronous_commit = off")
        if isinstance(side, SluiceSide):
            _fill_sluice(connection, side, span)
        else:
            _fill_seed(connection, span)
        sample = connection.execute(
            "SELECT number, request_id FROM copies ORDER BY md5(request_id::text) LIMIT %s", (_SAMPLE,)
        ).fetchall()
        connection.execute("VACUUM (ANALYZE)")
    return [(row["number"], row["request_id"]) for row in sample]


def _fill_sluice(connection: Connection, side: SluiceSide, span: dict[str, object]) -> None:
    parents = {"requests": "request_id", "prompts": "request_id", "results": "result_id", "audit_log": "audit_id"}
    for table, key in parents.items():
        connection.execute("SELECT partition_create(%s, %s, %s::date)", (table, key, span["start"]))
    side.answer(range(len(side.keys)))
    connection.execute(_TEMPLATES)
    connection.execute(_COPIES, span)
    for table, changes in _TABLES.items():
        named = sql.Identifier(table)
        found = [row["attname"] for row in connection.execute(_COLUMNS, (table,)).fetchall()]
        columns = [column for column in found if changes.get(column, "") is not None]
        values = [sql.SQL(changes.get(column) or f"t.{column}") for column in columns]
        originals = sql.SQL("SELECT t.* FROM {} t JOIN templates m ON m.request_id = t.request_id").format(named)
        connection.execute(sql.SQL("CREATE TEMP TABLE originals AS {}").format(originals))
        connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM copies c JOIN originals t ON t.request_id = c.old_id").format(
                named, sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(values)
            )
        )
        connection.execute("DROP TABLE originals")


def _fill_seed(connection: Connection, span: dict[str, object]) -> None:
    users = connection.execute(_SEED_USERS).fetchone()
    assert users is not None
    connection.execute(_SEED_COPIES, span | {"users": users["number"]})
    texts = {
        "prompt": PROMPT,
        "answer": ANSWER,
        "model": MODEL,
        "prompt_tokens": PROMPT_TOKENS,
        "completion": COMPLETION_TOKENS,
        "total": PROMPT_TOKENS + COMPLETION_TOKENS,
    }
    connection.execute(_SEED_RESULTS, texts)
    connection.execute(_SEED_REQUESTS, texts)
