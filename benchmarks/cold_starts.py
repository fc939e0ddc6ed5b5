"""What a cold start costs: init and the first request of each function under Lambda's runtime client.

The artefacts are built as for Lambda, for this machine's processor and Python, and run by the emulator of Lambda's
runtime interface that the SAM CLI brings. A bare handler, which imports psycopg, pydantic and Powertools' logger from
the same layer, takes its turn with the others. PostgreSQL has no TLS here; the worker's first request calls no model.

    python -m benchmarks.cold_starts [ROUNDS]
"""

import compileall
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from uuid import uuid4

import samcli

from benchmarks.bench import Bench
from benchmarks.report import Table
from benchmarks.stand_ins import KEY, World, world
from local.environment import ROOT
from local.ports import LOOPBACK, free_port

FUNCTIONS = ("submit", "status", "worker")
BARE = "bare"
_PROCESSORS = {"x86_64": "x86_64", "aarch64": "arm64"}
IS_POSSIBLE = sys.platform == "linux" and platform.machine() in _PROCESSORS
"""Lambda's functions run on Linux, and on these processors."""
_BARE_HANDLER = """
import psycopg
import pydantic
from aws_lambda_powertools.logging import Logger

logger = Logger()


def handler(event, context):
    return {}
"""
# The token is signed, and then sent to a server without TLS.
_WITHOUT_TLS = """
from sluice.db import credentials

signed = credentials.connection_parameters
credentials.connection_parameters = lambda settings: signed(settings) | {"sslmode": "disable"}

from app import handler
"""
_INIT = re.compile(r"INIT REPORT\(durationMs: ([\d.]+)\)")
_INVOKE = re.compile(r"INVOKE RTDONE\(status: success, .*duration: ([\d.]+)ms\)")


@dataclass
class ColdStart:
    """The cold starts of one function, in milliseconds, a round each.

    Attributes:
        init: from the start of Python until its handler is imported and what it prepares is ready.
        first: the first request after that.
    """

    function: str
    init: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


def measure(rounds: int) -> list[ColdStart]:
    """Start every function so often, in turns; the bare handler comes first.

    Raises:
        RuntimeError: this machine has no emulator or no runtime client, or a function did not answer.
    """
    found = {name: ColdStart(name) for name in (BARE, *FUNCTIONS)}
    with TemporaryDirectory() as name, world(Path(name)) as surroundings:
        folder = Path(name)
        layer = build(folder)
        events = _events(surroundings)
        # The first round warms the file system's cache and is not counted.
        for count in range(rounds + 1):
            for function, cold in found.items():
                environment = {} if function == BARE else surroundings.environment(function)
                init, first = _start(folder / function, layer, environment, events.get(function, {}))
                if count:
                    cold.init.append(init)
                    cold.first.append(first)
    return list(found.values())


def build(folder: Path) -> Path:
    """Build the layer and the functions for this machine; returns what Lambda adds to Python's path.

    Raises:
        RuntimeError: Lambda has no such processor.
    """
    if not IS_POSSIBLE:
        raise RuntimeError("cold starts are measured on Linux on x86-64 or arm64, which Lambda has")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "SLUICE_BUILD": _PROCESSORS[platform.machine()],
        "SLUICE_RUNTIME": f"python3.{sys.version_info.minor}",
    }
    for source, target, artefacts in [
        ("layers/shared", "build-SharedLayer", folder / "opt"),
        *((f"functions/{name}", f"build-{name.capitalize()}Function", folder / name) for name in FUNCTIONS),
    ]:
        artefacts.mkdir()
        subprocess.run(
            ["make", "--silent", target, f"ARTIFACTS_DIR={artefacts}"], cwd=ROOT / source, env=environment, check=True
        )
    for name in FUNCTIONS:
        (folder / name / "without_tls.py").write_text(_WITHOUT_TLS)
    _runtime_client(folder / "runtime")
    (folder / BARE).mkdir()
    (folder / BARE / "without_tls.py").write_text(_BARE_HANDLER)
    return folder / "opt" / "python"


