"""docs/seed-map.md is true: what it names exists, what it calls unchanged is, and its statements answer as the seed's do.

The seed's own statements run verbatim, for its user123, in a schema of views that give our tables its names.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import yaml
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sluice.errors import DatabaseError
from sluice.keys import digest
from sluice.services import admin, billing
from tests.support.service import KEY, Service, completed, failed, retry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/seed-map.md").read_text(encoding="utf-8")
OTHER_KEY = "sluice_" + "b" * 43

# The seed's schema, in its own words ---------------------------------------------------------------------------------

FIRST = """
    CREATE TABLE requests (
        request_id UUID PRIMARY KEY,
        user_id VARCHAR(50) NOT NULL,
        prompt TEXT NOT NULL,
        model_id VARCHAR(50) NOT NULL,
        status VARCHAR(20) NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
        processing_time_ms INTEGER,
        result_id UUID,
        error_message TEXT
    );
    CREATE INDEX idx_requests_user_id ON requests(user_id);
    CREATE INDEX idx_requests_status ON requests(status);
    CREATE INDEX idx_requests_created_at ON requests(created_at);
    CREATE TABLE results (
        result_id UUID PRIMARY KEY,
        content TEXT NOT NULL,
        token_count INTEGER,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
    );
    CREATE TABLE binary_results (
        result_id UUID PRIMARY KEY,
        content BYTEA NOT NULL,
        mime_type VARCHAR(100) NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
    );
    CREATE TABLE users (
        user_id VARCHAR(50) PRIMARY KEY,
        api_key VARCHAR(64) UNIQUE NOT NULL,
        email VARCHAR(255) UNIQUE NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
        is_active BOOLEAN DEFAULT TRUE
    );
    CREATE TABLE quotas (
        user_id VARCHAR(50) REFERENCES users(user_id),
        quota_period VARCHAR(20) NOT NULL,
        max_requests INTEGER NOT NULL,
        requests_used INTEGER DEFAULT 0,
        reset_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (user_id, quota_period)
    );
    CREATE INDEX idx_api_keys ON users(api_key);
"""
SECOND = """
    CREATE TABLE users (
        user_id VARCHAR(50) PRIMARY KEY,
        name VARCHAR(100),
        email VARCHAR(100),
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        active BOOLEAN DEFAULT TRUE
    );
    CREATE TABLE quotas (
        quota_id SERIAL PRIMARY KEY,
        user_id VARCHAR(50) REFERENCES users(user_id),
        request_limit INTEGER NOT NULL,
        token_limit INTEGER NOT NULL,
        tier VARCHAR(20) NOT NULL,
        reset_frequency VARCHAR(20) DEFAULT 'monthly',
        UNIQUE(user_id)
    );
    CREATE TABLE requests (
        request_id UUID PRIMARY KEY,
        user_id VARCHAR(50) REFERENCES users(user_id),
        prompt TEXT NOT NULL,
        result TEXT,
        status VARCHAR(20) NOT NULL,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        completed_at TIMESTAMP,
        estimated_tokens INTEGER,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        total_tokens INTEGER,
        model VARCHAR(50),
        error TEXT
    );
    CREATE TABLE usage (
        usage_id SERIAL PRIMARY KEY,
        user_id VARCHAR(50) REFERENCES users(user_id),
        period VARCHAR(20) NOT NULL,
        period_start DATE NOT NULL,
        period_end DATE NOT NULL,
        requests_count INTEGER DEFAULT 0,
        tokens_used INTEGER DEFAULT 0,
        UNIQUE(user_id, period, period_start)
    );
    CREATE INDEX idx_requests_user_id ON requests(user_id);
    CREATE INDEX idx_requests_created_at ON requests(created_at);
    CREATE INDEX idx_requests_status ON requests(status);
    CREATE INDEX idx_usage_user_period ON usage(user_id, period, period_start);
"""
VOLUME = """
    CREATE TABLE requests (
        request_id UUID NOT NULL,
        user_id VARCHAR(50) NOT NULL,
        prompt TEXT NOT NULL,
        status VARCHAR(20) NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
        PRIMARY KEY (created_at, request_id)
    ) PARTITION BY RANGE (created_at);
    CREATE TABLE requests_y2023m01 PARTITION OF requests FOR VALUES FROM ('2023-01-01') TO ('2023-02-01');
    CREATE TABLE requests_y2023m02 PARTITION OF requests FOR VALUES FROM ('2023-02-01') TO ('2023-03-01');
"""
DRAWINGS = {"First drawing: tables": FIRST, "Second drawing: tables": SECOND, "High volume: tables": VOLUME}
# What the seed does not make with CREATE TABLE.
OTHERS = (
    *("requests_y2023m01", "requests_y2023m02", "requests_archive", "request_stats"),
    *("request_stats.day", "request_stats.user_id", "request_stats.model_id", "request_stats.request_count"),
    *("request_stats.avg_processing_time", "request_stats.failure_count"),
)

# The seed's statements, verbatim -------------------------------------------------------------------------------------

# Its names on our tables. usage and request_stats are made as the seed makes them, to be filled by its own statements.
SEED_VIEWS = """
    CREATE SCHEMA seed;
    CREATE VIEW seed.requests AS
        SELECT r.request_id, r.user_id, p.prompt, c.content AS result, r.result_id, r.status, r.created_at, r.updated_at,
               r.completed_at, r.processing_time_ms, r.estimated_tokens, r.prompt_tokens, r.completion_tokens,
               r.total_tokens, r.model_id, r.model_id AS model, r.error_message, r.error_message AS error
        FROM requests_all r JOIN prompts p USING (request_id) LEFT JOIN results c ON c.result_id = r.result_id;
    CREATE VIEW seed.results AS SELECT result_id, content, token_count, created_at FROM results;
    CREATE VIEW seed.quotas AS
        SELECT p.quota_id, p.user_id, q.max_requests AS request_limit, q.max_tokens AS token_limit, p.tier, p.reset_frequency
        FROM quota_plans p JOIN quotas q ON q.user_id = p.user_id AND q.quota_period = p.reset_frequency;
    CREATE TABLE seed.usage (
        usage_id SERIAL PRIMARY KEY, user_id VARCHAR(50), period VARCHAR(20) NOT NULL, period_start DATE NOT NULL,
        period_end DATE NOT NULL, requests_count INTEGER DEFAULT 0, tokens_used INTEGER DEFAULT 0,
        UNIQUE(user_id, period, period_start)
    );
    SET timezone = 'UTC';
