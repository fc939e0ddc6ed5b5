"""Python and SQL agree: every typed call names an existing entry point with its parameters, columns and role."""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

import sluice
from sluice.db.migrate import migrate
from tests.support.database import call
from tests.support.service import ROLES, Service, completed

MODULES = ("ledger", "maintenance", "administration", "reports", "webhooks", "batches", "files")


@dataclass(frozen=True)
class Call:
    """A call of Database in a module of sluice.db."""

    function: str
    parameters: frozenset[str]
    columns: tuple[str, ...] | None  # None: a single value


def calls() -> Iterator[Call]:
    for name in MODULES:
        module = importlib.import_module(f"sluice.db.{name}")
        for node in ast.walk(ast.parse((Path(sluice.__path__[0]) / "db" / f"{name}.py").read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="_database"), attr=kind)) if kind != "ping":
                    *result, function = list(node.args)
                    assert isinstance(function, ast.Constant)
                    assert bool(result) == (kind in {"row", "rows"})
                    columns = None
                    if result:
                        columns = tuple(field.name for field in fields(getattr(module, ast.unparse(result[0]))))
                    given = {keyword.arg or "" for keyword in node.keywords} - {"repeatable", "readers"}
                    yield Call(str(function.value), frozenset(given), columns)


CALLS = list(calls())


def attributes(service: Service, function: str) -> list[str]:
    rows = service.rows(
        "SELECT a.attname FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype"
        " JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0"
        " WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname = %s ORDER BY a.attnum",
        function,
    )
    return [row["attname"] for row in rows]


@pytest.mark.parametrize("each", CALLS, ids=lambda each: each.function)
def test_calls_name_functions_parameters_and_columns(service: Service, each: Call) -> None:
    (found,) = service.rows(
        "SELECT coalesce(proargnames, '{}') AS names, pronargs - pronargdefaults AS required, prosecdef FROM pg_proc"
        " WHERE pronamespace = 'sluice'::regnamespace AND proname = %s",
        each.function,
    )
    given = {f"p_{name}" for name in each.parameters}
    assert given <= set(found["names"])
    assert set(found["names"][: found["required"]]) <= given
    assert found["prosecdef"]
    if each.columns is not None:
        assert sorted(each.columns) == sorted(attributes(service, each.function))


def test_roles_may_call_exactly_the_functions_that_are_called(service: Service) -> None:
    granted = {
        row["proname"]
        for row in service.rows(
            "SELECT p.proname FROM pg_proc p, unnest(%s::text[]) AS r (name) WHERE pronamespace = 'sluice'::regnamespace"
            " AND prosecdef AND has_function_privilege('sluice_' || r.name, p.oid, 'EXECUTE')",
            list(ROLES),
        )
    }
    called = {each.function for each in CALLS}
    # For one release, the previous version still calls what a _v2 or a _v3 replaces.
    replaced = {name.replace("_v3", "_v2") for name in called} | {re.sub(r"_v\d$", "", name) for name in called}
    assert granted == called | replaced


def test_entry_points_run_as_a_role_that_owns_no_table(service: Service) -> None:
    owners = service.rows(
        "SELECT proname, pg_get_userbyid(proowner)::text AS owner FROM pg_proc"
        " WHERE pronamespace = 'sluice'::regnamespace AND prosecdef"
    )
    # These two change the schema, as only its owner may.
    assert {row["proname"] for row in owners if row["owner"] != "sluice_definer"} == {
        "partitions_ensure",
        "archive_months",
    }
    owned = "SELECT count(*) FROM pg_class WHERE relowner = 'sluice_definer'::regrole"
    assert service.value(owned) == 0
    assert (
        service.value("SELECT rolcanlogin OR rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = 'sluice_definer'")
        is False
    )


def test_row_level_policies_apply_to_entry_points(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    assert service.ledger("status").show(alice, request_id).outcome == "ok"

    service.owner.execute("ALTER TABLE requests ENABLE ROW LEVEL SECURITY")

    assert service.ledger("status").show(alice, request_id).outcome == "request_not_found"
    service.owner.execute("CREATE POLICY everything ON requests TO sluice_definer USING (true)")
    assert service.ledger("status").show(alice, request_id).outcome == "ok"


def test_the_definer_cannot_change_or_delete_audit_rows(service: Service) -> None:
    for right in ("UPDATE", "DELETE", "TRUNCATE"):
        assert service.value("SELECT has_table_privilege('sluice_definer', 'audit_log', %s)", right) is False


# Types that grow --------------------------------------------------------------------------------------------------------


def test_a_type_grows_at_its_end(service: Service) -> None:
    service.owner.execute("CALL define_type('example', 'a text, b integer')")
    service.owner.execute("CALL define_type('example', 'a text, b integer, c jsonb')")
    service.owner.execute("CALL define_type('example', 'a text, b integer, c jsonb')")
    assert service.value("SELECT to_jsonb(ROW('x', 1, '[]')::example)") == {"a": "x", "b": 1, "c": []}


@pytest.mark.parametrize("changed", ["a text, b bigint", "a text, c integer", "b integer, a text"])
def test_released_attributes_of_a_type_do_not_change(service: Service, changed: str) -> None:
    service.owner.execute("CALL define_type('example', 'a text, b integer')")
    with pytest.raises(psycopg.errors.RaiseException, match="was released"):
        service.owner.execute("CALL define_type('example', %s)", (changed,))
    assert service.value("SELECT to_regtype('wanted_type') IS NULL")


def test_a_rollback_leaves_the_functions_of_a_version_with_larger_types(service: Service) -> None:
    service.owner.execute("ALTER TYPE request_state ADD ATTRIBUTE later text")
    service.owner.execute("COMMENT ON FUNCTION clock_now() IS 'of the newer version'")
    service.owner.execute("UPDATE schema_functions SET checksum = 'of the newer version'")

    assert not migrate(service.owner).functions_replaced

    assert service.value("SELECT checksum FROM schema_functions") == "of the newer version"
    assert service.value("SELECT obj_description('clock_now'::regproc)") == "of the newer version"


@pytest.mark.parametrize("name", ["outcome", "admission", "request_state", "recovery"])
def test_code_that_does_not_know_an_attribute_works(service: Service, alice: bytes, name: str) -> None:
    """What a canary does: the type has one more attribute, which the caller neither sends nor reads."""
    service.owner.execute(f"ALTER TYPE {name} ADD ATTRIBUTE later text")
    request_id = service.submit(alice)
    (claim,) = service.ledger("worker").claim([request_id], 60)
    given: dict[str, Any] = completed(request_id, claim.attempt)
    (settled,) = call(service.owner, "request_settle", outcomes=Jsonb([given | {"later": "x"}]), actor="worker")
    assert (settled["kind"], settled["status"]) == ("settled", "completed")
    assert service.status(alice, request_id)["result"] == "an answer"
    assert service.maintenance().recover(10).requeued == 0


# Databases that hold other things ----------------------------------------------------------------------------------------


def test_tables_of_the_same_names_are_left_alone(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.users (id integer); CREATE TABLE public.requests (id integer)")
        connection.execute(
            "CREATE FUNCTION public.clock_now() RETURNS timestamptz LANGUAGE sql RETURN timestamptz 'epoch'"
        )
    service = Service(empty_dsn)
    try:
        migrate(service.owner)
        key = service.add_user()
        assert service.status(key, service.submit(key))["status"] == "queued"
        others = "SELECT count(*) FROM public.users UNION ALL SELECT count(*) FROM public.requests"
        assert [row["count"] for row in service.rows(others)] == [0, 0]
        made = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        assert service.value(made) == 2
    finally:
        service.close()
