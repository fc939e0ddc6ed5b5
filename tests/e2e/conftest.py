"""The deployed stack, as `make run` has it, once for all tests of this folder, and clients of its API."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local.stack import Stack, StackInfo
from tests.support.openai_clients import MAJORS, ClientProcess, OpenAI
from tests.support.scripted_model import ScriptedModel

FINAL = {"completed", "failed", "cancelled", "expired"}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared stack run one after the other in one process; a file with a stack of its own says so."""
    for item in items:
        if "/e2e/" in item.path.as_posix():
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group("stack"))


@dataclass
class Answer:
    """What the API answered."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Client:
    """A user of the API."""

    url: str
    key: str | None

    def call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        sent = {"x-api-key": self.key} if self.key else {}
        request = urllib.request.Request(self.url + path, body, sent | (headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, dict(response.headers), json.loads(response.read()))
        except urllib.error.HTTPError as refused:
            with refused:
                return Answer(refused.code, dict(refused.headers), json.loads(refused.read()))

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def generate(self, prompt: str, **given: Any) -> Answer:
        body = json.dumps({"prompt": prompt, **given}).encode()
        return self.call("POST", "/generate", body, {"content-type": "application/json"})

    def submit(self, prompt: str, **given: Any) -> str:
        answer = self.generate(prompt, **given)
        assert answer.status == 202, answer
        request_id: str = answer.body["request_id"]
        return request_id

    def wait(self, request_id: str, seconds: float = 90) -> dict[str, Any]:
        """The request once it is finished."""
        deadline = time.monotonic() + seconds
        answer: Answer | None = None
        while time.monotonic() < deadline:
            answer = self.get(f"/status/{request_id}")
            if answer.status == 200 and answer.body["status"] in FINAL:
                body: dict[str, Any] = answer.body
                return body
            time.sleep(0.2)
        pytest.fail(f"not finished after {seconds} s: {answer}")


@pytest.fixture(scope="session")
def scripted_model() -> Iterator[ScriptedModel]:
    model = ScriptedModel()
    yield model
    model.stop()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel) -> Iterator[Stack]:
    """The stack with short times, the real model as its default, and others: scripted ones and an unreachable one."""
    parameters = {"WorkerTimeout": "30", "RetryBaseSeconds": "1", "MaxAttempts": "2", "MaxResultBytes": "10000"}
    parameters["InlineResultBytes"] = "9000"
    stack = Stack(tmp_path_factory.mktemp("stack"), durable=False, parameters=parameters)
    try:
        with stack:
            model = {"backend": "openai", "backend_model": "x", "timeout_seconds": 3}
            stack.admin("model.set", model_id="scripted", endpoint=scripted_model.url, **model)
            stack.admin("model.set", model_id="seeing", endpoint=scripted_model.url, **model, image_tokens=100)
            stack.admin("model.set", model_id="artist", kind="image", endpoint=scripted_model.url, **model)
            stack.admin("model.set", model_id="speaker", kind="speech", endpoint=scripted_model.url, **model)
            stack.admin("model.set", model_id="away", endpoint="http://127.0.0.1:9/v1", **model)
            yield stack
    finally:
        stack.destroy()


@pytest.fixture
def info(stack: Stack) -> StackInfo:
    return stack.info


@pytest.fixture
def client(info: StackInfo) -> Client:
    """The demo user."""
    return Client(info.api_url, info.api_key)


@pytest.fixture
def database(info: StackInfo) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """The stack's database, as its owner."""
    with psycopg.connect(info.database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


@pytest.fixture(scope="session")
def client_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, ClientProcess]]:
    """OpenAI's client in each of its majors."""
    log = tmp_path_factory.mktemp("clients") / "errors.log"
    with ExitStack() as running:
        yield {major: running.enter_context(ClientProcess(major, log)) for major in MAJORS}


@pytest.fixture(
    params=[(major, kind) for major in MAJORS for kind in ("sync", "async")], ids=lambda each: f"{each[1]}{each[0]}"
)
def openai(request: pytest.FixtureRequest, client_processes: dict[int, ClientProcess], info: StackInfo) -> OpenAI:
    """The demo user with OpenAI's client: each major, synchronous and asynchronous."""
    major, kind = request.param
    return OpenAI(client_processes[major], info.api_url, info.api_key, asynchronous=kind == "async")