"""
SEED_STATUS = """
    SELECT r.request_id, r.status, r.error_message, res.content AS result
    FROM requests r
    LEFT JOIN results res ON r.result_id = res.result_id
    WHERE r.request_id = $1
"""
NODE_STATUS = """
    SELECT r.status, r.error_message, res.content AS result
    FROM requests r
    LEFT JOIN results res ON r.result_id = res.result_id
    WHERE r.request_id = $1
"""
SEED_HISTORY = """
    SELECT request_id, prompt, status, created_at, processing_time_ms
    FROM requests
    WHERE user_id = 'user123'
    ORDER BY created_at DESC
    LIMIT 10
"""
SEED_QUOTA = """
    WITH user_quota AS (
      SELECT token_limit
      FROM quotas
      WHERE user_id = 'user123'
    ),
    user_usage AS (
      SELECT COALESCE(SUM(total_tokens), 0) as tokens_used
      FROM requests
      WHERE user_id = 'user123'
      AND created_at >= DATE_TRUNC('month', CURRENT_DATE)
    )
    SELECT
      (SELECT token_limit FROM user_quota) -
      (SELECT tokens_used FROM user_usage) AS remaining_tokens
"""
SEED_USAGE = """
    INSERT INTO usage (user_id, period, period_start, period_end, requests_count, tokens_used)
    SELECT
      user_id,
      'monthly',
      DATE_TRUNC('month', CURRENT_DATE),
      (DATE_TRUNC('month', CURRENT_DATE) + INTERVAL '1 month - 1 day')::date,
      COUNT(*),
      COALESCE(SUM(total_tokens), 0)
    FROM requests
    WHERE
      created_at >= DATE_TRUNC('month', CURRENT_DATE) AND
      created_at < (DATE_TRUNC('month', CURRENT_DATE) + INTERVAL '1 month')
    GROUP BY user_id
    ON CONFLICT (user_id, period, period_start)
    DO UPDATE SET
      requests_count = EXCLUDED.requests_count,
      tokens_used = EXCLUDED.tokens_used
"""
SEED_TIERS = """
    WITH user_usage AS (
      SELECT
        user_id,
        MAX(requests_count) as max_requests,
        MAX(tokens_used) as max_tokens
      FROM usage
      WHERE period = 'monthly'
      GROUP BY user_id
    )
    SELECT
      u.user_id,
      u.max_requests,
      u.max_tokens,
      CASE
        WHEN u.max_tokens < 100000 THEN 'basic'
        WHEN u.max_tokens < 1000000 THEN 'standard'
        ELSE 'premium'
      END as recommended_tier
    FROM user_usage u
