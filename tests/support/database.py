"""Entry points of the database, called as SQL: rows as dictionaries, whatever type the function returns."""

from collections.abc import Iterable
from typing import Any, LiteralString

from psycopg import sql
from psycopg.conninfo import make_conninfo

from sluice.db.connection import Connection, Database, Row


def with_schema(dsn: str, name: str) -> str:
    """The address of a database, with a search path for Sluice's tables and extensions."""
    return make_conninfo(dsn, dbname=name, options="-c search_path=sluice,public")


def call(connection: Connection, function: LiteralString, **arguments: Any) -> list[Row]:
    """The rows of a function; a single value is in a column with the function's name."""
    return connection.execute(_statement(function, arguments), arguments).fetchall()


class RoleDatabase(Database):
    """A function's database that also answers with plain rows."""

    def call(self, function: LiteralString, **arguments: Any) -> list[Row]:
        """The rows of a function, with Database's errors."""
        return self._call(_statement(function, arguments), arguments, repeatable=False)

    def call_row(self, function: LiteralString, **arguments: Any) -> Row:
        """The one row of a function."""
        (row,) = self.call(function, **arguments)
        return row


def _statement(function: LiteralString, arguments: Iterable[str]) -> sql.Composed:
    parameters = (sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder(name)) for name in arguments)
    return sql.SQL("SELECT * FROM {}({})").format(sql.Identifier("sluice", function), sql.SQL(", ").join(parameters))
