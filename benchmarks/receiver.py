"""A receiver of webhooks that answers 204 at once, in a process of its own: Python runs one thread at a time."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

from local.ports import LOOPBACK


@contextmanager
def receiving() -> Iterator[str]:
    """Run one; its address."""
    # Not forked: a connection of this process must not be shared.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://{LOOPBACK}:{here.recv()}"
    finally:
        process.terminate()
        process.join()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class _Server(ThreadingHTTPServer):
    # All of a round's first connections come at once.
    request_queue_size = 128


def _serve(pipe: Connection) -> None:
    server = _Server((LOOPBACK, 0), _Handler)
    pipe.send(server.server_port)
    server.serve_forever()