"""
SEED_STATS = """
    CREATE MATERIALIZED VIEW request_stats AS
    SELECT
        date_trunc('day', created_at) AS day,
        user_id,
        model_id,
        COUNT(*) AS request_count,
        AVG(processing_time_ms) AS avg_processing_time,
        SUM(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failure_count
    FROM
        requests
    GROUP BY
        date_trunc('day', created_at),
        user_id,
        model_id
"""
SEED_MONTHS = """
    SELECT user_id, date_trunc('month', created_at)::date AS period_start, count(*) AS requests_count,
           coalesce(sum(total_tokens), 0) AS tokens_used
    FROM requests GROUP BY 1, 2 ORDER BY 1, 2
"""


@pytest.fixture
def seed(service: Service) -> Service:
    """The service, with the schema `seed` beside it."""
    service.owner.execute(SEED_VIEWS)
    return service


def seed_says(service: Service, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """A statement of the seed, on its own names for our rows."""
    with service.owner.transaction():
        service.owner.execute("SET LOCAL search_path = seed")
        return raw(service.owner, statement, *parameters)


# The page's statements -----------------------------------------------------------------------------------------------

STATEMENTS = {
    name: (role, text)
    for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for name, role, text in re.findall(r"-- (\w+) \((\w+)\): .*?\n(.*?);", block, re.DOTALL)
}


def raw(connection: psycopg.Connection[Any], statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """A statement with parameters $1, $2, ..., as every driver but psycopg sends them."""
    cursor = psycopg.RawCursor(connection, row_factory=dict_row).execute(statement, parameters)
    return cursor.fetchall() if cursor.description else []


def run_as(service: Service, role: str, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    with service.owner.transaction():
        service.owner.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        rows = raw(service.owner, statement, *parameters)
        service.owner.execute("RESET ROLE")
        return rows


def ask(service: Service, name: str, *parameters: Any, role: str | None = None) -> list[dict[str, Any]]:
    """A statement of the page, as the role that it is for."""
    for_role, text = STATEMENTS[name]
    if for_role == "owner":
        return raw(service.owner, text, *parameters)
    return run_as(service, role or for_role, text, *parameters)


def one(service: Service, name: str, *parameters: Any) -> dict[str, Any]:
    (row,) = ask(service, name, *parameters)
    return row


def accept(service: Service, key: bytes, prompt: str = "hello") -> UUID:
    row = one(service, "accept", key, prompt, None)
    assert row["outcome"] == "accepted", row
    request_id: UUID = row["request_id"]
    return request_id


def claim(service: Service, *ids: UUID) -> list[dict[str, Any]]:
    return ask(service, "claim", list(ids))


def settle(service: Service, *outcomes: dict[str, Any]) -> list[dict[str, Any]]:
    return ask(service, "settle", Jsonb(outcomes))


def answered(service: Service, key: bytes, prompt: str = "hello", **changes: Any) -> UUID:
    """A request that was accepted, claimed and completed."""
    request_id = accept(service, key, prompt)
    claim(service, request_id)
    settle(service, completed(request_id, **changes))
    return request_id


def roll_up(service: Service) -> None:
    """Both rollups, until they have seen everything: a transaction of another database may hold them up."""
    behind = (
        "SELECT count(*) FROM rollup_watermarks WHERE task IN ('usage', 'stats')"
        " AND xact_id <= (SELECT max(xact_id) FROM audit_log)"
    )
    deadline = time.monotonic() + 5
    while True:
        ask(service, "usage_update")
        ask(service, "stats_update")
        if service.value(behind) == 0:
            return
        assert time.monotonic() < deadline, "the rollups do not catch up"
        time.sleep(0.05)


def set_clock(service: Service, ago: timedelta) -> None:
    """Have every rule live in the past, with the partitions that it needs."""
    seconds = ago.total_seconds()
    for clock, body in {
        "clock_now() RETURNS timestamptz": f"clock_timestamp() - make_interval(secs => {seconds})",
        "request_id_now() RETURNS uuid": f"uuidv7(make_interval(secs => -{seconds}))",
    }.items():
        service.owner.execute(f"CREATE OR REPLACE FUNCTION {clock} LANGUAGE sql VOLATILE RETURN {body}")
    month = service.value("SELECT date_trunc('month', clock_now() AT TIME ZONE 'UTC')::date")
    for parent in ("requests", "prompts"):
        service.rows("SELECT partition_create(%s, 'request_id', %s)", parent, month)


@pytest.fixture
def user123(service: Service) -> bytes:
    """The hash of the key of the user of the seed's statements."""
    return service.add_user("user123")


# The page itself -----------------------------------------------------------------------------------------------------


def page_rows() -> list[tuple[str, list[str]]]:
    """Section and cells of every row of a table with the columns of the map."""
    found, section, is_map = [], "", False
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section, is_map = line[3:], False
        elif not line.startswith("|"):
            is_map = False
        else:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if is_map and not set(line) <= set("|-"):
                found.append((section, cells))
            is_map = is_map or cells == ["in the seed", "here", "why different"]
    return found


def rows_of(section: str) -> list[tuple[str, str, str]]:
    """The cells of a section's rows; the seed's without its backticks."""
    return [(seeds.replace("`", ""), here, why) for of, (seeds, here, why) in page_rows() if of == section]


def row_of(section: str, name: str) -> tuple[str, str]:
    matching = [(here, why) for seeds, here, why in rows_of(section) if re.match(rf"{re.escape(name)}(?![\w.])", seeds)]
    assert len(matching) == 1, f"{section}: {len(matching)} rows for {name}"
    return matching[0]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


COLUMNS = """
    SELECT c.relname || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid) AS value
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT c.relispartition
"""
CONSTRAINTS = """
    SELECT conname AS name, conrelid::regclass || ' ' || pg_get_constraintdef(oid) AS definition FROM pg_constraint
    WHERE connamespace = current_schema()::regnamespace AND contype IN ('p', 'u', 'f') AND conparentid = 0
"""
INDEXES = "SELECT indexname AS name FROM pg_indexes WHERE schemaname = current_schema() AND indexname LIKE 'idx%%'"


def draw(service: Service, ddl: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Columns, constraints and indexes of a drawing of the seed, as PostgreSQL understands it."""
    with service.owner.transaction(force_rollback=True):
        service.owner.execute("CREATE SCHEMA drawing; SET LOCAL search_path = drawing")
        service.owner.execute(ddl)
        return (
            columns(service),
            [row["definition"] for row in service.rows(CONSTRAINTS)],
            [row["name"] for row in service.rows(INDEXES)],
        )


def columns(service: Service) -> dict[str, tuple[str, bool, str | None]]:
    """Type, NOT NULL and default of every column of the current schema."""
    return {row["name"]: (row["type"], row["attnotnull"], row["value"]) for row in service.rows(COLUMNS)}


@pytest.mark.parametrize("section", DRAWINGS)
def test_every_object_of_the_seed_has_a_row(service: Service, section: str) -> None:
    drawn, constraints, indexes = draw(service, DRAWINGS[section])
    wanted = [*drawn, *constraints, *indexes, *(OTHERS if section.startswith("High") else ())]

    for name in wanted:
        row_of(section, name)
    assert len(rows_of(section)) == len(wanted), "a row for each, and none for what the seed does not have"


@pytest.mark.parametrize("section", DRAWINGS)
def test_what_the_page_calls_unchanged_is(service: Service, section: str) -> None:
    drawn, constraints, _ = draw(service, DRAWINGS[section])
    ours, our_constraints = columns(service), {row["name"]: row["definition"] for row in service.rows(CONSTRAINTS)}
    compared = 0

    for name, definition in drawn.items():
        here, why = row_of(section, name)
        if why.startswith("unchanged"):
            counterpart = names_in(here)[0]
            assert counterpart.partition(".")[2] == name.partition(".")[2]
            assert ours[counterpart] == definition, name
            compared += 1
    for constraint in constraints:
        here, why = row_of(section, constraint)
        if why.startswith("unchanged"):
            # The table may have another name, what is promised of it may not.
            assert our_constraints[names_in(here)[0]].partition(" ")[2] == constraint.partition(" ")[2]
            compared += 1
    assert compared >= (1 if section.startswith("High") else 15)


def test_every_name_in_the_column_here_exists(service: Service) -> None:
    known = (
        set(columns(service))
        | set(admin.OPERATIONS)
        | set(STATEMENTS)
        | {"queued", "request_not_found", "output.sql_raw"}
    )
    for catalogue in (
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace",
        "SELECT proname AS name FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT conname AS name FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    ):
        known |= {row["name"] for row in service.rows(catalogue)}

    named = {name for _, (_, here, _) in page_rows() for name in names_in(here)}
    unknown = {name for name in named if name not in known and not (ROOT / name).exists()}

    assert {name for name in unknown if not re.match(r"(GET|POST) /", name)} == set()
    assert len(named) > 100
    # Names outside that column, where they look like a column of ours.
    tables = {name.partition(".")[0] for name in columns(service)}
    for name in re.findall(r"`(\w+\.\w+)`", PAGE):
        if name.partition(".")[0] in tables and name not in known:
            assert any(name in draw(service, ddl)[0] for ddl in DRAWINGS.values()), name


def test_every_route_on_the_page_is_one() -> None:
    handlers = "".join((ROOT / f"functions/{name}/app.py").read_text(encoding="utf-8") for name in ("submit", "status"))
    routes = set(re.findall(r'@app\.(get|post)\("(/\w+)', handlers))
    named = re.findall(r"`(GET|POST) (/\w+)", PAGE)
    assert len(named) > 5
    assert {(method.lower(), path) for method, path in named} <= routes


def test_every_statement_on_the_page_is_run_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(STATEMENTS) == len(re.findall(r"^-- \w+ \(", PAGE, re.MULTILINE)) > 15
    assert [name for name in STATEMENTS if f'"{name}"' not in source] == []


# The life of a request -----------------------------------------------------------------------------------------------


def test_status_is_the_seeds_query_unchanged(seed: Service, user123: bytes) -> None:
    done, refused, running, waiting = (accept(seed, user123) for _ in range(4))
    claim(seed, done, refused, running)
    settle(seed, completed(done, content="Le texte"), failed(refused))

    for request_id, status, error, result in (
        (done, "completed", None, "Le texte"),
        (refused, "failed", "no", None),
        (running, "processing", None, None),
        (waiting, "queued", None, None),
    ):
        expected = {"request_id": request_id, "status": status, "error_message": error, "result": result}
        assert ask(seed, "status", request_id) == seed_says(seed, SEED_STATUS, request_id) == [expected]
        assert one(seed, "status_read", user123, request_id) == {"outcome": "ok"} | expected
    assert " ".join(STATEMENTS["status"][1].split()) == " ".join(SEED_STATUS.split())
    assert ask(seed, "status", uuid4()) == []
    assert one(seed, "status_read", user123, uuid4())["outcome"] == "request_not_found"
    other = seed.add_user("bob", OTHER_KEY)
    assert one(seed, "status_read", other, done)["outcome"] == "request_not_found"


def test_history_is_the_newest_ten(seed: Service, user123: bytes) -> None:
    bob = seed.add_user("bob", OTHER_KEY)
    for n in range(12):
        answered(seed, user123, f"prompt {n}") if n % 2 else accept(seed, user123, f"prompt {n}")
        accept(seed, bob)
        time.sleep(0.002)  # The seed's order is by milliseconds: two in one would have none.

    found = ask(seed, "history", user123)

    assert [row["prompt"] for row in found] == [f"prompt {n}" for n in range(11, 1, -1)]
    assert found == seed_says(seed, SEED_HISTORY)


def test_a_long_prompt_is_cut_in_the_history(seed: Service, user123: bytes) -> None:
    accept(seed, user123, "x" * 1001)
    assert one(seed, "history", user123)["prompt"] == "x" * 1000
    assert seed_says(seed, SEED_HISTORY)[0]["prompt"] == "x" * 1001


BOOKS = ("requests", "results", "inflight", "quotas", "audit_log", "prompts")


def books(service: Service) -> dict[str, Any]:
    return {table: service.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in BOOKS}


def test_completion_is_one_commit(service: Service, user123: bytes) -> None:
    request_id = accept(service, user123)
    assert service.value("SELECT sum(requests_used) FROM quotas") == 3, "counted when accepted, once in each period"
    (claimed,) = claim(service, request_id)
    assert (claimed["attempt"], claimed["prompt"]) == (1, "hello")
    assert one(service, "status", request_id)["status"] == "processing"
    time.sleep(0.02)

    settle(service, completed(request_id, content="Le texte", prompt_tokens=120, completion_tokens=80))

    (row,) = service.rows("SELECT r.*, s.content, s.token_count FROM requests r JOIN results s USING (result_id)")
    assert (row["status"], row["content"], row["error_message"]) == ("completed", "Le texte", None)
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (120, 80, 200)
    assert row["token_count"] == 80
    took = row["completed_at"] - row["started_at"]
    assert row["processing_time_ms"] == pytest.approx(took.total_seconds() * 1000, abs=1)
    assert row["processing_time_ms"] >= 20
    assert row["updated_at"] == row["completed_at"]
    for quota in service.rows("SELECT * FROM quotas"):
        assert (quota["requests_used"], quota["tokens_used"], quota["tokens_reserved"]) == (1, 200, 0)
    assert service.value("SELECT count(*) FROM inflight") == 0
    written = {
        row["xmin"] for t in ("requests", "results", "quotas") for row in service.rows(f"SELECT xmin::text FROM {t}")
    }
    written |= {
        row["xmin"] for row in service.rows("SELECT xmin::text FROM audit_log WHERE action = 'request.completed'")
    }
    assert len(written) == 1, "one transaction wrote all of it"


@pytest.mark.parametrize(
    ("table", "promise"),
    [
        ("requests", "CHECK (status <> 'completed')"),  # breaks after the result was inserted
        ("quotas", "CHECK (tokens_used = 0)"),
        ("audit_log", "CHECK (action <> 'request.completed')"),  # the last row that is written
    ],
)
def test_a_completion_that_fails_half_way_leaves_nothing(
    service: Service, user123: bytes, table: str, promise: str
) -> None:
    request_id = accept(service, user123)
    claim(service, request_id)
    before = books(service)
    service.owner.execute(f"ALTER TABLE {table} ADD CONSTRAINT in_the_middle {promise} NOT VALID")

    with pytest.raises(DatabaseError) as broken:
        service.settle(completed(request_id))

    assert broken.value.constraint == "in_the_middle"
    assert books(service) == before
    service.owner.execute(f"ALTER TABLE {table} DROP CONSTRAINT in_the_middle")
    settle(service, completed(request_id))
    assert one(service, "status", request_id)["status"] == "completed"


def test_tokens_are_estimated_then_actual(service: Service, user123: bytes) -> None:
    request_id = accept(service, user123, "Translate the following text to French")
    columns = "SELECT estimated_tokens, reserved_tokens, prompt_tokens, completion_tokens, total_tokens FROM requests"

    (row,) = service.rows(columns)
    assert row["estimated_tokens"] == -(-len("Translate the following text to French") // 4) + 64 + 512
    assert row["estimated_tokens"] <= row["reserved_tokens"]
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (None, None, None)

    claim(service, request_id)
    settle(service, completed(request_id, prompt_tokens=120, completion_tokens=80))

    (after,) = service.rows(columns)
    assert after == row | {"prompt_tokens": 120, "completion_tokens": 80, "total_tokens": 200}


def test_status_needs_no_index_on_requests(seed: Service, user123: bytes) -> None:
    ids = [accept(seed, user123) for _ in range(6)]
    claim(seed, *ids[:4])
    settle(seed, completed(ids[0]), failed(ids[1]), retry(ids[2]))

    for status, expected in (("queued", [ids[2], *ids[4:]]), ("processing", [ids[3]])):
        found = [row["request_id"] for row in ask(seed, "unfinished", status)]
        by_seed = seed_says(seed, "SELECT request_id FROM requests WHERE status = $1", status)
        assert found == sorted(row["request_id"] for row in by_seed) == sorted(expected)
    indexed = "SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'requests%%' AND indexdef LIKE '%%status%%'"
    assert seed.rows(indexed) == []


def plan_of(service: Service, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """Every node of a statement's plan that reads a table, after running it."""
    (row,) = raw(service.owner, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", *parameters)
    nodes, stack = [], [row["QUERY PLAN"][0]["Plan"]]
    while stack:
        node = stack.pop()
        stack += node.get("Plans", [])
        if "Relation Name" in node:
            nodes.append(node)
    return nodes


def rows_read(service: Service) -> Counter[str]:
    """Rows that the owner's connection has read of each table, by index or not; to be compared with an earlier answer."""
    read = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS n FROM pg_stat_xact_user_tables"
    return Counter({row["relname"]: row["n"] for row in service.rows(read)})


def test_a_span_of_time_is_a_range_of_ids(seed: Service, user123: bytes) -> None:
    first, now = accept(seed, user123), datetime.now(UTC)
    time.sleep(0.002)
    middle = accept(seed, user123)
    start, end = (seed.value("SELECT created_at FROM requests WHERE request_id = %s", i) for i in (first, middle))

    for low, high in (
        (start, end),
        (start, end + timedelta(milliseconds=1)),
        (end, end + timedelta(days=1)),
        (end, start),
    ):
        by_time = seed_says(
            seed,
            "SELECT request_id, created_at FROM requests WHERE created_at >= $1 AND created_at < $2 ORDER BY 2",
            low,
            high,
        )
        assert ask(seed, "accepted_between", low, high) == by_time

    # One month's partition is read, of the four that there are.
    read = {node["Relation Name"] for node in plan_of(seed, STATEMENTS["accepted_between"][1], start, end)}
    assert read == {f"requests_y{now:%Y}m{now:%m}"}


# Keys and users ------------------------------------------------------------------------------------------------------


def test_a_key_is_looked_up_in_its_unique_index(service: Service, user123: bytes) -> None:
    service.owner.execute(
        "INSERT INTO api_keys (user_id, key_hash, key_prefix) SELECT 'user123', sha256(n::text::bytea), 'x' FROM generate_series(1, 3000) n"
    )
    service.owner.execute("ANALYZE api_keys")
    key_id = service.value("SELECT key_id FROM api_keys WHERE key_hash = %s", user123)

    with service.owner.transaction():
        before = rows_read(service)
        assert one(service, "key_check", user123, "read") == {"outcome": "ok", "key_id": key_id, "user_id": "user123"}
        assert rows_read(service) - before == {"api_keys": 1, "users": 1}
    (node,) = plan_of(service, "SELECT FROM api_keys WHERE key_hash = $1", user123)
    assert node["Index Name"] == "api_keys_key_hash_key"
    assert one(service, "key_check", digest("sluice_" + "z" * 43), "read")["outcome"] == "key_unknown"
    assert service.rows("SELECT FROM api_keys k WHERE k::text LIKE %s", f"%{KEY}%") == [], "the key itself is nowhere"
    with pytest.raises(psycopg.errors.UniqueViolation):
        service.owner.execute(
            "INSERT INTO api_keys (user_id, key_hash, key_prefix) VALUES ('user123', %s, 'x')", (user123,)
        )


def test_an_inactive_user_is_let_in_nowhere(service: Service, user123: bytes, writer: str) -> None:
    accepted = accept(service, user123)
    service.act("user.update", user_id="user123", is_active=False)

    assert one(service, "key_check", user123, "submit")["outcome"] == "user_inactive"
    assert one(service, "accept", user123, "hello", None)["outcome"] == "user_inactive"
    assert one(service, "status_read", user123, accepted)["outcome"] == "user_inactive"
    with pytest.raises(psycopg.Error) as refused:
        ask(service, "submission", "user123", "hello", None, role=writer)
    assert refused.value.sqlstate == "SL403"
    claim(service, accepted)
    settle(service, completed(accepted))  # What was accepted is answered and booked all the same.
    assert service.value("SELECT tokens_used FROM quotas WHERE quota_period = 'monthly'") == 10

    service.act("user.update", user_id="user123", is_active=True)
    assert one(service, "status_read", user123, accepted)["result"] == "an answer"


def test_an_email_is_unique_where_given(service: Service, user123: bytes) -> None:
    for user_id, email in (("a", None), ("b", None), ("c", "Carol@example.com")):
        service.act("user.create", user_id=user_id, email=email, tier="basic")
    with pytest.raises(DatabaseError) as taken:
        service.act("user.create", user_id="d", email="carol@example.com", tier="basic")
    assert taken.value.constraint == "users_email_key"


# Quotas --------------------------------------------------------------------------------------------------------------


def remaining(service: Service) -> int | None:
    left: int | None = one(service, "quota_remaining", "user123")["remaining_tokens"]
    return left


def test_what_remains_of_the_quota_is_the_seeds_sum(seed: Service, user123: bytes) -> None:
    limit = seed.value("SELECT max_tokens FROM quotas WHERE quota_period = 'monthly'")
    assert [{"remaining_tokens": limit}] == seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}]

    answered(seed, user123, prompt_tokens=120, completion_tokens=80)
    answered(seed, user123)
    failing = accept(seed, user123)
    claim(seed, failing)
    settle(seed, failed(failing, error_code="result_too_large", prompt_tokens=4, completion_tokens=5))
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}] == [{"remaining_tokens": limit - 219}]

    # What runs is not free either; the seed sees that only afterwards.
    running = accept(seed, user123)
    reserved = seed.value("SELECT reserved_tokens FROM requests WHERE request_id = %s", running)
    assert reserved > 0
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed) + reserved}]
    assert (
        seed.database("admin").row("quota_get", {"user_id": "user123"})["quota"]["periods"][2]["tokens_reserved"]
        == reserved
    )

    claim(seed, running)
    settle(seed, completed(running))
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}] == [{"remaining_tokens": limit - 229}]


