"""A real HTTP server on this machine that answers as a script says, correctly or not."""

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """A correct answer; a body that is not bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, exchange: "Exchange") -> None:
        payload = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(payload)), **self.headers}
        exchange.write(head(self.status, headers) + payload)


@dataclass(frozen=True)
class Received:
    """A request as it was received; `client` identifies its connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client: tuple[str, int]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Exchange(BaseHTTPRequestHandler):
    """One connection; each of its requests takes the next step of the script."""

    protocol_version = "HTTP/1.1"
    server: "ScriptedServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(self.command, self.path, headers, body, self.client_address))
        self.server.script.popleft()(self)

    def do_GET(self) -> None:
        self.server.received.append(Received(self.command, self.path, {}, b"", self.client_address))
        Reply(404)(self)

    def write(self, data: bytes) -> None:
        self.connection.sendall(data)

    def hang_up(self) -> None:
        """Close the connection after what was written."""
        self.close_connection = True

    def wait(self) -> None:
        """Send nothing more until the server stops."""
        self.server.stopping.wait()
        self.hang_up()

    def drip(self, data: bytes, pause: float = 0.02) -> None:
        """Send byte by byte until everything is sent, the client has disconnected or the server stops."""
        *most, last = (data[position : position + 1] for position in range(len(data)))
        for byte in most:
            self.write(byte)
            if self.server.stopping.wait(pause):
                return
        # Recorded first: with its last byte the client may return, and the test may look.
        self.server.dripped.append(data)
        self.write(last)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        pass


class ScriptedServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1 while used as a context.

    Attributes:
        script: what to do with the next requests.
        received: the requests so far.
        dripped: what was sent byte by byte, to a client that waited for all of it.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.script: deque[Callable[[Exchange], None]] = deque()
        self.received: list[Received] = []
        self.dripped: list[bytes] = []
        self.stopping = threading.Event()
        self._scheme = "http"
        if tls:
            self._scheme = "https"
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}"

    def replies(self, *script: Callable[[Exchange], None]) -> None:
        """Answer the next requests with these."""
        self.script.extend(script)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that disconnect early are part of the script."""

    def __enter__(self) -> "ScriptedServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """The status line and the headers of an answer."""
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
