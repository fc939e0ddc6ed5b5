"""Run `sluice` against a server that imitates AWS: Lambda's Invoke, and CloudFormation for a stack in an account."""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader
from click.testing import CliRunner, Result

from sluice_cli.root import cli
from tests.unit.scripted_server import Reply, ScriptedServer

FUNCTION = "sluice-admin"


@pytest.fixture(scope="session", autouse=True)
def cached_service_models() -> Iterator[None]:
    """Read botocore's service models once instead of for each client, which took most of the time."""
    read = JSONFileLoader().load_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", staticmethod(functools.cache(read)))
        yield


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, without the credentials, files and settings of the caller."""
    import os

    for name in os.environ:
        if name.startswith(("AWS_", "SLUICE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def run(*arguments: str) -> Result:
    """Run `sluice` in this process, with standard output and standard error captured separately."""
    return CliRunner(mix_stderr=False).invoke(cli, arguments, prog_name="sluice")


def ok(result: Any) -> Reply:
    """An answer of the admin function with a result."""
    return Reply(body={"ok": True, "result": result})


def refused(code: str, detail: str, **more: Any) -> Reply:
    """An answer of the admin function with a refusal."""
    problem = {"type": f"urn:sluice:problem:{code}", "title": "A title", "status": 422, "detail": detail, "code": code}
    return Reply(body={"ok": False, "problem": problem | more})


@dataclass(frozen=True)
class Operation:
    """An operation that the admin function received."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Deployment:
    """A scripted local stack: `stack.json` points to the server."""

    server: ScriptedServer

    def run(self, *arguments: str, answers: Any = None) -> Result:
        """Run `sluice` with a function that answers with this result, or with these replies."""
        self.server.replies(*(answers if isinstance(answers, tuple) else [ok(answers)]))
        return run(*arguments)

    @property
    def asked(self) -> list[Operation]:
        """The operations received so far."""
        for received in self.server.received:
            assert (received.method, received.path) == ("POST", f"/2015-03-31/functions/{FUNCTION}/invocations")
            assert set(received.json) == {"operation", "arguments"}
        return [Operation(each.json["operation"], each.json["arguments"]) for each in self.server.received]


@pytest.fixture
def deployment(server: ScriptedServer) -> Deployment:
    write_stack_file(Path(".local"), server.url)
    return Deployment(server)


def write_stack_file(state: Path, url: str, **changes: Any) -> None:
    """Write the parts of `stack.json` that the command line reads."""
    info = {
        "api_url": "http://127.0.0.1:1",
        "aws_endpoint_url": url,
        "region": "us-east-1",
        "aws_access_key_id": "local",
        "aws_secret_access_key": "local",
        "functions": {"submit": "sluice-submit", "admin": FUNCTION},
    }
    state.mkdir(parents=True, exist_ok=True)
    (state / "stack.json").write_text(json.dumps(info | changes), encoding="utf-8")


def lines(text: str) -> list[list[str]]:
    """The words of each line that is not empty."""
    return [line.split() for line in text.splitlines() if line]


def fields(text: str) -> dict[str, str]:
    """The fields of a record."""
    return {name: " ".join(value) for name, *value in lines(text)}
