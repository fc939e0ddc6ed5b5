"""The results of `sam build`, for this machine and for Lambda; each build runs once per session, outside the repository."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# All in one worker of pytest-xdist, so that each build runs once.
GROUP = pytest.mark.xdist_group("build")


def runtime(architecture: str) -> str:
    """The functions' Python in the builds: that of these tests, so that they can say whether the bytecode is its own.

    Otherwise the template's default: where Lambda does not have it, or psycopg no wheel for it.
    """
    offered = range(11 if architecture == "x86_64" else 12, 15)
    return f"python3.{sys.version_info.minor if sys.version_info.minor in offered else 13}"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(GROUP)


def _environment(home: Path) -> dict[str, str]:
    """A minimum of this process's environment: what a build needs must be in the repository."""
    names = {"HOME", "LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    kept = {name: value for name, value in os.environ.items() if name in names or name.startswith("PIP_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHON": sys.executable, "SAM_CLI_TELEMETRY": "0", "TMPDIR": str(home)}


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=directory, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def host_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `sam build` left every function and the layer, with this machine's wheels."""
    home = tmp_path_factory.mktemp("build")
    _run(
        [sys.executable, "-m", "samcli", "build", "--build-dir", str(home / "artefacts")],
        ROOT,
        {**_environment(home), "SLUICE_BUILD": "host"},
    )
    return home / "artefacts"


@pytest.fixture(scope="session")
def lambda_layer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The layer as it is mounted at /opt, built for a processor of Lambda's."""

    @cache
    def build(architecture: str) -> Path:
        home = tmp_path_factory.mktemp(architecture)
        artefacts = home / "opt"
        _run(
            ["make", "build-SharedLayer", f"ARTIFACTS_DIR={artefacts}"],
            ROOT / "layers" / "shared",
            {**_environment(home), "SLUICE_BUILD": architecture, "SLUICE_RUNTIME": runtime(architecture)},
        )
        return artefacts

    return build
