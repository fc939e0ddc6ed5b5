"""A large batch on the local stack: how fast its lines are answered beside single requests, whether its worker's memory
grows with it, whether other users wait longer meanwhile, and whether each line is answered once although the function
that works on it is killed again and again.

The model answers at once, so that what is measured is everything else. It works on Linux only.

    PYTHONPATH=layers/shared python -m benchmarks.large_batch [--lines 50000] [--kills 20]
"""

import argparse
import json
import os
import random
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, Final

import psycopg

from benchmarks.large_answers import high_water, processes_of
from benchmarks.report import listed, surroundings
from benchmarks.waiting import Caller
from local.errors import LocalError
from local.ports import LOOPBACK
from local.processes import stopping_on_signals
from local.stack import Stack

BATCHER, OTHER = "batcher", "other"
CHAT: Final = "/v1/chat/completions"
_SINGLE: Final = 500
_CALLERS: Final = 8
_SMALL: Final = 100
_PART: Final = 4_000_000
_ENDS: Final = {"completed", "failed", "expired", "cancelled"}
_BOUNDARY: Final = "sluice-benchmarks"


@contextmanager
def echo() -> Iterator[str]:
    """A model that answers at once with a digest of what it was asked; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = answer_to(asked["messages"][0]["content"])
            answer = {
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
            }
            body = json.dumps(answer).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def answer_to(question: Any) -> str:
    """What the model says."""
    text = question if isinstance(question, str) else question[0]["text"]
    return sha256(text.encode()).hexdigest()[:16]


class Batcher:
    """A user with batches."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """A call; an answer that is a redirect is followed."""
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": kind}
        request = urllib.request.Request(self._url + path, sent, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    def json(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The same, whose answer is JSON."""
        return json.loads(self.call(method, path, body, kind))

    def upload(self, content: bytes) -> str:
        """Upload the lines of a batch, in parts."""
        announced = {"filename": "lines.jsonl", "purpose": "batch", "bytes": len(content), "mime_type": "text/jsonl"}
        upload_id = self.json("POST", "/v1/uploads", announced)["id"]
        parts = []
        for start in range(0, len(content), _PART):
            head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="part"\r\n\r\n'.encode()
            form = head + content[start : start + _PART] + f"\r\n--{_BOUNDARY}--\r\n".encode()
            kind = f"multipart/form-data; boundary={_BOUNDARY}"
            parts.append(self.json("POST", f"/v1/uploads/{upload_id}/parts", form, kind)["id"])
        done = self.json("POST", f"/v1/uploads/{upload_id}/complete", {"part_ids": parts})
        name: str = done["file"]["id"]
        return name

    def batch(self, lines: int) -> str:
        """Begin a batch of so many lines."""
        content = b"".join(
            json.dumps(
                {
                    "custom_id": f"line {number}",
                    "method": "POST",
                    "url": CHAT,
                    "body": {"model": "echo", "messages": [{"role": "user", "content": f"question {number}"}]},
                }
            ).encode()
            + b"\n"
            for number in range(lines)
        )
        asked = {"input_file_id": self.upload(content), "endpoint": CHAT, "completion_window": "24h"}
        name: str = self.json("POST", "/v1/batches", asked)["id"]
        return name

    def progress(self, batch_id: str) -> Any:
        """The batch as it is."""
        return self.json("GET", f"/v1/batches/{batch_id}")

    def answers(self, file_id: str) -> list[Any]:
        """The lines of a file."""
        found = self.call("GET", f"/v1/files/{file_id}/content")
        return [json.loads(each) for each in found.decode().split("\n") if each]


def singles(url: str, key: str, count: int) -> float:
    """How many requests that are submitted one by one are answered in a second, by several callers at once."""

    def ask(numbers: range) -> None:
        caller = Caller(url, key)
        ids = [
            caller.call("POST", "/generate", {"prompt": f"single {number}", "model": "echo"})["request_id"]
            for number in numbers
        ]
        for request_id in ids:
            while caller.call("GET", f"/status/{request_id}?wait=20")["status"] not in _ENDS:
                pass

    began = time.monotonic()
    with ThreadPoolExecutor(_CALLERS) as pool:
        list(pool.map(ask, [range(start, count, _CALLERS) for start in range(_CALLERS)]))
    return count / (time.monotonic() - began)


def waits(url: str, key: str, until: Event, least: int) -> list[float]:
    """How many seconds another user's requests take, one after the other with a pause, until the event and so many."""
    caller = Caller(url, key)
    taken: list[float] = []
    while not until.is_set() or len(taken) < least:
        began = time.monotonic()
        request_id = caller.call("POST", "/generate", {"prompt": f"other {began}", "model": "echo"})["request_id"]
        while caller.call("GET", f"/status/{request_id}?wait=20")["status"] not in _ENDS:
            pass
        taken.append(time.monotonic() - began)
        time.sleep(0.5)
    return taken


