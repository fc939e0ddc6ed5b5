"""How long clients wait beside their model: through /v1, and through the queue with a client that asks for the answer.

On a local stack of its own, whose model takes the same time for each answer. All of it is on one machine: the emulator,
not Lambda, starts and calls the functions, and its processors are shared by clients, functions and PostgreSQL.

    PYTHONPATH=layers/shared python -m benchmarks.waiting [--rounds 5] [--callers 20]
"""

import argparse
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import getloadavg
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Barrier, Thread
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from benchmarks.report import Table, listed, surroundings
from local.errors import LocalError
from local.processes import stopping_on_signals
from local.stack import Stack

MODEL: Final = "fixed"
MODEL_SECONDS: Final = 0.5
POLL_SECONDS: Final = 0.25
_CALL_SECONDS: Final = 60.0
_ENDED: Final = {"completed", "failed", "cancelled", "expired"}


class FixedModel:
    """An OpenAI-compatible server whose every answer takes MODEL_SECONDS."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(MODEL_SECONDS)
                answer = {
                    "choices": [{"message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
                }
                body = json.dumps(answer).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                # In one packet: the second of two would wait until the first is acknowledged, which takes 40 ms.
                self.wfile.write(head.encode() + body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 100

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class Caller:
    """A client with a connection of its own."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._base = address.path
        self._headers = {"x-api-key": key, "content-type": "application/json"}
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_CALL_SECONDS)

    def foreground(self) -> None:
        """Ask through /v1, and wait."""
        message = {"role": "user", "content": uuid4().hex}
        answer = self.call("POST", "/v1/chat/completions", {"model": MODEL, "messages": [message], "max_tokens": 16})
        assert answer["choices"][0]["message"]["content"] == "fine", answer

    def queue(self) -> None:
        """Submit, and ask for the answer until it is there."""
        asked = {"model": MODEL, "prompt": uuid4().hex, "parameters": {"max_tokens": 16}}
        request_id = self.call("POST", "/generate", asked)["request_id"]
        while (answer := self.call("GET", f"/status/{request_id}"))["status"] not in _ENDED:
            time.sleep(POLL_SECONDS)
        assert answer["result"] == "fine", answer

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call the API; returns the body of the answer."""
        self._connection.request(method, self._base + path, None if body is None else json.dumps(body), self._headers)
        return json.loads(self._connection.getresponse().read())


# Side → what a client does.
_WAYS: Final[Mapping[str, Callable[[Caller], None]]] = {"/v1": Caller.foreground, "submit and poll": Caller.queue}


def at_once(callers: list[Caller], act: Callable[[Caller], None]) -> list[float]:
    """Let all of them begin at the same time; returns how many milliseconds beside the model each waited, in order."""
    barrier = Barrier(len(callers))

    def one(caller: Caller) -> float:
        barrier.wait()
        began = time.perf_counter()
        act(caller)
        return (time.perf_counter() - began - MODEL_SECONDS) * 1000

    with ThreadPoolExecutor(len(callers)) as pool:
        return sorted(pool.map(one, callers))


def measure(callers: list[Caller], rounds: int) -> Table:
    """Rounds in which the ways take turns, after two that start the environments and are not counted."""
    note = (
        f"Milliseconds beside the {MODEL_SECONDS * 1000:.0f} ms of the model, with warm environments. Whoever submits "
        f"asks for the answer every {POLL_SECONDS * 1000:.0f} ms; a worker takes up to ten requests at once."
    )
    table = Table(f"Waiting: {len(callers)} clients at once, and one alone", list(_WAYS), notes=[note])
    for number in range(-2, rounds):
        for way, act in list(_WAYS.items())[:: 1 if number % 2 == 0 else -1]:
            together = at_once(callers, act)
            alone = sorted(at_once(callers[:1], act)[0] for _ in range(5))
            if number >= 0:
                figures = {f"{len(callers)} at once: median": median(together), "the slowest of them": together[-1]}
                table.add(way, figures | {"one alone: median": median(alone)})
    return table


@contextmanager
def running_stack() -> Iterator[Stack]:
    """A stack with the fixed model and a user without limits; all of it is removed in the end."""
    model = FixedModel()
    with TemporaryDirectory(prefix="sluice-benchmarks-") as folder:
        stack = Stack(Path(folder) / "stack", llm_url=model.url)
        try:
            with stack:
                told = {"backend": "openai", "backend_model": "x", "endpoint": model.url, "timeout_seconds": 10}
                stack.admin("model.set", model_id=MODEL, **told)
                unlimited = {"max_requests": None, "max_tokens": None}
                limits = dict.fromkeys(("minute", "daily", "monthly"), unlimited)
                stack.admin("tier.set", tier=MODEL, limits=limits, max_unfinished=1000, dispatch_window=1000)
                stack.admin("user.create", user_id=MODEL, tier=MODEL)
                yield stack
        finally:
            stack.destroy()
            model.stop()


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        "benchmarks.waiting", description="Measure how long clients wait beside the model."
    )
    parser.add_argument("--rounds", type=int, default=5, help="how many are counted (5)")
    parser.add_argument("--callers", type=int, default=20, help="how many clients call at once (20)")
    options = parser.parse_args(arguments)
    print("benchmarks: starting a stack", file=sys.stderr)
    try:
        with stopping_on_signals(), running_stack() as stack:
            print(report(stack, options.callers, options.rounds))
    except LocalError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def report(stack: Stack, callers: int, rounds: int) -> str:
    """Measure; returns where and with what, and the table."""
    key = stack.admin("key.create", user_id=MODEL)["api_key"]
    with psycopg.connect(stack.info.database_url) as database:
        (postgres,) = database.execute("SELECT split_part(version(), ' on ', 1)").fetchone() or ("",)
    table = measure([Caller(stack.info.api_url, key) for _ in range(callers)], rounds)
    facts = surroundings(postgres) | {
        "rounds": f"{rounds}, after two that are not counted; the ways take turns, in alternating order",
        "load": f"{getloadavg()[0]:.1f} processes at once on average of the last minute, these among them",
    }
    return f"{listed(facts)}\n\n{table.markdown()}"


if __name__ == "__main__":
    sys.exit(main())
