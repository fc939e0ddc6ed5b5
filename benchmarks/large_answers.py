"""How much memory a worker needs for large answers: the local stack's worker, with a model that draws images of a size.

Each size is asked for once, and then by a whole batch at once. Reported is the most memory that was resident in any of
the worker's processes meanwhile, as Linux counts it, beside that of a small image. It works on Linux only.

    PYTHONPATH=layers/shared python -m benchmarks.large_answers [--megabytes 100]
"""

import argparse
import base64
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Final

from benchmarks.report import listed, surroundings
from benchmarks.waiting import Caller
from local.errors import LocalError
from local.ports import LOOPBACK
from local.processes import stopping_on_signals
from local.stack import Stack

USER: Final = "drawn"
_BATCH: Final = 10
_WAIT_SECONDS: Final = 300.0
_FINAL: Final = {"completed", "failed", "cancelled", "expired"}
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PART: Final = bytes(3 << 20)


@contextmanager
def model() -> Iterator[str]:
    """A server that answers with an image of as many megabytes as the prompt says, and holds none; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            parts = max(1, int(asked["prompt"]) // 3)
            before, after = b'{"data": [{"b64_json": "', b'"}]}'
            size = 4 * (len(_PNG) + 1 + parts * len(_PART)) // 3
            self.send_response(200)
            self.send_header("Content-Length", str(len(before) + size + len(after)))
            self.end_headers()
            # A multiple of three bytes at a time, so that the pieces of base64 can follow each other.
            for content in (_PNG + b"\0", *[_PART] * parts):
                self.wfile.write(before + base64.b64encode(content))
                before = b""
            self.wfile.write(after)

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


def peak(stack: Stack, caller: Caller, megabytes: int, count: int) -> float:
    """The most memory that was resident in a process of the worker while it had so many images made, in MB."""
    for process in _workers(stack):
        (process / "clear_refs").write_text("5")  # resets VmHWM
    asked = [
        caller.call("POST", "/generate", {"prompt": str(megabytes), "model": "artist", "image": {}})["request_id"]
        for _ in range(count)
    ]
    for request_id in asked:
        deadline = time.monotonic() + _WAIT_SECONDS
        while (answer := caller.call("GET", f"/status/{request_id}?wait=20"))["status"] not in _FINAL:
            if time.monotonic() > deadline:
                raise LocalError(f"the request {request_id} does not end")
        if answer["status"] != "completed":
            raise LocalError(f"the request {request_id} is {answer['status']}: {answer['error']}")
    return max(high_water(process) for process in _workers(stack))


def _workers(stack: Stack) -> list[Path]:
    return processes_of(stack, "worker")


def processes_of(stack: Stack, function: str) -> list[Path]:
    """The processes of a function, in /proc."""
    name = f"AWS_LAMBDA_FUNCTION_NAME={stack.info.functions[function]}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if name in (process / "environ").read_bytes().split(b"\0"):
                found.append(process)
        except OSError:
            continue
    return found


def high_water(process: Path) -> float:
    """The most memory that was resident in a process, in MB."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("benchmarks.large_answers", description="Measure a worker's memory.")
    parser.add_argument("--megabytes", type=int, default=100, help="of the large image (100)")
    options = parser.parse_args(arguments)
    print("benchmarks: starting a stack", file=sys.stderr)
    most = (options.megabytes + 3) << 20
    with model() as endpoint, TemporaryDirectory(prefix="sluice-benchmarks-") as folder:
        stack = Stack(Path(folder) / "stack", durable=False, parameters={"MaxStoredBytes": str(most)})
        try:
            with stopping_on_signals(), stack:
                unlimited = {"max_requests": None, "max_tokens": None}
                limits = dict.fromkeys(("minute", "daily", "monthly"), unlimited)
                stack.admin("tier.set", tier=USER, limits=limits, max_unfinished=1000, dispatch_window=_BATCH)
                stack.admin("user.create", user_id=USER, tier=USER)
                described = {"model_id": "artist", "kind": "image", "backend": "openai", "backend_model": "artist"}
                stack.admin("model.set", **described, endpoint=endpoint)
                caller = Caller(stack.info.api_url, stack.admin("key.create", user_id=USER)["api_key"])
                peak(stack, caller, 1, 1)  # starts an environment
                found = {
                    f"{count} of {megabytes} MB": peak(stack, caller, megabytes, count)
                    for megabytes in (1, options.megabytes)
                    for count in (1, _BATCH)
                }
        except LocalError as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 1
        finally:
            stack.destroy()
    least = next(iter(found.values()))
    figures = {name: f"{value:.0f} MB, {value / least:.2f} times the first" for name, value in found.items()}
    print(listed(surroundings("PostgreSQL") | figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
