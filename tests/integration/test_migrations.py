"""Migrations: applied once even concurrently; a newer schema is left alone; the schema equals its snapshot."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from sluice.db.connection import Connection
from sluice.db.migrate import Migration, migrate, migrations
from sluice.domain.errors import SluiceError
from tests.support.service import ROLES

SNAPSHOT = Path(__file__).with_name("schema.txt")
EXTRA = Migration(2, "extra", "CREATE TABLE extra (id integer PRIMARY KEY)", min_compatible_version=1)


def connect(dsn: str) -> Connection:
    return psycopg.connect(dsn, autocommit=True, row_factory=dict_row)


def test_migrating_twice_does_nothing_the_second_time(empty_dsn: str) -> None:
    with connect(empty_dsn) as connection:
        first, second = migrate(connection), migrate(connection)

    assert (first.applied, first.functions_replaced) == ([m.version for m in migrations()], True)
    assert (second.applied, second.functions_replaced) == ([], False)
    assert first.schema_version == second.schema_version == len(migrations())


def test_twenty_at_once_apply_each_step_once(empty_dsn: str) -> None:
    def one(_: int) -> list[int]:
        with connect(empty_dsn) as connection:
            return migrate(connection, [*migrations(), replace(EXTRA, version=len(migrations()) + 1)]).applied

    with ThreadPoolExecutor(20) as pool:
        applied = [version for versions in pool.map(one, range(20)) for version in versions]

    assert sorted(applied) == list(range(1, len(migrations()) + 2))


def test_a_failed_step_is_rolled_back(empty_dsn: str) -> None:
    broken = Migration(len(migrations()) + 1, "broken", "CREATE TABLE half (id integer); SELECT 1/0", 1)
    with connect(empty_dsn) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate(connection, [*migrations(), broken])
        assert connection.execute("SELECT to_regclass('half') AS t").fetchone() == {"t": None}
        versions = connection.execute("SELECT version FROM schema_migrations ORDER BY 1").fetchall()
        assert [row["version"] for row in versions] == list(range(1, len(migrations()) + 1))


def test_a_newer_compatible_schema_is_left_alone(empty_dsn: str) -> None:
    newer = replace(EXTRA, version=len(migrations()) + 1)
    with connect(empty_dsn) as connection:
        migrate(connection, [*migrations(), newer])
        connection.execute("UPDATE schema_functions SET checksum = 'of the newer code'")

        report = migrate(connection)

        assert (report.schema_version, report.applied, report.functions_replaced) == (newer.version, [], False)


def test_a_newer_incompatible_schema_is_refused(empty_dsn: str) -> None:
    version = len(migrations()) + 1
    with connect(empty_dsn) as connection:
        migrate(connection, [*migrations(), replace(EXTRA, version=version, min_compatible_version=version)])
        with pytest.raises(SluiceError, match="needs code of version") as raised:
            migrate(connection)
    assert raised.value.code == "schema_incompatible"


def test_a_changed_applied_step_is_refused(empty_dsn: str) -> None:
    with connect(empty_dsn) as connection:
        migrate(connection)
        changed = [replace(migrations()[0], sql=migrations()[0].sql + "\n-- changed"), *migrations()[1:]]
        with pytest.raises(SluiceError, match="Migration 1 was changed"):
            migrate(connection, changed)


def test_shipped_rows_are_inserted_once_and_may_be_edited(dsn: str) -> None:
    with connect(dsn) as connection:
        connection.execute("UPDATE models SET max_tokens_limit = 777 WHERE model_id = 'nova-micro'")
        connection.execute("UPDATE tier_limits SET max_tokens = 777 WHERE tier = 'basic' AND quota_period = 'minute'")
        before = connection.execute("SELECT count(*) FROM prices").fetchone()

        migrate(connection)

        assert connection.execute("SELECT max_tokens_limit AS n FROM models").fetchall() == [{"n": 777}]
        limits = connection.execute("SELECT max_tokens AS n FROM tier_limits WHERE tier = 'basic' AND max_tokens = 777")
        assert limits.fetchall() == [{"n": 777}]
        assert connection.execute("SELECT count(*) FROM prices").fetchone() == before


def test_the_step_of_the_token_classes_leaves_rows_as_they_are(empty_dsn: str) -> None:
    before = [step for step in migrations() if step.version < 7]
    with connect(empty_dsn) as connection:
        connection.execute("CREATE SCHEMA sluice")
        for step in before:
            connection.execute(step.sql)
        connection.execute(
            "CREATE TABLE requests_all_time PARTITION OF requests DEFAULT;"
            " INSERT INTO users (user_id) VALUES ('ann');"
            " INSERT INTO models (model_id, backend, backend_model, max_tokens_default, max_tokens_limit)"
            " VALUES ('m', 'bedrock', 'm', 1, 1);"
            " INSERT INTO prices (model_id, token_class, valid_from, price_per_million) VALUES ('m', 'prompt', now(), 1);"
            " INSERT INTO usage_by_model (user_id, model_id, period, period_start, prompt_tokens)"
            " VALUES ('ann', 'm', 'daily', now(), 7);"
            " INSERT INTO requests (user_id, model_id, created_at, updated_at, estimated_tokens, reserved_tokens, prompt_tokens)"
            " VALUES ('ann', 'm', now(), now(), 9, 9, 7)"
        )

        connection.execute(migrations()[6].sql)

        counts = "SELECT prompt_tokens, cached_tokens, reasoning_tokens FROM "
        assert connection.execute(counts + "requests_all").fetchall() == [
            {"prompt_tokens": 7, "cached_tokens": None, "reasoning_tokens": None}
        ]
        assert connection.execute(counts + "usage_by_model").fetchall() == [
            {"prompt_tokens": 7, "cached_tokens": 0, "reasoning_tokens": 0}
        ]
        put = "INSERT INTO prices (model_id, token_class, valid_from, price_per_million) VALUES ('m', %s, now(), 1)"
        for token_class in ("cached_prompt", "completion", "reasoning"):
            connection.execute(put, (token_class,))
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(put, ("thinking",))


@pytest.mark.parametrize("name", ["1_short.sql", "0001_no_header.sql", "0002_gap.sql"])
def test_invalid_migration_files_are_refused(tmp_path: Path, name: str) -> None:
    header = "" if "header" in name else "-- min_compatible_version: 1\n"
    (tmp_path / name).write_text(header + "SELECT 1")
    with pytest.raises(ValueError, match="migration"):
        migrations(tmp_path)


def describe(connection: Connection) -> str:
    """Columns, constraints, indexes and functions with privileges, one per line, without monthly partitions."""
    queries = (
        (
            "SELECT format('%s.%s %s%s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),"
            "   CASE WHEN a.attnotnull THEN ' not null' ELSE '' END,"
            "   coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')) AS line"
            " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)"
            " WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'c') AND NOT c.relispartition"
            "   AND c.relname NOT LIKE 'pg_stat_%%'"
        ),
        (
            "SELECT format('%s: %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS line FROM pg_constraint"
            " WHERE connamespace = 'sluice'::regnamespace AND contype <> 'n'"
            "   AND NOT (SELECT relispartition FROM pg_class WHERE oid = conrelid)"
        ),
        (
            "SELECT pg_get_indexdef(i.indexrelid) AS line FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
            " WHERE c.relnamespace = 'sluice'::regnamespace AND NOT c.relispartition"
        ),
        (
            "SELECT format('%s -> %s%s %s', p.oid::regprocedure, pg_get_function_result(p.oid),"
            "   CASE WHEN prosecdef THEN format(' as %s', coalesce(nullif(pg_get_userbyid(proowner), current_user), 'owner')) ELSE '' END,"
            "   CASE WHEN prosecdef THEN (SELECT string_agg(coalesce(nullif(r.rolname, current_user), 'owner'), ' ' ORDER BY r.rolname)"
            "     FROM aclexplode(proacl) x LEFT JOIN pg_roles r ON r.oid = x.grantee) END) AS line"
            " FROM pg_proc p WHERE pronamespace = 'sluice'::regnamespace AND proname NOT LIKE 'pg_stat_%%'"
        ),
        (
            "SELECT format('%s: %s', tgrelid::regclass, pg_get_triggerdef(oid)) AS line FROM pg_trigger"
            " WHERE NOT tgisinternal AND tgparentid = 0"
            # Those of partitions contain the names of months.
            " AND NOT (SELECT relispartition FROM pg_class WHERE pg_class.oid = tgrelid)"
        ),
    )
    return "\n\n".join(
        "\n".join(sorted(row["line"] for row in connection.execute(query).fetchall())) for query in queries
    )


def test_the_schema_equals_the_snapshot(dsn: str) -> None:
    """Schema changes appear as changes of schema.txt; SLUICE_WRITE_SNAPSHOT=1 rewrites it."""
    with connect(dsn) as connection:
        found = describe(connection) + "\n"
    if os.environ.get("SLUICE_WRITE_SNAPSHOT"):
        SNAPSHOT.write_text(found)
    assert found == SNAPSHOT.read_text()


def test_no_security_definer_function_is_public(dsn: str) -> None:
    with connect(dsn) as connection:
        open_to_all = connection.execute(
            "SELECT p.oid::regprocedure::text AS name FROM pg_proc p"
            " WHERE pronamespace = 'sluice'::regnamespace AND prosecdef"
            " AND (proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) x WHERE x.grantee = 0))"
        ).fetchall()
    assert open_to_all == []


def test_security_definer_functions_fix_their_search_path(dsn: str) -> None:
    with connect(dsn) as connection:
        loose = connection.execute(
            "SELECT p.oid::regprocedure::text AS name FROM pg_proc p WHERE pronamespace = 'sluice'::regnamespace"
            " AND prosecdef AND NOT coalesce(proconfig, '{}') @> ARRAY['search_path=sluice, pg_temp']"
        ).fetchall()
    assert loose == []


@pytest.mark.parametrize("role", ROLES)
def test_roles_cannot_read_tables_of_requests(dsn: str, role: str) -> None:
    with connect(dsn) as connection:
        connection.execute(f"SET ROLE sluice_{role}")
        for table in ("requests", "prompts", "results", "inflight", "audit_log", "idempotency_keys"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT key_hash FROM api_keys")


def test_the_audit_log_is_append_only(dsn: str) -> None:
    with connect(dsn) as connection:
        connection.execute("INSERT INTO audit_log (actor, action) VALUES ('test', 'test')")
        (partition,) = connection.execute("SELECT DISTINCT tableoid::regclass::text AS name FROM audit_log").fetchall()
        for table in ("audit_log", partition["name"]):
            for change in ("UPDATE {} SET actor = 'x'", "DELETE FROM {}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                    connection.execute(change.format(table))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute(f"TRUNCATE {table}")
