"""What Lambda runs was compiled when it was built: /opt and /var/task are read-only, so nothing compiled there is kept."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import pytest

from tests.build.conftest import runtime
from tests.build.test_host_build import ENVIRONMENT, HANDLERS

ROOT = Path(__file__).parents[2]
OURS = f"python3.{sys.version_info.minor}"
# Imports a handler and calls what it prepares; says what was compiled meanwhile.
PROGRAM = """
import importlib, importlib.machinery, json, sys
compiled = []
to_code = importlib.machinery.SourceFileLoader.source_to_code
def watched(self, data, path, **more):
    compiled.append(path)
    return to_code(self, data, path, **more)
importlib.machinery.SourceFileLoader.source_to_code = watched
sys.path[:0] = json.loads(sys.argv[2])
importlib.import_module(sys.argv[1])
print(json.dumps({"compiled": compiled, "modules": len(sys.modules)}))
"""


def imported(module: str, paths: list[Path], environment: Mapping[str, str]) -> dict[str, Any]:
    """Import a handler in a new interpreter without any packages of its own, which keeps nothing that it compiles."""
    interpreter = Path(sys.base_prefix) / "bin" / OURS
    done = subprocess.run(
        [str(interpreter), "-I", "-S", "-B", "-c", PROGRAM, module, json.dumps([str(path) for path in paths])],
        env={**environment, "PATH": os.environ["PATH"]},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("function", "module"), HANDLERS.items())
def test_nothing_of_the_host_build_is_compiled_on_import(host_build: Path, function: str, module: str) -> None:
    found = imported(module, [host_build / function, host_build / "SharedLayer" / "python"], ENVIRONMENT)
    assert found["modules"] > 300
    assert found["compiled"] == []


@pytest.mark.parametrize(("function", "module"), HANDLERS.items())
def test_nothing_of_the_layer_for_lambda_is_compiled_on_import(
    lambda_layer: Callable[[str], Path], host_build: Path, function: str, module: str
) -> None:
    """With the wheels of this machine's processor, if they are for this Python, or else with the host's."""
    processor = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "")
    usable = sys.platform == "linux" and processor and runtime(processor) == OURS
    layer = lambda_layer(processor) if usable else host_build / "SharedLayer"
    # LAMBDA_TASK_ROOT: as on Lambda, what is made early is imported too. Nothing listens at the database's address.
    address = {"DATABASE_SECRET_ARN": "", "DATABASE_HOST": "127.0.0.1", "DATABASE_PORT": "1"}
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "LAMBDA_TASK_ROOT": "/var/task"}
    found = imported(module, [host_build / function, layer / "python"], ENVIRONMENT | address | keys)
    assert found["compiled"] == []


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_every_module_has_bytecode_for_any_processor(lambda_layer: Callable[[str], Path], architecture: str) -> None:
    layer = lambda_layer(architecture) / "python"
    modules = [path for path in layer.rglob("*.py") if "__pycache__" not in path.parts]
    assert len(modules) > 300
    if runtime(architecture) != OURS:
        return  # compiled only if that Python is at hand, too
    for module in modules:
        bytecode = module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"
        header = bytecode.read_bytes()[:8]
        # Flags 1: found by the source's hash, which is not checked. An archive keeps no times to compare.
        assert (header[:4], header[4:]) == (MAGIC_NUMBER, (1).to_bytes(4, "little")), module


def test_a_layer_without_bytecode_says_so(tmp_path: Path) -> None:
    """The interpreter that builds is of another version, and the functions' is not on the PATH."""
    other = f"python3.{12 if sys.version_info.minor != 12 else 13}"
    done = subprocess.run(
        ["make", "--silent", "build-SharedLayer", f"ARTIFACTS_DIR={tmp_path / 'layer'}"],
        cwd=ROOT / "layers" / "shared",
        env={
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"},
            "PATH": "/usr/bin:/bin",
            "PYTHON": sys.executable,
            "SLUICE_BUILD": "x86_64",
            "SLUICE_RUNTIME": other,
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled = list((tmp_path / "layer").rglob("*.pyc"))
    # Debian's own Python may be that one.
    assert (f"no {other} here" in done.stderr) != bool(compiled), done.stderr


def test_a_runtime_without_wheels_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--silent", "build-SharedLayer", f"ARTIFACTS_DIR={tmp_path}"],
        cwd=ROOT / "layers" / "shared",
        env={**os.environ, "PYTHON": sys.executable, "SLUICE_BUILD": "arm64", "SLUICE_RUNTIME": "python3.11"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert "psycopg has no wheel for python3.11 on arm64" in done.stderr
