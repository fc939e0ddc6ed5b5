"""What each function imports: a cold start is little else, and the number of modules does not depend on the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build.test_host_build import ENVIRONMENT, HANDLERS

PROGRAM = """
import importlib, json, sys
before = set(sys.modules)
sys.path[:0] = json.loads(sys.argv[2])
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# At most so many modules, the standard library's included: some ten more than are imported on Python 3.11. The admin function
# knows every operation, and the models' backends to check a model's settings with.
MOST = {
    "Submit": 485,
    "Status": 475,
    "Openai": 518,
    "Worker": 400,
    "Foreground": 400,
    "Webhooks": 395,
    "Deliver": 285,
    "Batches": 500,
    "Rollup": 420,
    "Admin": 525,
    "Migrate": 420,
}
# Nobody's: boto3 adds resources to botocore, and transfers of files to S3.
FOR_NOBODY = {"boto3", "s3transfer"}
# Not while a module is imported: what makes a client of AWS is imported when it makes one.
CLIENTS = {"botocore.client", "botocore.session", "botocore.auth", "urllib3", "sluice.aws"}
# By function, what others use.
OTHERS = {
    # Reads requests: it sends nothing, calls no model, administers nobody.
    "Status": {"sluice.messaging", "sluice.backends", "sluice.services.submit", "sluice.services.admin"},
    # Stores requests and sends messages: it calls no model.
    "Submit": {"sluice.backends", "sluice.services.process", "sluice.services.admin", "sluice.services.tasks"},
    # Has requests run elsewhere: it calls no model.
    "Openai": {"sluice.backends", "sluice.services.process", "sluice.services.admin", "sluice.services.tasks"},
    # Has webhooks sent: it sends none itself.
    "Webhooks": {"aws_lambda_powertools.event_handler", "sluice.api", "sluice.posting", "sluice.services.tasks"},
    # Connects to addresses of strangers: it has nothing that reaches anything else.
    "Deliver": {
        "psycopg",
        "sluice.db",
        "sluice.services",
        "sluice.bootstrap",
        "sluice.aws",
        "sluice.handover",
    },
    # Submits lines and writes files: it calls no model, and administers nobody.
    "Batches": {"sluice.backends", "sluice.services.process", "sluice.services.admin", "sluice.services.tasks"},
    # Have no HTTP routes.
    "Worker": {"aws_lambda_powertools.event_handler", "sluice.api", "sluice.services.admin", "sluice.services.tasks"},
    "Foreground": {"aws_lambda_powertools.event_handler", "sluice.api", "sluice.services.foreground"},
    "Rollup": {"aws_lambda_powertools.event_handler", "sluice.api.app", "sluice.services.admin", "sluice.backends"},
}


@pytest.fixture(scope="module")
def modules(host_build: Path) -> dict[str, set[str]]:
    """The modules that importing each function's handler adds to the interpreter's own."""
    interpreter = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    found = {}
    for function, module in HANDLERS.items():
        paths = [str(host_build / function), str(host_build / "SharedLayer" / "python")]
        done = subprocess.run(
            [str(interpreter), "-I", "-S", "-B", "-c", PROGRAM, module, json.dumps(paths)],
            env={**ENVIRONMENT, "PATH": os.environ["PATH"]},
            text=True,
            capture_output=True,
            check=True,
        )
        found[function.removesuffix("Function")] = set(json.loads(done.stdout))
    return found


def test_no_function_imports_more_than_it_did(modules: dict[str, set[str]]) -> None:
    counts = {function: len(names) for function, names in modules.items()}
    assert {function: count for function, count in counts.items() if count > MOST[function]} == {}


def test_no_function_imports_what_nobody_uses(modules: dict[str, set[str]]) -> None:
    for function, names in modules.items():
        assert not names & FOR_NOBODY, function


@pytest.mark.parametrize("function", ["Submit", "Status", "Openai", "Worker", "Foreground", "Webhooks", "Batches"])
def test_no_client_is_imported_before_one_is_made(modules: dict[str, set[str]], function: str) -> None:
    assert not modules[function] & CLIENTS


@pytest.mark.parametrize("function", OTHERS)
def test_no_function_imports_what_others_use(modules: dict[str, set[str]], function: str) -> None:
    assert not modules[function] & OTHERS[function]
