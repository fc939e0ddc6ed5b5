"""The stack on this machine keeps the limits that follow from its parameters, as a deployment in AWS does."""

from typing import Any

import psycopg

from local.stack import Stack

from .conftest import Client

Database = psycopg.Connection[dict[str, Any]]


def test_connections_are_limited_as_the_parameters_say(database: Database) -> None:
    rows = database.execute("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE 'sluice\\_%'").fetchall()
    limits = {row["rolname"].removeprefix("sluice_"): row["rolconnlimit"] for row in rows}
    assert limits == {
        "submit": 60,
        "status": 60,
        "openai": 30,
        "worker": 10,
        "foreground": 30,
        "webhooks": 2,
        "batches": 2,
        "rollup": 4,
        "admin": 5,
        "definer": -1,
        "owner": -1,
    }


def test_every_connection_of_a_function_counts(database: Database, client: Client) -> None:
    """All of them log in as the owner here, so each holds an advisory lock."""
    assert client.get("/models").status == 200
    rows = database.execute(
        """
        SELECT a.application_name AS name, count(l.objid) AS locks
        FROM pg_stat_activity a
        LEFT JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory' AND l.objsubid = 2
        WHERE a.application_name LIKE 'sluice\\_%' AND a.datname = current_database()
        GROUP BY a.pid, a.application_name"""
    ).fetchall()
    assert rows
    assert {row["locks"] for row in rows} == {1}


def test_concurrency_is_reserved_where_the_quota_allows(stack: Stack) -> None:
    functions, names = stack.client("lambda"), stack.info.functions
    reserved = {
        role: functions.get_function_concurrency(FunctionName=names[role]).get("ReservedConcurrentExecutions")
        for role in ("submit", "status", "openai", "worker", "foreground", "rollup", "admin", "migrate")
    }
    unreserved = dict.fromkeys(("rollup", "admin", "migrate"))
    assert reserved == {"submit": 60, "status": 60, "openai": 30, "worker": 5, "foreground": 30, **unreserved}


def test_callers_are_told_when_all_environments_are_busy(stack: Stack, client: Client) -> None:
    functions, status = stack.client("lambda"), stack.info.functions["status"]
    functions.put_function_concurrency(FunctionName=status, ReservedConcurrentExecutions=0)
    try:
        answer = client.get("/models")
    finally:
        functions.put_function_concurrency(FunctionName=status, ReservedConcurrentExecutions=60)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert answer.body == {"message": "Service Unavailable"}
    assert client.get("/models").status == 200
