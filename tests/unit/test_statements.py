"""Calls of the database's functions: built from names only, values are sent apart from the text."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from psycopg.pq import TransactionStatus

from sluice.db.connection import Connection, Database, _statement


@dataclass(frozen=True)
class Found:
    request_id: str
    output: Any


class FakeConnection:
    """Records what is executed and answers with given rows."""

    closed = False
    info = SimpleNamespace(transaction_status=TransactionStatus.IDLE)

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.executed: list[tuple[str, Mapping[str, Any]]] = []
        self._rows = list(rows)

    def execute(self, statement: sql.Composed, arguments: Mapping[str, Any]) -> "FakeConnection":
        self.executed.append((statement.as_string(), arguments))
        return self

    def fetchall(self) -> list[dict[str, Any]]:
        return self._rows


def database(connection: FakeConnection) -> Database:
    return Database(lambda: cast(Connection, connection))


def test_rows_are_selected_by_the_field_names_of_the_dataclass() -> None:
    connection = FakeConnection({"request_id": "1", "output": 5})
    assert database(connection).rows(Found, "request_show", key_hash=b"\x01", request_id="1") == [Found("1", 5)]
    ((text, _),) = connection.executed
    assert text == (
        'SELECT "request_id", "output" FROM '
        '"sluice"."request_show"("p_key_hash" => %(key_hash)s, "p_request_id" => %(request_id)s)'
    )


def test_values_are_not_in_the_text() -> None:
    connection = FakeConnection({"value": True})
    assert database(connection).value("request_undispatch", ids=["'; DROP TABLE users; --"]) is True
    assert connection.executed == [
        (
            'SELECT "sluice"."request_undispatch"("p_ids" => %(ids)s) AS value',
            {"ids": ["'; DROP TABLE users; --"]},
        )
    ]


def test_function_without_arguments() -> None:
    assert _statement("audit_head", (), None).as_string() == 'SELECT "sluice"."audit_head"() AS value'


def test_readers_make_objects_of_documents_and_keep_null() -> None:
    rows: list[dict[str, Any]] = [{"request_id": "1", "output": {"a": 1}}, {"request_id": "2", "output": None}]
    found = database(FakeConnection(*rows)).rows(Found, "request_show", readers={"output": sorted})
    assert found == [Found("1", ["a"]), Found("2", None)]


@pytest.mark.parametrize("number", [0, 2])
def test_row_and_value_need_exactly_one_row(number: int) -> None:
    rows: list[dict[str, Any]] = [{"request_id": "1", "output": 5}] * number
    with pytest.raises(ValueError, match="values to unpack"):
        database(FakeConnection(*rows)).row(Found, "request_show")
    values = [{"value": 7}] * number
    with pytest.raises(ValueError, match="values to unpack"):
        database(FakeConnection(*values)).value("audit_head")


NAMES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1)


@given(NAMES, st.lists(NAMES, min_size=1))
def test_identifiers_are_quoted(function: str, columns: list[str]) -> None:
    text = _statement(cast(Any, function), (), tuple(columns)).as_string()
    quoted = ['"' + name.replace('"', '""') + '"' for name in [*columns, function]]
    assert text == f'SELECT {", ".join(quoted[:-1])} FROM "sluice".{quoted[-1]}()'


def test_argument_name_that_is_not_a_placeholder_is_refused() -> None:
    with pytest.raises((ValueError, psycopg.Error)):
        _statement("request_show", ("a)s; --",), None).as_string()
