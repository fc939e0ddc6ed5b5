"""The connection of an execution environment: renewed when broken, without repeating unsafe queries."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sluice.config import Settings
from sluice.db.connection import Connection, PatientConnection, connect
from sluice.domain.errors import DatabaseError, SluiceError
from sluice.domain.requests import ModelOffer
from tests.support.database import RoleDatabase
from tests.support.functions import KEYED, get, post
from tests.support.service import Service, status_of


def counting_opener(dsn: str, opened: list[int]) -> Any:
    def opener() -> Connection:
        connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        opened.append(connection.info.backend_pid)
        return connection

    return opener


def test_one_connection_serves_many_queries(dsn: str) -> None:
    opened: list[int] = []
    database = RoleDatabase(counting_opener(dsn, opened))
    for _ in range(5):
        database.ping()
    assert len(opened) == 1
    database.close()


def test_an_idle_connection_that_was_closed_is_renewed(service: Service) -> None:
    opened: list[int] = []
    database = RoleDatabase(counting_opener(service.dsn, opened))
    database.ping()
    service.owner.execute("SELECT pg_terminate_backend(%s, 5000)", (opened[0],))

    assert database.value("clock_now", repeatable=False)
    assert len(opened) == 2
    database.close()


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_connection_lost_during_a_query(service: Service, alice: bytes, repeatable: bool) -> None:
    """Only repeatable queries are retried: others may have been executed."""
    opened: list[int] = []
    database = RoleDatabase(counting_opener(service.dsn, opened))
    database.ping()
    service.owner.execute(
        """
        CREATE OR REPLACE FUNCTION model_offers(p_key_hash bytea) RETURNS SETOF model_offer
            LANGUAGE plpgsql AS $$ BEGIN
                IF pg_backend_pid() = PID THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                PERFORM pg_sleep(0.1);
            END $$""".replace("PID", str(opened[0]))
    )

    if repeatable:
        assert database.rows(ModelOffer, "model_offers", repeatable=True, key_hash=b"") == []
        assert len(opened) == 2
    else:
        with pytest.raises(SluiceError) as raised:
            database.call("model_offers", key_hash=b"")
        assert (raised.value.code, status_of(raised.value), raised.value.retry_after) == (
            "database_unavailable",
            503,
            5,
        )
    database.ping()
    database.close()


def test_an_unreachable_server_is_503(dsn: str) -> None:
    nowhere = make_conninfo(dsn, port=1, connect_timeout=2)
    database = RoleDatabase(lambda: psycopg.connect(nowhere, row_factory=dict_row))
    with pytest.raises(SluiceError) as raised:
        database.ping()
    assert (status_of(raised.value), raised.value.retry_after) == (503, 5)


def test_a_query_timeout_is_reported(dsn: str, service: Service) -> None:
    service.owner.execute("""
        CREATE OR REPLACE FUNCTION rollup_usage() RETURNS integer LANGUAGE sql AS 'SELECT pg_sleep(5); SELECT 1'""")
    database = RoleDatabase(
        lambda: psycopg.connect(dsn, options="-c statement_timeout=100", row_factory=dict_row, autocommit=True)
    )
    with pytest.raises(SluiceError) as raised:
        database.call_row("rollup_usage")
    assert raised.value.code == "database_unavailable"
    database.close()


def test_deadlocks_are_retried(service: Service) -> None:
    service.owner.execute("CREATE SEQUENCE tries")
    service.owner.execute("""
        CREATE OR REPLACE FUNCTION rollup_usage() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') < 3 THEN RAISE EXCEPTION 'x' USING ERRCODE = 'deadlock_detected'; END IF;
            RETURN currval('tries');
        END $$""")
    database = RoleDatabase(counting_opener(service.dsn, []))
    assert database.value("rollup_usage") == 3
    database.close()


def test_values_in_postgresql_errors_are_not_passed_on(service: Service) -> None:
    database = RoleDatabase(counting_opener(service.dsn, []))
    service.add_user("alice")
    arguments = Jsonb({"user_id": "alice", "tier": "basic"})
    with pytest.raises(DatabaseError) as raised:
        database.call_row("admin_run", operation="user.create", arguments=arguments, invocation=None)
    assert str(raised.value) == "SQLSTATE 23505, constraint users_pkey"
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    database.close()


def test_an_unresponsive_server_is_given_up(dsn: str, service: Service) -> None:
    """No statement_timeout ends this query, as when the server's host has vanished."""
    service.owner.execute(
        "CREATE OR REPLACE FUNCTION rollup_usage() RETURNS integer LANGUAGE sql AS 'SELECT pg_sleep(60); SELECT 1'"
    )
    opened: list[PatientConnection] = []

    def opener() -> PatientConnection:
        connection = PatientConnection.connect(dsn, autocommit=True, row_factory=dict_row)
        connection.patience = 0.3
        opened.append(connection)
        return connection

    database = RoleDatabase(opener)
    with pytest.raises(SluiceError) as raised:
        database.call_row("rollup_usage")
    assert raised.value.code == "database_unavailable"
    assert opened[0].closed
    database.ping()
    database.close()


@pytest.mark.parametrize(("role", "patience"), [("sluice_submit", 9), ("sluice_worker", 21), ("", None)])
def test_the_client_timeout_exceeds_the_servers(
    dsn: str, monkeypatch: pytest.MonkeyPatch, role: str, patience: float | None
) -> None:
    monkeypatch.setattr("sluice.db.connection.connection_parameters", lambda _: conninfo_to_dict(dsn))
    with connect(Settings(database_secret_arn="arn", database_role=role)) as connection:
        assert isinstance(connection, PatientConnection)
        assert connection.patience == patience


def test_a_database_without_free_connections_is_503(
    service: Service, alice: bytes, deploy: Callable[..., Any], dsn: str
) -> None:
    role = f"crowded_{uuid4().hex}"
    service.owner.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 0 IN ROLE sluice_submit, sluice_status"
    )
    try:
        crowded = make_conninfo(dsn, user=role, password="x")
        deploy("submit", dsn=crowded)
        submitted = post('{"prompt": "x"}')
        deploy("status", dsn=crowded)
        asked = get(f"/status/{uuid4()}", KEYED)
    finally:
        service.owner.execute(f"DROP ROLE {role}")
    for status, headers, body in (submitted, asked):
        assert (status, headers["Retry-After"], body["code"]) == (503, "5", "database_unavailable")
