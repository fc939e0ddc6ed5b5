"""A receiver of webhooks on this machine. Knows nothing of the service: the chaos suite, which judges it, uses it too."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECONDS = 1.0
"""How long an attempt may take here."""


@dataclass(frozen=True)
class Received:
    """One call of the receiver."""

    path: str
    headers: Mapping[str, str]
    body: str
    at: float

    @property
    def is_whole(self) -> bool:
        """Not of a caller who was gone before all of the body was sent."""
        return len(self.body.encode()) == int(self.headers["content-length"])

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


@dataclass(frozen=True)
class Answer:
    """How a call is answered: status None hangs until the caller is gone."""

    status: int | None = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


Rule = Callable[[Received], Answer]


class Receiver:
    """Answers as a rule says, 200 where there is none.

    Attributes:
        received: what came, in order.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.rule: Rule = lambda call: Answer()
        self.most_at_once: dict[str, int] = defaultdict(int)
        self._at_once: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self.closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.serve(self)

            def do_GET(self) -> None:
                receiver.serve(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *arguments: Any) -> None:
                """Callers that were not waited for are gone."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0)).decode()
        call = Received(handler.path, {k.lower(): v for k, v in handler.headers.items()}, body, time.time())
        with self._lock:
            self.received.append(call)
            self._at_once[call.path] += 1
            self.most_at_once[call.path] = max(self.most_at_once[call.path], self._at_once[call.path])
            answer = self.rule(call)
        try:
            if answer.status is None:
                self.closing.wait(SECONDS * 3)
                return
            time.sleep(answer.seconds)
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", "0")
            handler.end_headers()
        finally:
            with self._lock:
                self._at_once[call.path] -= 1

    def ids(self) -> list[str]:
        return [call.headers["webhook-id"] for call in self.received]

    def answers(self, *statuses: int | None) -> None:
        """Answer with these, one after the other, and then with the last one."""
        left = list(statuses)
        self.rule = lambda call: Answer(left.pop(0) if len(left) > 1 else left[0])


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.closing.set()
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