def finish(stack: Stack, user: Batcher, batch_id: str, kills: int) -> tuple[Any, float, int, float]:
    """Wait for the end of a batch, and kill the function that works on it now and then.

    Returns:
        the batch; the most memory of a process of that function, in MB; how often one was killed; the seconds.
    """
    rng, most, killed, began = random.Random(7), 0.0, 0, time.monotonic()
    next_kill = began + rng.uniform(1, 6)
    while (batch := user.progress(batch_id))["status"] not in _ENDS:
        running = processes_of(stack, "batches")
        most = max([most, *(high_water(process) for process in running)])
        if killed < kills and running and time.monotonic() > next_kill:
            for process in running:
                os.kill(int(process.name), signal.SIGKILL)
            killed += 1
            next_kill = time.monotonic() + rng.uniform(1, 10)
            # Its lease would end in two minutes.
            with psycopg.connect(stack.info.database_url, autocommit=True) as database:
                database.execute("UPDATE batches SET leased_until = clock_now() WHERE leased_until IS NOT NULL")
            stack.admin("rollup.run", tasks=["recover"])
        time.sleep(0.5)
    return batch, most, killed, time.monotonic() - began


def measure(stack: Stack, lines: int, kills: int) -> dict[str, str]:
    """What came of it, in words."""
    url = stack.info.api_url
    keys = {name: stack.admin("key.create", user_id=name)["api_key"] for name in (BATCHER, OTHER)}
    user = Batcher(url, keys[BATCHER])
    singles(url, keys[BATCHER], 50)  # starts environments
    alone = Event()
    alone.set()
    quiet = waits(url, keys[OTHER], alone, 60)
    rate = singles(url, keys[BATCHER], _SINGLE)
    _, small, _, _ = finish(stack, user, user.batch(_SMALL), 0)
    batch_id = user.batch(lines)
    ended = Event()
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(waits, url, keys[OTHER], ended, 60)
        batch, most, killed, seconds = finish(stack, user, batch_id, kills)
        ended.set()
        busy = others.result()
    answers = user.answers(batch["output_file_id"])
    in_order = [each["custom_id"] for each in answers] == [f"line {number}" for number in range(lines)]
    right = sum(
        each["response"]["body"]["choices"][0]["message"]["content"]
        == answer_to(each["custom_id"].replace("line", "question"))
        for each in answers
    )
    with psycopg.connect(stack.info.database_url, autocommit=True) as database:
        (asked,) = database.execute(
            "SELECT count(DISTINCT request_id) FROM batch_lines JOIN batches USING (batch_id) WHERE total > %s",
            (_SMALL,),
        ).fetchone() or (0,)
    books = stack.admin("verify", full=True)
    p95_quiet, p95_busy = quantiles(quiet, n=20)[-1], quantiles(busy, n=20)[-1]
    return {
        "lines": f"{lines}; {batch['request_counts']}, {len(answers)} answers, "
        f"{right} right, {'in order' if in_order else 'NOT IN ORDER'}; requests made: {asked}",
        "killed": f"{killed} times",
        "books": "balanced" if not books["violations"] else f"{len(books['violations'])} violations",
        "lines in a second": f"{lines / seconds:.0f}, {lines / seconds / rate:.2f} times the {rate:.0f} of single ones",
        "memory": f"{most:.0f} MB, {most / small:.2f} times that of a batch of {_SMALL} lines",
        "another user's requests": f"p95 {p95_busy:.2f} s, {p95_busy / p95_quiet:.2f} times that before the batch",
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("benchmarks.large_batch", description="Run a large batch on a local stack.")
    parser.add_argument("--lines", type=int, default=50_000, help="of the batch (50000)")
    parser.add_argument("--kills", type=int, default=20, help="how often its function is killed (20)")
    options = parser.parse_args(arguments)
    print("benchmarks: starting a stack", file=sys.stderr)
    with echo() as endpoint, TemporaryDirectory(prefix="sluice-benchmarks-") as folder:
        stack = Stack(Path(folder) / "stack", durable=False)
        try:
            with stopping_on_signals(), stack:
                unlimited = {"max_requests": None, "max_tokens": None}
                limits = dict.fromkeys(("minute", "daily", "monthly"), unlimited)
                stack.admin("tier.set", tier=BATCHER, limits=limits, max_unfinished=10_000, dispatch_window=50)
                for name in (BATCHER, OTHER):
                    stack.admin("user.create", user_id=name, tier=BATCHER)
                stack.admin("model.set", model_id="echo", backend="openai", backend_model="echo", endpoint=endpoint)
                found = measure(stack, options.lines, options.kills)
        except (LocalError, urllib.error.URLError) as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 1
        finally:
            stack.destroy()
    print(listed(surroundings("PostgreSQL") | found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