def _runtime_client(target: Path) -> None:
    """Copy Lambda's runtime client and what it needs, compiled, apart from all else that is installed here.

    Raises:
        RuntimeError: it is not installed.
    """
    for name in ("awslambdaric", "simplejson", "snapshot-restore-py"):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            raise RuntimeError(f"Lambda's runtime client is not installed: {name} is missing") from None
        for each in files:
            if each.suffix in {".py", ".so"}:
                (target / each).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(each.locate()), target / each)
    compileall.compile_dir(target, quiet=1)


def _events(surroundings: World) -> Mapping[str, Mapping[str, object]]:
    """A first request for each function; the worker's names one that is not there, so no model is called."""
    submit, status, worker = (
        json.loads((ROOT / "events" / f"{name}.json").read_text()) for name in ("submit", "status", "worker")
    )
    path = f"/status/{surroundings.request()}"
    status["requestContext"]["http"] |= {"path": path}
    for event in (submit, status):
        event["headers"] = {"x-api-key": KEY}
    worker["Records"] = [worker["Records"][0] | {"body": json.dumps({"request_id": str(uuid4())})}]
    return {"submit": submit, "status": status | {"rawPath": path}, "worker": worker}


def _start(task: Path, layer: Path, environment: Mapping[str, str], event: Mapping[str, object]) -> tuple[float, float]:
    """Start an environment and invoke it once; returns the milliseconds of its init and of the request."""
    emulator = Path(samcli.__file__).parent / f"local/rapid/aws-lambda-rie-{_PROCESSORS[platform.machine()]}"
    address, runtime = (f"{LOOPBACK}:{free_port()}" for _ in range(2))
    log = task.with_suffix(".log")
    arguments = ["--runtime-interface-emulator-address", address, "--runtime-api-address", runtime]
    # Nothing but what Lambda has: not this environment's packages (-S), and nothing is compiled for a later start (-B).
    program = (
        "import runpy, sys; sys.path[:0] = sys.argv[1:4]; sys.argv[1:] = ['without_tls.handler'];"
        "runpy.run_module('awslambdaric', run_name='__main__')"
    )
    python = [str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"), "-S", "-B", "-c", program]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(emulator), *arguments, *python, str(task), str(layer), str(layer.parents[1] / "runtime")],
            cwd=task,
            env={"PATH": os.defpath, "LAMBDA_TASK_ROOT": str(task), **environment},
            stdout=output,
            stderr=output,
        )
    try:
        _invoke(f"http://{address}/2015-03-31/functions/function/invocations", event)
    finally:
        process.terminate()
        process.wait()
    text = log.read_text()
    init, first = _INIT.search(text), _INVOKE.search(text)
    if init is None or first is None:
        raise RuntimeError(f"{task.name} did not answer:\n{text}")
    return float(init[1]), float(first[1])


def _invoke(url: str, event: Mapping[str, object]) -> None:
    request = urllib.request.Request(url, json.dumps(event).encode(), method="POST")
    for _ in range(200):
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                answer = json.loads(response.read())
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
            continue
        if answer.get("statusCode", 200) >= 300 or "errorMessage" in answer:
            raise RuntimeError(f"the first request failed: {answer}")
        return
    raise RuntimeError("the emulator does not answer")


def run(bench: Bench) -> Sequence[Table]:
    """As a line of the report: each function beside the bare handler."""
    bare, *found = measure(bench.effort.rounds)
    tables = []
    for cold in found:
        table = Table(f"Cold start of {cold.function} under Lambda's runtime client", [cold.function, "bare handler"])
        for side, start in ((cold.function, cold), ("bare handler", bare)):
            for init, first in zip(start.init, start.first, strict=True):
                table.add(side, {"init, ms": init, "first request, ms": first})
        tables.append(table)
    return tables


def main() -> None:
    found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    bare = median(found[0].init)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors; milliseconds")
    print(f"{'':8}{'init':>7}{'least':>7}{'most':>7}{'/ bare':>8}{'first request':>15}")
    for cold in found:
        init = median(cold.init)
        print(
            f"{cold.function:8}{init:7.0f}{min(cold.init):7.0f}{max(cold.init):7.0f}{init / bare:8.2f}"
            f"{median(cold.first):15.1f}"
        )


if __name__ == "__main__":
    main()
