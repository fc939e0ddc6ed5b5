"""Named SQL: every statement lives in sql/queries/*.sql under a line `-- name: purpose`."""

import re
from functools import cache
from pathlib import Path
from typing import Final, LiteralString

SQL: Final = Path(__file__).parent.parent / "sql"
_HEADER: Final = re.compile(r"^-- (?P<name>[a-z_]+): .+$", re.MULTILINE)


@cache
def _all() -> dict[str, LiteralString]:
    found: dict[str, LiteralString] = {}
    for path in sorted((SQL / "queries").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        headers = list(_HEADER.finditer(text))
        for header, following in zip(headers, [*headers[1:], None], strict=True):
            name = header["name"]
            if name in found:
                raise ValueError(f"two queries are called {name}")
            body = text[header.end() : following.start() if following else len(text)]
            # The files ship with the code and values are always passed apart: as good as a literal in the source.
            found[name] = body.strip().rstrip(";")
    return found


def query(name: str) -> LiteralString:
    """The SQL of a named query.

    Raises:
        KeyError: no query has that name.
    """
    return _all()[name]
