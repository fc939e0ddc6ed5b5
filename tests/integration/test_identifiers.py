"""Ids of 255 characters, in every table; and the migration that made room for them without rewriting one."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from sluice.db.connection import Connection
from sluice.db.migrate import Migration, migrate, migrations
from sluice.domain.keys import digest
from sluice.services.tasks import stats, usage
from tests.support.functions import get
from tests.support.ledger import SMALL, assert_books_balance, wait_until_visible
from tests.support.service import Service, completed

LONG_USER = "=" + "u" * 253 + "|"
LONG_MODEL = "m" * 255
LONG_LIST = "p" * 255
UNUSUAL = (
    "-_3kzqFVrSaSaFHy782bbtaQ",
    "CORP\\anna",
    "auth0|5f7c8ec7",
    'a"b',
    "'; DROP TABLE users; --".replace(" ", ""),
    "%s%%",
)


def test_the_longest_ids_go_through_everything(admin: Callable[..., Any], deploy: Any, service: Service) -> None:
    admin("user.create", user_id=LONG_USER, tier="premium")
    key = admin("key.create", user_id=LONG_USER)["api_key"]
    admin("model.set", **SMALL | {"model_id": LONG_MODEL})
    admin("price.set", model_id=LONG_MODEL, prompt="1", completion="2", price_list=LONG_LIST)
    admin("tier.set", tier="premium", price_list=LONG_LIST)
    asked = service.submit(digest(key), model=LONG_MODEL)
    service.claim(asked)
    service.settle(completed(asked))
    inserted = service.value(
        "INSERT INTO submissions (user_id, prompt, model_id) VALUES (%s, 'x', %s) RETURNING request_id",
        LONG_USER,
        LONG_MODEL,
    )
    wait_until_visible(service)
    usage.run(service.tasks())
    stats.run(service.tasks())
    assert_books_balance(service)

    month = f"{service.value('SELECT utc_today()'):%Y-%m}"
    assert admin("user.get", user_id=LONG_USER)["user_id"] == LONG_USER
    assert admin("quota.get", user_id=LONG_USER)["user_id"] == LONG_USER
    assert {entry["request_id"] for entry in admin("request.list", user_id=LONG_USER)["requests"]} == {
        str(asked),
        str(inserted),
    }
    assert {entry["user_id"] for entry in admin("audit.list", user_id=LONG_USER)["entries"]} == {LONG_USER}
    (line, *_) = admin("invoice.get", user_id=LONG_USER, month=month)["lines"]
    assert (line["model"], line["price_list"]) == (LONG_MODEL, LONG_LIST)
    deploy("status")
    assert get("/usage", {"x-api-key": key})[2]["user_id"] == LONG_USER
    assert len(get("/requests", {"x-api-key": key}, model=LONG_MODEL)[2]["requests"]) == 2
    (sent, *_) = service.queue.messages
    assert sent.user_id == LONG_USER


@pytest.mark.parametrize("user_id", UNUSUAL)
def test_unusual_ids_are_kept_as_they_are(admin: Callable[..., Any], service: Service, user_id: str) -> None:
    admin("user.create", user_id=user_id)
    admin("user.create", user_id=user_id.upper() + "0")
    key = admin("key.create", user_id=user_id)["api_key"]
    service.submit(digest(key))
    assert admin("user.get", user_id=user_id)["user_id"] == user_id
    assert {entry["user_id"] for entry in admin("audit.list", user_id=user_id)["entries"]} == {user_id}
    assert user_id in [user["user_id"] for user in admin("user.list")]


def test_ids_that_differ_by_case_are_two_users(admin: Callable[..., Any]) -> None:
    admin("user.create", user_id="Anna@x.org")
    admin("user.create", user_id="anna@x.org", tier="premium")
    assert [admin("user.get", user_id=each)["tier"] for each in ("Anna@x.org", "anna@x.org")] == ["basic", "premium"]


@pytest.mark.parametrize("user_id", ["=1+1", "+1", "-1", "@SUM(1)", "a"])
def test_no_id_is_a_formula_in_an_invoice(admin: Callable[..., Any], service: Service, user_id: str) -> None:
    admin("user.create", user_id=user_id)
    month = f"{service.value('SELECT utc_today()'):%Y-%m}"
    for line in admin("invoice.get", user_id=user_id, month=month, format="csv")["csv"].splitlines()[1:]:
        assert line.split(",")[1] == (user_id if user_id == "a" else f"'{user_id}")


# The migration --------------------------------------------------------------------------------------------------------

WIDENING: LiteralString = next(step.sql for step in migrations() if step.name == "identifiers")


def others() -> list[Migration]:
    """The migrations apart from the widening and what follows from it, in an order of their own."""
    steps = [step for step in migrations() if step.name not in ("identifiers", "statistics_and_index")]
    return [replace(step, version=version) for version, step in enumerate(steps, 1)]


def narrow_columns(connection: Connection) -> list[dict[str, Any]]:
    return connection.execute(
        "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'p', 'v')"
        " AND a.attname IN ('user_id', 'model_id', 'price_list')"
        " AND format_type(a.atttypid, a.atttypmod) <> 'character varying(255)'"
    ).fetchall()


def test_every_column_of_an_identifier_is_wide(service: Service) -> None:
    assert narrow_columns(service.owner) == []


def files(connection: Connection) -> dict[str, int]:
    """The file of each table and index: it changes when one is written anew."""
    rows = connection.execute(
        "SELECT c.oid::regclass::text AS name, c.relfilenode::bigint AS file FROM pg_class c"
        " WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'i')"
    ).fetchall()
    return {row["name"]: row["file"] for row in rows}


def test_widening_rewrites_nothing_and_reads_nothing(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True, row_factory=dict_row) as connection:
        migrate(connection, others())
        connection.execute("SET search_path = sluice, pg_temp")
        service = Service(empty_dsn)
        try:
            key = service.add_user()
            request_id: UUID = service.submit(key)
            service.owner.execute("SET search_path = sluice")
            service.claim(request_id)
            service.settle(completed(request_id))
        finally:
            service.close()
        connection.execute("SELECT partition_create('requests', 'request_id', '2020-01-01')")
        connection.execute("SELECT archive_months(365)")
        before = files(connection)

    # Another session: its statistics have only what the migration itself does.
    with psycopg.connect(empty_dsn, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SET search_path = sluice, pg_temp")
        with connection.transaction():
            connection.execute(WIDENING)
            read = connection.execute(
                "SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables"
                " WHERE schemaname = 'sluice' AND seq_tup_read > 0 ORDER BY 1"
            ).fetchall()
            after = files(connection)

        # Indexes with a condition are built again: at once where the table is small, and otherwise later (0003).
        anew = {"inflight_waiting", "inflight_dispatched"}
        later = {name for name in before if name.startswith("audit_log_y") and name not in after}
        assert len(later) == len([name for name in before if re.fullmatch(r"audit_log_y\d+m\d+", name)])
        kept = before.keys() - anew - later
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert set(after) - set(before) == {"idempotency_keys_expiry"}
        # What grows with the requests is not read either. (A check on the names of users and lists is made again.)
        assert {row["relname"] for row in read} <= {"users", "price_lists", "inflight", "idempotency_keys"}
        assert narrow_columns(connection) == []


def test_widening_keeps_views_and_functions_and_who_may_use_them(empty_dsn: str, writer_name: str) -> None:
    about_views = (
        "SELECT v.relname, v.reloptions, v.relacl::text AS acl, pg_get_viewdef(v.oid) AS definition,"
        " obj_description(v.oid) AS comment,"
        " ARRAY(SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.tgrelid = v.oid) AS triggers"
        " FROM pg_class v WHERE v.relnamespace = 'sluice'::regnamespace AND v.relkind = 'v' ORDER BY 1"
    )
    about_functions = (
        "SELECT oid, pg_get_functiondef(oid) AS definition, proacl::text AS acl, pg_get_userbyid(proowner) AS owner,"
        " obj_description(oid) AS comment FROM pg_proc WHERE pronamespace = 'sluice'::regnamespace AND prokind = 'f'"
        " ORDER BY 1"
    )
    with psycopg.connect(empty_dsn, autocommit=True, row_factory=dict_row) as connection:
        migrate(connection, others())
        connection.execute("SET search_path = sluice, pg_temp")
        connection.execute(f"GRANT INSERT, SELECT ON submissions TO {writer_name} WITH GRANT OPTION")
        connection.execute("GRANT SELECT ON price_registry TO PUBLIC")
        before, functions = (connection.execute(query).fetchall() for query in (about_views, about_functions))

        connection.execute(WIDENING)

        assert connection.execute(about_views).fetchall() == before
        assert connection.execute(about_functions).fetchall() == functions
        assert {"model_registry", "price_registry", "requests_all", "submissions"} <= {row["relname"] for row in before}


@pytest.fixture
def writer_name(empty_dsn: str) -> Iterator[str]:
    """A role that the owner of the database has made."""
    name = f"writer_{uuid4().hex}"
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name}")
        yield name
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