def test_a_month_that_is_over_is_not_counted(seed: Service) -> None:
    """Nobody has reset the row yet: no request has come since."""
    set_clock(seed, timedelta(days=32))
    answered(seed, seed.add_user("user123"))
    set_clock(seed, timedelta(0))

    assert seed.value("SELECT tokens_used FROM quotas WHERE quota_period = 'monthly'") == 10
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}]
    assert remaining(seed) == seed.value("SELECT max_tokens FROM quotas WHERE quota_period = 'monthly'")


def test_a_plan_by_the_day_has_the_days_limit(seed: Service, user123: bytes) -> None:
    service = seed
    service.act("quota.set", user_id="user123", reset_frequency="daily", limits={"daily": {"max_tokens": 5000}})
    answered(service, user123)

    assert remaining(service) == 4990
    assert seed_says(seed, "SELECT token_limit, reset_frequency FROM quotas") == [
        {"token_limit": 5000, "reset_frequency": "daily"}
    ]
    service.act("quota.set", user_id="user123", limits={"daily": {"max_tokens": None}})
    assert remaining(service) is None, "unlimited"


def test_the_quota_check_reads_two_rows(service: Service, user123: bytes) -> None:
    service.owner.execute("""
        INSERT INTO users (user_id) SELECT 'u' || n FROM generate_series(1, 1000) n;
        INSERT INTO quota_plans (user_id, tier, reset_frequency, max_unfinished, dispatch_window)
        SELECT 'u' || n, 'basic', 'monthly', 9, 9 FROM generate_series(1, 1000) n;
        INSERT INTO quotas (user_id, quota_period, period_start, reset_at)
        SELECT 'u' || n, p, now(), now() + interval '1 day' FROM generate_series(1, 1000) n, unnest('{minute,daily,monthly}'::text[]) p;
    """)
    for _ in range(5):
        answered(service, user123)
    service.owner.execute("VACUUM ANALYZE quotas, quota_plans")

    nodes = plan_of(service, STATEMENTS["quota_remaining"][1], "user123")
    assert {node["Relation Name"]: node["Actual Rows"] for node in nodes} == {"quota_plans": 1, "quotas": 1}
    assert all("Index" in node["Node Type"] and not node.get("Rows Removed by Filter") for node in nodes)

    # And the check at submit, whose plans are inside the function: no row of any request is read.
    with service.owner.transaction():
        before = rows_read(service)
        accept(service, user123)
        read = rows_read(service) - before
    assert 3 <= read["quotas"] <= 12, "its three rows, a few times"
    assert [table for table in read if table.startswith(("requests", "prompts", "results", "audit", "usage"))] == []


