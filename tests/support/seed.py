"""Runs the seed's own statements and those of docs/history/seed-map.md.

The seed's run verbatim (tests/integration/seed), for its user123, in a schema of views that give our tables its names:
the fixture `seed` of tests/integration/conftest.py.
"""

import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.support.service import Service, completed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/history/seed-map.md").read_text(encoding="utf-8")
OTHER_KEY = "sluice_" + "b" * 43


def seed_sql(name: str) -> str:
    """A file of tests/integration/seed: the seed's own text, except `names`."""
    return (ROOT / f"tests/integration/seed/{name}.sql").read_text(encoding="utf-8")


# The seed's schema ---------------------------------------------------------------------------------------------------

FIRST = seed_sql("first_drawing")
SECOND = seed_sql("second_drawing")
VOLUME = seed_sql("high_volume")
DRAWINGS = {"First drawing: tables": FIRST, "Second drawing: tables": SECOND, "High volume: tables": VOLUME}

# The seed's statements -----------------------------------------------------------------------------------------------

# Its names on our tables. usage and request_stats are made as the seed creates them, to be filled by its own statements.
SEED_VIEWS = seed_sql("names")
SEED_STATUS = seed_sql("status")
NODE_STATUS = seed_sql("node_status")
SEED_HISTORY = seed_sql("history")
SEED_QUOTA = seed_sql("quota")
SEED_USAGE = seed_sql("usage")
SEED_TIERS = seed_sql("tiers")
SEED_STATS = seed_sql("stats")
SEED_MONTHS = """
    SELECT user_id, date_trunc('month', created_at)::date AS period_start, count(*) AS requests_count,
           coalesce(sum(total_tokens), 0) AS tokens_used
    FROM requests GROUP BY 1, 2 ORDER BY 1, 2
"""
SEED_KEPT = """
    SELECT user_id, period, period_start, period_end, requests_count, tokens_used
    FROM usage WHERE period = 'monthly' ORDER BY user_id, period_start
"""
SEED_SEEN = """
    SELECT day, user_id, model_id, request_count, avg_processing_time, failure_count
    FROM request_stats ORDER BY day, user_id, model_id
"""


def seed_says(service: Service, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """Run a statement of the seed, on views with its names."""
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
    """Run a statement with parameters $1, $2, ..., as other drivers than psycopg send them."""
    cursor = psycopg.RawCursor(connection, row_factory=dict_row).execute(statement, parameters)
    return cursor.fetchall() if cursor.description else []


def run_as(service: Service, role: str, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    with service.owner.transaction():
        service.owner.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        rows = raw(service.owner, statement, *parameters)
        service.owner.execute("RESET ROLE")
        return rows


def ask(service: Service, name: str, *parameters: Any, role: str | None = None) -> list[dict[str, Any]]:
    """Run a statement of the page, with its role."""
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
    """Create a completed request."""
    request_id = accept(service, key, prompt)
    claim(service, request_id)
    settle(service, completed(request_id, **changes))
    return request_id


def roll_up(service: Service) -> None:
    """Run both rollups until they have seen everything: a transaction of another database may delay them."""
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
    """Set the database's clock to the past, and create the partitions for it."""
    seconds = ago.total_seconds()
    for clock, body in {
        "clock_now() RETURNS timestamptz": f"clock_timestamp() - make_interval(secs => {seconds})",
        "request_id_now() RETURNS uuid": f"uuidv7(make_interval(secs => -{seconds}))",
    }.items():
        service.owner.execute(f"CREATE OR REPLACE FUNCTION {clock} LANGUAGE sql VOLATILE RETURN {body}")
    month = service.value("SELECT date_trunc('month', clock_now() AT TIME ZONE 'UTC')::date")
    for parent in ("requests", "prompts"):
        service.rows("SELECT partition_create(%s, 'request_id', %s)", parent, month)


# What is compared ----------------------------------------------------------------------------------------------------

BOOKS = ("requests", "results", "inflight", "quotas", "audit_log", "prompts")


def books(service: Service) -> dict[str, Any]:
    return {table: service.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in BOOKS}


def plan_of(service: Service, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """Run a statement; returns every node of its plan that reads a table."""
    (row,) = raw(service.owner, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", *parameters)
    nodes, stack = [], [row["QUERY PLAN"][0]["Plan"]]
    while stack:
        node = stack.pop()
        stack += node.get("Plans", [])
        if "Relation Name" in node:
            nodes.append(node)
    return nodes


def rows_read(service: Service) -> Counter[str]:
    """Rows that the owner's connection has read of each table so far, with or without an index."""
    read = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS n FROM pg_stat_xact_user_tables"
    return Counter({row["relname"]: row["n"] for row in service.rows(read)})


def monthly(service: Service) -> list[dict[str, Any]]:
    return ask(service, "usage_monthly")


def assert_figures_equal_the_seeds(service: Service) -> None:
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
