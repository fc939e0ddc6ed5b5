"""The deployed stack, as `make run` has it, once for all tests of this folder, and clients of its API."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local.stack import Stack, StackInfo

FINAL = {"completed", "failed", "cancelled", "expired"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared stack run one after the other in one process."""
    for item in items:
        if "/e2e/" in item.path.as_posix():
            item.add_marker(pytest.mark.e2e)
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


class ScriptedModel:
    """An OpenAI-compatible server that does what the prompt says: {"status": 429, "body": ..., "headers": ...}."""

    def __init__(self) -> None:
        self.calls = 0
        self.released = Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                scripted.calls += 1
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                script = json.loads(asked["messages"][0]["content"])
                if script.get("hang"):
                    scripted.released.wait(60)
                body = script["body"] if "body" in script else scripted.completion(script.get("text", "fine"))
                payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                try:
                    self.send_response(script.get("status", 200))
                    for name, value in script.get("headers", {}).items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:
                    pass  # the caller has given up

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, daemon=True).start()

    @staticmethod
    def completion(text: str) -> dict[str, Any]:
        return {
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def scripted_model() -> Iterator[ScriptedModel]:
    model = ScriptedModel()
    yield model
    model.stop()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel) -> Iterator[Stack]:
    """The stack with short times, the real model as its default, and two others: a scripted and an unreachable one."""
    parameters = {"WorkerTimeout": "30", "RetryBaseSeconds": "1", "MaxAttempts": "2", "MaxResultBytes": "10000"}
    stack = Stack(tmp_path_factory.mktemp("stack"), durable=False, parameters=parameters)
    try:
        with stack:
            model = {"backend": "openai", "backend_model": "x", "timeout_seconds": 3}
            stack.admin("model.set", model_id="scripted", endpoint=scripted_model.url, **model)
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