def test_two_at_once_cannot_both_take_the_rest(service: Service) -> None:
    key = service.add_user("user123", monthly={"max_requests": 1})
    with psycopg.connect(service.dsn) as other:
        raw(other, STATEMENTS["accept"][1], key, "first", None)
        service.owner.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ask(service, "accept", key, "second", None)
        other.commit()
    assert one(service, "accept", key, "second", None)["outcome"] == "quota_exceeded"


# Figures -------------------------------------------------------------------------------------------------------------


def monthly(service: Service) -> list[dict[str, Any]]:
    return ask(service, "usage_monthly")


SEED_KEPT = """
    SELECT user_id, period, period_start, period_end, requests_count, tokens_used
    FROM usage WHERE period = 'monthly' ORDER BY user_id, period_start
"""
SEED_SEEN = """
    SELECT day, user_id, model_id, request_count, avg_processing_time, failure_count
    FROM request_stats ORDER BY day, user_id, model_id
"""


def mixed_work(service: Service, alice: bytes, bob: bytes) -> None:
    """Of everything that can become of a request: of each user, counted and uncounted tokens, some still open."""
    ids = [accept(service, key) for key in (alice, bob) for _ in range(6)]
    claim(service, *ids[:5], *ids[6:10])
    time.sleep(0.005)
    settle(
        service,
        completed(ids[0], prompt_tokens=120, completion_tokens=80),
        failed(ids[1]),
        failed(ids[2], error_code="result_too_large", prompt_tokens=9, completion_tokens=8),
        retry(ids[3]),
        completed(ids[6]),
        failed(ids[7]),
    )
    service.owner.execute(
        "UPDATE inflight SET expires_at = clock_now() WHERE request_id = ANY (%s)", ([ids[5], ids[10]],)
    )
    service.database("rollup").row("request_sweep", {"at_most": 100})
    assert service.value("SELECT count(*) FROM requests WHERE status = 'expired'") > 0


