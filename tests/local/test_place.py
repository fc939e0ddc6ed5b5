"""Places where people keep their code: most work, the others are refused in the first second by a sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.__main__ import main
from local.deploy import link_layer
from local.place import problem_with

ROOT = Path(__file__).parents[2]
USABLE = ["a b", "ü", "it's", "50%", "#1", "a&b", "(x)", "a;b", "*", "~", "=", "日本", "-n", "l" * 200]
UNUSABLE = ["a:b", "$HOME", "`x`", 'a"b', "a\\b", "a\tb", "a\nb", "\udcff", "\u202ea"]


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder that has what `make setup` begins with, and no network."""
    (folder / "local").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "local" / "place.py", folder / "local")
    for name in ("dev.txt", "model.txt", "ministack.txt", "openai2.txt", "openai3.txt", "benthos.txt"):
        (folder / "requirements").mkdir(exist_ok=True)
        (folder / "requirements" / name).write_text("no such package\n")
    (folder / "pyproject.toml").touch()
    return subprocess.run(
        ["make", *arguments, f"PYTHON={sys.executable}"],
        cwd=folder,
        env=os.environ | variables,
        check=False,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )


@pytest.mark.parametrize("name", UNUSABLE, ids=ascii)
@pytest.mark.parametrize("target", ["setup", "run", "test"])
def test_an_unusable_folder_is_refused_by_name(tmp_path: Path, name: str, target: str) -> None:
    if target != "setup" and name != UNUSABLE[0]:
        return  # the others come to the same line by the same way
    folder = tmp_path / name
    done = make(folder, target)
    assert done.returncode == 2
    said = done.stderr.splitlines()[0]
    assert said.startswith("setup: The folder ")
    assert "move it elsewhere" in said
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("name", USABLE, ids=ascii)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_usable_folder_is_not_refused(tmp_path: Path, name: str, locale: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(ROOT / "local" / "place.py", folder)
    done = subprocess.run(
        [sys.executable, "place.py"], cwd=folder, env=os.environ | {"LC_ALL": locale}, check=False, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_path_may_be_long_but_not_endless(tmp_path: Path) -> None:
    assert problem_with(Path("/", *["l" * 150] * 5)) is None
    assert "800 bytes" in str(problem_with(Path("/", *["l" * 150] * 6)))
    assert "800 bytes" in str(problem_with(Path("/", *["日" * 60] * 5)))


@pytest.mark.parametrize("name", UNUSABLE, ids=ascii)
def test_a_state_folder_is_refused_too(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--state", str(tmp_path / name)]) == 1
    assert "move it elsewhere" in capfd.readouterr().err
    assert not (tmp_path / name).exists()


def test_a_state_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["run", "--state", str(tmp_path / "file" / "state")]) == 1
    (said,) = capfd.readouterr().err.splitlines()
    assert said == f"sluice: {tmp_path / 'file' / 'state'}: Not a directory."


def test_the_layer_is_found_in_any_folder_and_locale(tmp_path: Path) -> None:
    """The emulator's functions find the layer's packages through a file that Python reads in the locale's encoding."""
    kept = tmp_path / "ü 'q' #1" / "layer"
    kept.parent.mkdir()
    built = tmp_path / "built"
    (built / "python").mkdir(parents=True)
    (built / "python" / "found.py").write_text("print('found')\n")
    link_layer(built, kept)
    (site,) = (built / "python" / "lib").glob("*/site-packages")
    for locale in ("C", "C.UTF-8"):
        done = subprocess.run(
            [sys.executable, "-c", f"import site; site.addsitedir({str(site)!r}); import found"],
            env=os.environ | {"LC_ALL": locale},
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, "found\n"), done.stderr


def test_the_build_of_the_layer_quotes_its_interpreter(tmp_path: Path) -> None:
    interpreter = tmp_path / "a b" / "python"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    printed = subprocess.run(
        ["make", "-n", "build-SharedLayer", f"PYTHON={interpreter}", f"ARTIFACTS_DIR={tmp_path / 'c d'}"],
        cwd=ROOT / "layers" / "shared",
        env=os.environ | {"SLUICE_BUILD": "host", "CACHE": "no-such-cache"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert f'"{interpreter}" -m pip install' in printed.stdout
    assert printed.stderr == ""


def test_callers_postgres_settings_are_forgotten(
    tmp_path: Path, busy_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGSERVICE", "PGOPTIONS", "PGSSLMODE"):
        monkeypatch.setenv(name, "x")
    main(["run", "--state", str(tmp_path), "--api-port", str(busy_port)])
    assert not [name for name in os.environ if name.startswith("PG")]
