"""A build is skipped only if its inputs have not changed."""

from pathlib import Path

import pytest

from local.deploy import inputs_digest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("template.yaml", "samconfig.toml", "functions/submit/app.py", "layers/shared/sluice/config.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_unchanged_files_have_the_same_digest(project: Path) -> None:
    before = inputs_digest(project)
    (project / "functions/submit/app.py").touch()
    assert inputs_digest(project) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "template.yaml").write_text("changed"),
        lambda root: (root / "functions/submit/app.py").write_text("changed"),
        lambda root: (root / "layers/shared/sluice/new.sql").write_text(""),
        lambda root: (root / "layers/shared/sluice/config.py").unlink(),
        lambda root: (root / "functions/submit").rename(root / "functions/accept"),
    ],
    ids=["template", "function", "added", "removed", "renamed"],
)
def test_changed_input_changes_the_digest(project: Path, change: object) -> None:
    before = inputs_digest(project)
    assert callable(change)
    change(project)
    assert inputs_digest(project) != before


def test_other_files_do_not_change_the_digest(project: Path) -> None:
    before = inputs_digest(project)
    (project / "README.md").write_text("new")
    (project / "layers/shared/sluice/__pycache__").mkdir()
    (project / "layers/shared/sluice/__pycache__/config.pyc").write_text("new")
    assert inputs_digest(project) == before