def assert_figures_are_the_seeds(service: Service) -> None:
    for _ in range(2):  # The seed's upsert may be run again, and so may ours.
        roll_up(service)
        seed_says(service, SEED_USAGE)
        this_month = datetime.now(UTC).date().replace(day=1)
        assert [row for row in monthly(service) if row["period_start"] == this_month] == seed_says(service, SEED_KEPT)
    shown = [
        {k: row[k] for k in ("user_id", "period_start", "requests_count", "tokens_used")} for row in monthly(service)
    ]
    assert shown == seed_says(service, SEED_MONTHS)
    if service.value("SELECT to_regclass('seed.request_stats')") is None:
        seed_says(service, SEED_STATS)
    seed_says(service, "REFRESH MATERIALIZED VIEW request_stats")
    assert ask(service, "stats") == seed_says(service, SEED_SEEN)


def test_figures_are_those_of_the_seeds_statements(seed: Service, user123: bytes) -> None:
    bob = seed.add_user("bob", OTHER_KEY)
    seed.add_user("nobody", "sluice_" + "c" * 43)
    for _ in range(2):
        mixed_work(seed, user123, bob)
        assert_figures_are_the_seeds(seed)
    assert [row["user_id"] for row in monthly(seed)] == ["bob", "user123"], "who did nothing has no row, as in the seed"

    # What ends later is added to what was counted before.
    open_ids = [row["request_id"] for row in ask(seed, "unfinished", "queued")]
    claim(seed, *open_ids)
    for row in seed.rows("SELECT request_id, attempt FROM inflight"):
        settle(seed, completed(row["request_id"], row["attempt"]))
    assert seed.value("SELECT count(*) FROM inflight") == 0
    assert_figures_are_the_seeds(seed)

    total = seed.value("SELECT sum(total_tokens) FROM requests WHERE user_id = 'user123'")
    by_quota = seed.value("SELECT tokens_used FROM quotas WHERE user_id = 'user123' AND quota_period = 'monthly'")
    assert [row["tokens_used"] for row in monthly(seed) if row["user_id"] == "user123"] == [total] == [by_quota]


def recommended(service: Service, **arguments: Any) -> dict[str, str]:
    """The tier that the operation usage.tiers recommends to each user."""
    context = admin.Context(service.database("admin"), lambda event: None, 60, 3)
    found = admin.administer(context, {"operation": "usage.tiers", "arguments": arguments})
    return {user["user_id"]: user["recommended_tier"] for user in found}


def in_tier_order(service: Service) -> dict[str, str]:
    """The same from the page's statement."""
    this_month = datetime.now(UTC).date().replace(day=1)
    rows = ask(service, "tier_analysis", None, this_month.replace(year=this_month.year - 1), this_month, "", 1000)
    return {user["user_id"]: user["recommended_tier"] for user in billing.tiers(rows)}


def test_the_recommended_tier_is_the_seeds(seed: Service) -> None:
    expected = {0: "basic", 99_999: "basic", 100_000: "standard", 999_999: "standard", 1_000_000: "premium"}
    for n, tokens in enumerate(expected):
        key = seed.add_user(f"user{tokens}", "sluice_" + f"{n}" * 43)
        answered(seed, key, prompt_tokens=tokens, completion_tokens=0)
    idle = seed.add_user("idle", OTHER_KEY)
    roll_up(seed)
    seed_says(seed, SEED_USAGE)

    by_seed = {row["user_id"]: row["recommended_tier"] for row in seed_says(seed, SEED_TIERS)}
    assert by_seed == {f"user{tokens}": tier for tokens, tier in expected.items()}
    assert recommended(seed) == in_tier_order(seed) == by_seed

    # The largest month counts, not the last one; and who has used nothing appears once there is a row.
    accept(seed, idle)
    roll_up(seed)
    seed_says(seed, SEED_USAGE)
    last_month = (datetime.now(UTC).date().replace(day=1) - timedelta(days=1)).replace(day=1)
    for table in ("seed.usage", "usage"):
        seed.owner.execute(
            f"INSERT INTO {table} (user_id, period, period_start, period_end, requests_count, tokens_used)"
            " VALUES ('user0', 'monthly', %s, %s, 3, 500000)",
            (last_month, last_month),
        )
    by_seed = {row["user_id"]: row["recommended_tier"] for row in seed_says(seed, SEED_TIERS)}
    assert (by_seed["user0"], by_seed["idle"]) == ("standard", "basic")
    assert recommended(seed) == in_tier_order(seed) == by_seed


