"""The checks of text find what they are for."""

from pathlib import Path

import pytest

from tests import repository


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("layers/sql/functions/topic/a.sql", "SELECT 1;\n" + "-" * 121 + "\n", ["line 2 is longer than 120 columns"]),
        ("layers/sql/functions/topic/a.sql", "-" * 120 + "\n", []),
        ("docs/a.md", "-" * 121 + "\n", []),
        ("tests/a.py", "pass", ["lacks its last newline"]),
        ("tests/a.py", "pass \n", ["ends a line in space"]),
        ("tests/a.txt", "printed \n", []),
    ],
)
def test_problems_are_found(
    name: str, text: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert repository.problems(path) == found
