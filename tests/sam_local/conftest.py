"""The stack for containers, and `sam local` beside it. Only `make test-sam-local` runs these tests: it says what image
to use, and that there is an engine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from local.containers import bridge_address
from local.environment import ROOT
from local.ports import free_port
from local.processes import Process, wait_until
from local.stack import Stack
from tests.e2e.conftest import Client

RUNTIME, IMAGE = os.environ.get("SLUICE_SAM_RUNTIME", ""), os.environ.get("SLUICE_SAM_IMAGE", "")
collect_ignore_glob = [] if RUNTIME else ["test_*.py"]

_LABEL = {"label": "sam.cli.container.type=lambda"}
_INVOKE_SECONDS = 120
_API_SECONDS = 120.0


def command(state: Path, *arguments: str) -> list[str]:
    """`python -m local sam`, with the image that there is."""
    said = [*arguments, "--invoke-image", IMAGE, "--skip-pull-image"]
    return [sys.executable, "-m", "local", "sam", "--state", str(state), "--runtime", RUNTIME, *said]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that containers reach. Its own worker takes no messages, so that the one in a container gets them."""
    engine = docker.from_env()
    before = {each.id for each in engine.containers.list(all=True, filters=_LABEL)}
    stack = Stack(tmp_path_factory.mktemp("sam") / "stack", durable=False, container_address=bridge_address())
    try:
        stack.start()
        lambdas = stack.client("lambda")
        for mapping in lambdas.list_event_source_mappings()["EventSourceMappings"]:
            lambdas.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        yield stack
    finally:
        stack.destroy()
        for each in engine.containers.list(all=True, filters=_LABEL):
            if each.id not in before:
                each.remove(force=True)
        engine.close()


def _answer(output: str) -> Any:
    """What a function returned: the last line that is JSON; what follows is the runtime's, when its container ends."""
    for line in reversed(output.splitlines()):
        try:
            return json.loads(line)
        except ValueError:
            continue
    raise AssertionError(f"no answer: {output}")


Invoke = Callable[[str, dict[str, Any]], Any]


@pytest.fixture(scope="session")
def invoke(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Invoke:
    """`sam local invoke`: what a function returns for an event."""
    folder = tmp_path_factory.mktemp("events")

    def run(function: str, event: dict[str, Any]) -> Any:
        path = folder / "event.json"
        path.write_text(json.dumps(event))
        done = subprocess.run(
            command(stack.state_dir, "invoke", function, "--event", str(path)),
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=_INVOKE_SECONDS,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return _answer(done.stdout)

    return run


@pytest.fixture(scope="session")
def client(stack: Stack, invoke: Invoke, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """`sam local start-api`, as the demo user."""
    port = free_port()
    log = tmp_path_factory.mktemp("api") / "log"
    said = command(stack.state_dir, "start-api", "--port", str(port), "--warm-containers", "LAZY")
    process = Process.start("sam local", said, log=log, env=dict(os.environ), cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}"
        up = wait_until(lambda: not process.alive or b"Running on" in log.read_bytes(), _API_SECONDS)
        assert up, process.log_tail()
        assert process.alive, process.log_tail()
        yield Client(url, stack.info.api_key)
    finally:
        process.stop(30)