def test_the_recommended_tier_must_hold_the_requests_too(seed: Service, user123: bytes) -> None:
    """Where Sluice differs: the seed would put this user into a tier that refuses the 10,001st request."""
    for table in ("seed.usage", "usage"):
        seed.owner.execute(
            f"INSERT INTO {table} (user_id, period, period_start, period_end, requests_count, tokens_used)"
            " SELECT 'user123', 'monthly', date_trunc('month', now()), now(), 10001, 99"
        )
    (by_seed,) = seed_says(seed, SEED_TIERS)
    assert (by_seed["max_requests"], by_seed["recommended_tier"]) == (10_001, "basic")
    assert recommended(seed) == in_tier_order(seed) == {"user123": "standard"}


def test_the_recommended_tier_follows_the_tiers(seed: Service, user123: bytes) -> None:
    answered(seed, user123)
    roll_up(seed)
    assert recommended(seed) == {"user123": "basic"}
    seed.act("tier.set", tier="basic", limits={"monthly": {"max_tokens": 10}})
    assert recommended(seed) == in_tier_order(seed) == {"user123": "standard"}


# Partitions and archive ----------------------------------------------------------------------------------------------


def test_a_requests_month_is_the_seeds_partition(service: Service) -> None:
    service.owner.execute("SET timezone = 'UTC'; CREATE SCHEMA volume; SET search_path = volume")
    service.owner.execute(VOLUME)
    service.owner.execute("SET search_path = public")
    made = [one(service, "partition", month)["name"] for month in ("2023-01-01", "2023-02-01")]
    assert made == ["requests_y2023m01", "requests_y2023m02"]
    assert one(service, "partition", "2023-01-01")["name"] is None, "it is there"

    edges = ("2023-01-01 00:00:00.000", "2023-01-31 23:59:59.999", "2023-02-01 00:00:00.000", "2023-02-28 23:59:59.999")
    theirs = "INSERT INTO volume.requests VALUES (gen_random_uuid(), 'user123', 'x', 'queued', %(at)s)"
    ours = (
        "INSERT INTO requests (request_id, user_id, model_id, created_at, updated_at, estimated_tokens, reserved_tokens)"
        " VALUES (uuidv7_floor(%(at)s::timestamptz), 'user123', 'nova-micro', %(at)s, %(at)s, 1, 1)"
    )
    for edge in edges:
        service.owner.execute(theirs, {"at": edge})
        service.owner.execute(ours, {"at": edge})
    where = "SELECT c.relname, r.created_at FROM {}.requests r JOIN pg_class c ON c.oid = r.tableoid ORDER BY 2"
    found = service.rows(where.format("public"))
    assert found == service.rows(where.format("volume"))
    assert [row["relname"] for row in found] == [made[0], made[0], made[1], made[1]]
    for outside in ("2022-12-31 23:59:59.999", "2023-03-01"):
        for insert in (theirs, ours):
            with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
                service.owner.execute(insert, {"at": outside})


def test_partitions_are_there_before_their_months(service: Service) -> None:
    assert ask(service, "partitions") == []
    service.owner.execute("DROP TABLE prompts_y" + (datetime.now(UTC) + timedelta(days=40)).strftime("%Ym%m"))
    assert len(ask(service, "partitions")) == 1


def test_only_whole_settled_months_move_and_nothing_is_lost(seed: Service) -> None:
    now = datetime.now(UTC)
    # The youngest month that is old enough has a request that has not ended.
    youngest = (now - timedelta(days=30)).replace(day=1) - timedelta(days=10)
    by_age: dict[int, list[UUID]] = {}
    key = b""
    for age in (130, 100, (now - youngest).days, 31, 10, 0):
        set_clock(seed, timedelta(days=age))
        key = key or seed.add_user("user123")
        by_age[age] = [answered(seed, key), accept(seed, key)]
        claim(seed, by_age[age][1])
        settle(seed, failed(by_age[age][1]))
        if len(by_age) == 3:
            unfinished = accept(seed, key)
    assert_figures_are_the_seeds(seed)
    everything, figures = ask(seed, "everything"), (monthly(seed), ask(seed, "stats"))
    seeds_choice = {
        row["request_id"]
        for row in seed_says(
            seed,
            "SELECT request_id FROM requests WHERE status IN ('completed', 'failed') AND created_at < NOW() - INTERVAL '30 days'",
        )
    }

    moved = [row["name"] for row in ask(seed, "archive", timedelta(days=30))]

    assert moved == sorted({f"requests_y{now - timedelta(days=age):%Ym%m}" for age in (130, 100)})
    archived = {row["request_id"] for row in seed.rows("SELECT request_id FROM requests_archive")}
    assert archived == {*by_age[130], *by_age[100]}
    assert archived < seeds_choice, (
        "the seed would move others too, of months that are not over for long or not settled"
    )
    assert ask(seed, "everything") == everything, "nothing is lost, nothing is there twice"
    assert (monthly(seed), ask(seed, "stats")) == figures
    assert_figures_are_the_seeds(seed)
    assert [one(seed, "status_read", key, i)["status"] for i in by_age[130]] == ["completed", "failed"]
    newest = [row["request_id"] for row in everything[::-1]]
    assert [row["request_id"] for row in ask(seed, "history", key)] == newest[:10]
    assert ask(seed, "archive", timedelta(days=30)) == []

    # Once the last one has ended, here because its time is over, its month follows.
    seed.database("rollup").row("request_sweep", {"at_most": 10})
    assert len(ask(seed, "archive", timedelta(days=30))) == 1
    assert seed.rows("SELECT request_id FROM requests_archive WHERE status = 'expired'") == [{"request_id": unfinished}]
    assert [row["request_id"] for row in ask(seed, "everything")] == newest[::-1]
    assert_figures_are_the_seeds(seed)


