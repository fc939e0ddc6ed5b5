"""The pipelines of examples/benthos, run by the engine of Benthos in a process of its own (`make setup` installs it)."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.environment import child_environment

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/benthos"
ENVIRONMENT = ROOT / ".benthos-venv"
PROGRAM = ROOT / "tests/e2e/clients/benthos.py"
# ${NAME} and ${NAME:what it is otherwise}, but not ${! an expression }: as the engine's own command replaces them.
_VARIABLE = re.compile(r"\$\{([A-Za-z0-9_]+)(?::([^}]*))?\}")
_SECONDS = 90


def needs_engine() -> None:
    """Skip the test where there is no engine for the machine: pyproject.toml says for which there is one.

    Raises:
        AssertionError: the environment is missing.
    """
    assert (ENVIRONMENT / ".complete").exists(), f"{ENVIRONMENT} is missing: `make setup` makes it"
    if not any(ENVIRONMENT.glob("lib/python*/site-packages/mq_bridge_connect")):
        pytest.skip("there is no engine of Benthos for this machine")


def halves(pipeline: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """A pipeline as the program takes it: in two documents, one without an output and one without an input."""

    def read(name: str) -> dict[str, Any]:
        text = (EXAMPLES / f"{name}.yaml").read_text()
        found: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(lambda each: variables.get(each[1], each[2] or ""), text))
        return found

    whole = read(pipeline)
    shared = read("prompts") if "resource" in whole["input"] else {}
    for end in ("input", "output"):
        # The bridge knows no resources of these two kinds, so they are put where they are named.
        labelled = {each.pop("label"): each for each in shared.pop(f"{end}_resources", [])}
        whole[end] = labelled.get(whole[end].get("resource"), whole[end])
    output = whole.pop("output")
    return {"input": shared | whole, "output": {"output": output}}


class Pipeline:
    """A run of a pipeline.

    Args:
        pipeline: the file's name without its ending.
        folder: where `prompts.jsonl` is and `out` will be; the log of the run goes there, too.
        variables: the environment variables that the pipeline asks for.
    """

    def __init__(self, pipeline: str, folder: Path, **variables: str) -> None:
        needs_engine()
        self.log = folder / f"{pipeline}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [ENVIRONMENT / "bin/python", "-P", PROGRAM],
                cwd=folder,
                env=child_environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert self.process.stdin is not None
        with self.process.stdin as orders:
            json.dump(halves(pipeline, variables), orders)

    def wait(self) -> None:
        """Wait for its end, which must be a good one."""
        try:
            assert self.process.wait(_SECONDS) == 0, self.log.read_text()[-3000:]
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, wherever it is."""
        self.process.kill()
        self.process.wait()


def prompts(folder: Path, *given: Any, end: str = "\n") -> None:
    """Write the file of prompts: objects as JSON, texts in UTF-8, bytes as they are."""
    texts = [each if isinstance(each, str | bytes) else json.dumps(each) for each in given]
    lines = [each if isinstance(each, bytes) else each.encode() for each in texts]
    (folder / "prompts.jsonl").write_bytes(b"".join(each + end.encode() for each in lines))


def run(pipeline: str, folder: Path, **variables: str) -> None:
    """Run a pipeline to its end."""
    Pipeline(pipeline, folder, **variables).wait()


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """What is in a file that the pipelines wrote; one that is missing is empty."""
    path = folder / "out" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
