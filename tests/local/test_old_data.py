"""Data of an earlier layout is kept under another name, and a new database is started."""

import re
from pathlib import Path

import psycopg
import pytest

from local.old_data import set_aside_old_data
from local.postgres import Postgres
from local.stack import DATABASE, OWNER, Stack

PASSWORD = "secret"
OLD = [
    "CREATE TABLE public.schema_migrations AS SELECT 3 AS version",
    "CREATE TABLE public.users AS SELECT 'alice' AS id",
]
NEW = ["CREATE SCHEMA sluice", "CREATE TABLE sluice.schema_migrations AS SELECT 1 AS version"]


@pytest.fixture
def database(postgres: Postgres) -> Postgres:
    postgres.start()
    postgres.ensure_database(DATABASE, OWNER, PASSWORD)
    return postgres


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.key"
    path.write_text("sluice_key")
    return path


def execute(server: Postgres, *statements: str) -> None:
    """Run statements as the owner."""
    with psycopg.connect(server.url(DATABASE, user=OWNER, password=PASSWORD)) as connection:
        for statement in statements:
            connection.execute(statement)


def column(url: str, query: str) -> list[object]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(query)]


def databases(server: Postgres) -> list[object]:
    return column(server.url(), f"SELECT datname FROM pg_database WHERE datname LIKE '{DATABASE}%' ORDER BY datname")


def set_aside(server: Postgres, key_file: Path) -> str | None:
    return set_aside_old_data(server, DATABASE, OWNER, PASSWORD, state_dir=key_file.parent, key_file=key_file)


def test_old_data_is_kept_and_a_new_database_is_started(database: Postgres, key_file: Path) -> None:
    execute(database, *OLD)
    sentence = set_aside(database, key_file)

    kept = databases(database)[1]
    assert re.fullmatch(r"sluice_before_\d{8}_\d{6}", str(kept))
    assert sentence == (
        f"The data in {key_file.parent} was made by an earlier layout that this version cannot read; "
        f"it was kept as the database {kept}, and a new one was started."
    )
    assert column(database.url(str(kept)), "SELECT id FROM public.users") == ["alice"]
    assert not key_file.exists()

    execute(database, *NEW)
    assert set_aside(database, key_file) is None
    assert databases(database) == [DATABASE, kept]


@pytest.mark.parametrize(
    "statements", [[], NEW, [*OLD, *NEW], OLD[1:]], ids=["empty", "new layout", "both layouts", "other tables"]
)
def test_other_databases_are_left_alone(database: Postgres, key_file: Path, statements: list[str]) -> None:
    execute(database, *statements)
    assert set_aside(database, key_file) is None
    assert databases(database) == [DATABASE]
    assert key_file.exists()


def test_start_of_the_stack_reports_old_data(tmp_path: Path) -> None:
    sentences: list[str] = []
    stack = Stack(tmp_path / "state", durable=False, report=sentences.append)
    stack.state_dir.mkdir()
    (stack.state_dir / "demo.key").write_text("sluice_key")
    try:
        stack._start_postgres()
        with psycopg.connect(stack.postgres.url(DATABASE)) as connection:
            connection.execute(OLD[0])
        stack.postgres.stop()
        stack._start_postgres()
        assert len(databases(stack.postgres)) == 2
    finally:
        stack.postgres.destroy()
    assert [each for each in sentences if "earlier layout" in each] == sentences[-1:]
    assert not (stack.state_dir / "demo.key").exists()
