"""The audit log cannot be changed, neither by a function's role nor by its owner."""

import pytest
from psycopg import errors as pg

from tests.support.books import Books
from tests.support.service import ROLES

APPEND_ONLY = {
    "update": "UPDATE {} SET {} = {}",
    "delete": "DELETE FROM {}",
    "truncate": "TRUNCATE {}",
    "merge": "MERGE INTO {0} t USING {0} s ON t.{1} = s.{1} WHEN MATCHED THEN DELETE",
}


def append_only_tables(books: Books) -> dict[str, str]:
    """The append-only tables, each with its key column."""
    partitions = books.service.rows(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'audit_log'::regclass"
    )
    return {"audit_log": "audit_id", "audit_chain": "batch_no"} | {row["name"]: "audit_id" for row in partitions}


@pytest.mark.parametrize("act", APPEND_ONLY)
def test_even_the_owner_cannot_change_the_audit_log(untouched: Books, act: str) -> None:
    tables = append_only_tables(untouched)
    assert len(tables) > 4
    for table, column in tables.items():
        if act != "truncate" and not untouched.service.value(f"SELECT count(*) FROM {table}"):
            continue  # a row trigger, and the table is empty
        with pytest.raises(pg.InsufficientPrivilege, match="append-only"), untouched.service.owner.transaction():
            untouched.service.owner.execute(APPEND_ONLY[act].format(table, column, column))


def test_an_audit_row_cannot_be_replaced(untouched: Books) -> None:
    with pytest.raises(pg.InsufficientPrivilege, match="append-only"):
        untouched.service.owner.execute(
            "INSERT INTO audit_log SELECT * FROM audit_log LIMIT 1 ON CONFLICT (audit_id) DO UPDATE SET actor = 'x'"
        )


@pytest.mark.parametrize("role", ROLES)
def test_roles_have_no_privilege_on_the_audit_log(untouched: Books, role: str) -> None:
    for table in append_only_tables(untouched):
        rights = untouched.service.value(
            "SELECT array_agg(r) FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS r"
            " WHERE has_table_privilege(%s, %s, r)",
            f"sluice_{role}",
            table,
        )
        assert rights is None
