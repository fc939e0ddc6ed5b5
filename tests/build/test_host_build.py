"""The host build runs as it is deployed: only what was built can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.stack import handlers

HANDLERS = {function: module for function, (_, module) in handlers().items()}
# What Lambda and the template set for every function; importing a handler needs nothing else.
ENVIRONMENT = {
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_LAMBDA_FUNCTION_NAME": "sluice-test",
    "POWERTOOLS_SERVICE_NAME": "test",
    "POWERTOOLS_METRICS_NAMESPACE": "Sluice",
    "DATABASE_SECRET_ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:example",
    "QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/123456789012/sluice-requests",
    "ROLLUP_FUNCTION": "sluice-rollup",
    "DATABASE_ROLE": "sluice_test",
}
# -I keeps out the current folder, PYTHON* and the user's packages, -S this environment's; -B writes nothing.
PROGRAM = """
import importlib, json, sys
standard = set(sys.path)
sys.path[:0] = json.loads(sys.argv[2])
module = importlib.import_module(sys.argv[1])
assert callable(module.handler)
origins = {name: m.__file__ for name, m in sys.modules.items() if getattr(m, "__file__", None)}
print(json.dumps({"origins": origins, "standard": sorted(standard)}))
"""


@pytest.mark.parametrize(("function", "module"), HANDLERS.items())
def test_handler_imports_only_from_the_artefacts(host_build: Path, function: str, module: str) -> None:
    paths = [str(host_build / function), str(host_build / "SharedLayer" / "python")]
    # A virtual environment's interpreter finds its own site-packages from pyvenv.cfg even so; the base one has none.
    interpreter = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    done = subprocess.run(
        [str(interpreter), "-I", "-S", "-B", "-c", PROGRAM, module, json.dumps(paths)],
        env={**ENVIRONMENT, "PATH": os.environ["PATH"]},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    outside = {
        name: origin
        for name, origin in found["origins"].items()
        if not any(origin.startswith(path) for path in [*paths, *found["standard"]])
    }
    assert outside == {}


def test_function_contains_only_its_handler(host_build: Path) -> None:
    for function, module in HANDLERS.items():
        files = {path.name for path in (host_build / function).rglob("*") if path.is_file()}
        assert files == {f"{module}.py", f"{module}.{sys.implementation.cache_tag}.pyc"}


def test_layer_contains_the_package_with_its_sql_and_the_certificates(host_build: Path) -> None:
    layer = host_build / "SharedLayer"
    assert sorted(path.name for path in layer.iterdir()) == ["certs", "python"]
    assert (layer / "certs" / "rds-ca.pem").is_file()
    package = layer / "python" / "sluice"
    source = Path(__file__).parents[2] / "layers" / "shared" / "sluice"
    expected = {
        path.relative_to(source) for path in source.rglob("*") if path.suffix in {".py", ".sql", ".json", ".txt"}
    }
    assert expected <= {path.relative_to(package) for path in package.rglob("*")}
