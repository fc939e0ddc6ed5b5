"""The scripted model: an OpenAI-compatible server that fails as models do, and whose answers can be checked.

Its behaviour is a function of the prompt, which contains the seed, and of the number of the call with this prompt. Both
are in the answer and determine the tokens that it reports, so an answer shows what must have been booked for it.
"""

import hashlib
import json
import random
import re
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

MAX_TOKENS = 32
TIMEOUT_SECONDS = 2

# Behaviour → how often, of a hundred calls.
_BEHAVIOURS = {
    "fast": 62,
    "slow": 14,
    "429 retry-after": 3,
    "429": 4,
    "500": 4,
    "503": 3,
    "garbage": 3,
    "truncated": 2,
    "hang-up": 3,
    "never": 2,
}
# From this call on it always answers, so that a run ends although delays double.
_WELL_BEHAVED_FROM = 4
_REFUSED_SHARE = 0.03
_ANSWER = re.compile(r"answer (\d+) to ([0-9a-f]{64})")


def is_refused(prompt: str) -> bool:
    """Whether the model always refuses this prompt."""
    return random.Random(f"refused {prompt}").random() < _REFUSED_SHARE


def behaviour(prompt: str, call: int) -> str:
    """What the model does in the `call`-th call with this prompt, counted from 1."""
    if is_refused(prompt):
        return "400"
    rng = random.Random(f"{call} {prompt}")
    if call >= _WELL_BEHAVED_FROM:
        return "slow" if rng.random() < 0.1 else "fast"
    return rng.choices(list(_BEHAVIOURS), weights=list(_BEHAVIOURS.values()))[0]


def answer(prompt: str, call: int) -> str:
    return f"answer {call} to {hashlib.sha256(prompt.encode()).hexdigest()}"


def call_of(prompt: str, text: str) -> int | None:
    """Which call with this prompt a text is the answer to; None if it is not an answer to this prompt."""
    found = _ANSWER.fullmatch(text)
    return int(found[1]) if found and text == answer(prompt, int(found[1])) else None


def tokens(prompt: str, call: int) -> tuple[int, int]:
    """The prompt and completion tokens that the model reports for this call."""
    digest = hashlib.sha256(f"{call} {prompt}".encode()).digest()
    return 1 + digest[0] % 30, 1 + digest[1] % MAX_TOKENS


class ScriptedModel:
    """The server. It serves all seeds of a campaign."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()  # prompt → how often it was asked
        self.did: Counter[str] = Counter()  # behaviour → how often
        self._open = 0
        self._lock = Lock()
        self._released = Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with scripted._lock:
                    scripted._open += 1
                try:
                    scripted._behave(self, asked["messages"][0]["content"])
                except OSError:
                    self.close_connection = True  # the caller has given up, or was killed
                finally:
                    with scripted._lock:
                        scripted._open -= 1

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Ignore workers that were killed during a call."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = Thread(target=self._server.serve_forever, name="scripted-model", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a worker waits for an answer."""
        return self._open > 0

    def stop(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _behave(self, handler: BaseHTTPRequestHandler, prompt: str) -> None:
        with self._lock:
            self.calls[prompt] += 1
            call = self.calls[prompt]
            what = behaviour(prompt, call)
            self.did[what] += 1
        prompt_tokens, completion_tokens = tokens(prompt, call)
        body = json.dumps(
            {
                "choices": [{"message": {"role": "assistant", "content": answer(prompt, call)}}],
                "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
            }
        ).encode()
        match what:
            case "fast":
                _send(handler, 200, body)
            case "slow":
                self._released.wait(random.Random(f"slow {call} {prompt}").uniform(0.1, 1.5))
                _send(handler, 200, body)
            case "429 retry-after":
                _send(handler, 429, b"{}", {"Retry-After": "1"})
            case "429" | "500" | "503":
                _send(handler, int(what), b'{"error": {"message": "not now"}}')
            case "400":
                _send(handler, 400, b'{"error": {"message": "not this"}}')
            case "garbage":
                _send(handler, 200, b"<html>the proxy says hello</html>")
            case "truncated":
                _send(handler, 200, body[: len(body) // 2])
            case "hang-up":
                handler.close_connection = True
            case "never":
                self._released.wait(TIMEOUT_SECONDS + 3)
                handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