# Other writers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def writer(service: Service) -> Iterator[str]:
    """A role that may do nothing but write and read the view."""
    name = f"writer_{uuid4().hex}"
    service.owner.execute(f"CREATE ROLE {name}")
    service.owner.execute(f"GRANT INSERT, SELECT ON submissions TO {name}")
    yield name
    service.owner.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


def test_the_node_writer(service: Service, user123: bytes, writer: str) -> None:
    (made,) = ask(service, "submission", "user123", "hello", "nova-micro", role=writer)

    assert made["status"] == "queued"
    (seen,) = ask(service, "submission_status", made["request_id"], role=writer)
    assert {k: seen[k] for k in ("user_id", "prompt", "model_id", "status")} == {
        "user_id": "user123", "prompt": "hello", "model_id": "nova-micro", "status": "queued",
    }  # fmt: skip
    assert service.value("SELECT requests_used FROM quotas WHERE quota_period = 'monthly'") == 1, (
        "counted like any other"
    )
    assert service.database("rollup").rows("request_dispatch", {"at_most": 10}) == [
        {"request_id": made["request_id"], "user_id": "user123"}
    ]
    claim(service, made["request_id"])
    settle(service, completed(made["request_id"]))
    assert raw(service.owner, NODE_STATUS, made["request_id"]) == [
        {"status": "completed", "error_message": None, "result": "an answer"}
    ]
    (seen,) = ask(service, "submission_status", made["request_id"], role=writer)
    assert (seen["status"], seen["error_message"], seen["result"]) == ("completed", None, "an answer")
    assert one(service, "status_read", user123, made["request_id"])["result"] == "an answer"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run_as(service, writer, NODE_STATUS, made["request_id"])


def test_the_node_routes(service: Service, user123: bytes, deploy: Any) -> None:
    from tests.support.functions import KEYED, get, post

    deploy("submit")
    status, _, made = post('{"prompt": "hello", "model_id": "nova-micro"}')
    assert (status, made) == (202, {"request_id": made["request_id"], "status": "queued"})
    request_id = UUID(made["request_id"])
    claim(service, request_id)
    settle(service, failed(request_id))

    deploy("status")
    status, _, found = get(f"/status/{request_id}", KEYED)
    row = one(service, "status", request_id)
    assert (status, found["status"], found["result"]) == (200, row["status"], row["result"])
    assert found["error"]["message"] == row["error_message"]
    status, _, problem = get(f"/status/{uuid4()}", KEYED)
    assert (status, problem["title"]) == (404, "Request not found")


def test_the_benthos_output(service: Service, user123: bytes, writer: str) -> None:
    (config,) = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    output = config["output"]["sql_raw"]
    message = {"request_id": str(uuid4()), "user_id": "user123", "prompt": "hello", "model_id": "nova-micro"}
    arguments = [message[name] for name in re.findall(r"this\.(\w+)", output["args_mapping"])]

    run_as(service, writer, output["query"], *arguments)

    (row,) = service.rows(
        "SELECT r.user_id, p.prompt, r.model_id, r.status FROM requests r JOIN prompts p USING (request_id)"
    )
    assert row == {"user_id": "user123", "prompt": "hello", "model_id": "nova-micro", "status": "queued"}


def test_a_writers_own_id_makes_a_repeat_harmless(service: Service, user123: bytes) -> None:
    """The seed's statement on the view, which a writer that delivers at least once may send again."""
    insert = "INSERT INTO submissions (request_id, user_id, prompt, model_id, status) VALUES ($1, $2, $3, $4, $5) RETURNING *"
    own = uuid4()

    (first,) = raw(service.owner, insert, own, "user123", "hello", "nova-micro", "queued")
    claim(service, first["request_id"])
    settle(service, completed(first["request_id"]))
    (again,) = raw(service.owner, insert, own, "user123", "hello", "nova-micro", "queued")

    assert first["status"] == "queued"
    assert first["request_id"] != own
    assert again == first | {"status": "completed", "result": "an answer"}
    assert service.value("SELECT count(*) FROM requests") == 1
    with pytest.raises(psycopg.Error) as refused:
        raw(service.owner, insert, own, "user123", "another prompt", "nova-micro", "queued")
    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == ("SL422", "idempotency_conflict")
    (other,) = raw(service.owner, insert, uuid4(), "user123", "hello", "nova-micro", "queued")
    assert other["request_id"] != first["request_id"]


REFUSALS = {
    "user_inactive": ("SL403", "UPDATE users SET is_active = false", None),
    "invalid_input": ("SL422", "SELECT", None),
    "model_unknown": ("SL422", "SELECT", "no-such-model"),
    "model_missing": ("SL422", "UPDATE models SET is_default = false", None),
    "max_tokens_exceeded": ("SL422", "UPDATE models SET max_tokens_default = 4, max_tokens_limit = 4", None),
    "quota_too_small": ("SL422", "UPDATE quotas SET max_tokens = 10 WHERE quota_period = 'daily'", None),
    "quota_exceeded": ("SL429", "UPDATE quotas SET requests_used = max_requests WHERE quota_period = 'monthly'", None),
    "unfinished_exceeded": ("SL429", "UPDATE quota_plans SET max_unfinished = 1", None),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_has_a_name(service: Service, user123: bytes, writer: str, code: str) -> None:
    sqlstate, spoil, model = REFUSALS[code]
    prompt = "" if code == "invalid_input" else "hello"
    accept(service, user123)
    service.owner.execute(spoil)
    before = books(service)
    insert = "INSERT INTO submissions (user_id, prompt, model_id, parameters) VALUES ($1, $2, $3, $4)"

    with pytest.raises(psycopg.Error) as refused:
        run_as(service, writer, insert, "user123", prompt, model, '{"max_tokens": 5}')

    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == (sqlstate, code)
    assert books(service) == before
    assert re.search(rf"^\| `{sqlstate}` \| `{code}` \|", PAGE, re.MULTILINE), "the page has it"


def test_the_page_has_no_other_refusals() -> None:
    assert set(re.findall(r"^\| `SL\d+` \| `(\w+)` \|", PAGE, re.MULTILINE)) == {*REFUSALS, "idempotency_conflict"}


def test_what_does_not_fit_a_column_is_refused_by_postgresql(service: Service, user123: bytes) -> None:
    for user, model in (("user123", "m" * 51), ("u" * 51, None)):
        with pytest.raises(psycopg.errors.StringDataRightTruncation):
            service.owner.execute(
                "INSERT INTO submissions (user_id, prompt, model_id) VALUES (%s, 'x', %s)", (user, model)
            )
    assert service.value("SELECT count(*) FROM requests") == 0
