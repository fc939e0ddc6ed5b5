"""Named SQL: every statement has a name of its own and says what it is for."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.db import queries
from sluice.db.queries import SQL, query

FILES = sorted((SQL / "queries").glob("*.sql"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another folder of queries, for one test."""
    (tmp_path / "queries").mkdir()
    monkeypatch.setattr(queries, "SQL", tmp_path)
    queries._all.cache_clear()
    yield tmp_path / "queries"
    queries._all.cache_clear()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_query_is_a_name_a_purpose_and_a_statement(path: Path) -> None:
    text = path.read_text()
    # Of another form, a comment at the start of a line is a header with a slip in it: its query would belong to the
    # statement above.
    headers = re.findall(r"^-- ([a-z]+(?:_[a-z]+)*): (.+)$", text, re.MULTILINE)
    assert len(headers) == len(re.findall("^--", text, re.MULTILINE)), "a comment that is no header"
    assert headers, "no queries"
    assert text.startswith("-- "), "SQL above the first header"
    for name, purpose in headers:
        assert purpose.endswith((".", "?")), name
        assert re.match(r"(SELECT|INSERT|UPDATE|DELETE|CREATE|WITH|GRANT|SET|LOCK|NOTIFY)\b", query(name)), name
        assert not query(name).endswith(";"), name


def test_no_value_is_written_into_a_query() -> None:
    for path in FILES:
        assert not re.search(r"\{\w*\}|%s", path.read_text()), path.name


def test_an_unknown_query_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="no_such_query"):
        query("no_such_query")


def test_queries_are_found_in_every_file_without_their_headers(folder: Path) -> None:
    (folder / "a.sql").write_text("-- one_a: first.\nSELECT 1;\n\n-- one_b: second.\nSELECT 2,\n    3;\n")
    (folder / "b.sql").write_text("-- two_a: third.\nSELECT 4;\n")
    assert {name: query(name) for name in ("one_a", "one_b", "two_a")} == {
        "one_a": "SELECT 1",
        "one_b": "SELECT 2,\n    3",
        "two_a": "SELECT 4",
    }


@pytest.mark.parametrize("names", [("a.sql", "a.sql"), ("a.sql", "b.sql")], ids=["one file", "two files"])
def test_a_name_stands_for_one_query(folder: Path, names: tuple[str, str]) -> None:
    for name in names:
        with (folder / name).open("a") as file:
            file.write("-- one_a: twice.\nSELECT 1;\n")
    with pytest.raises(ValueError, match="two queries are called one_a"):
        query("one_a")
