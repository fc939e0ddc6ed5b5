"""OpenAI's client in both of its majors, each in a process of an environment of its own (`make setup` makes them)."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Self

from local.environment import child_environment

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/e2e/clients/program.py"
MAJORS = (2, 3)
# Longer than the client itself waits and repeats a call.
_CALL_SECONDS = 150.0


class SdkError(Exception):
    """An exception that the client raised, with its members."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__(f"{facts['exception']}: {facts['message']}")
        self.exception: str = facts["exception"]
        self.status: int | None = facts["status_code"]
        self.code: str | None = facts["code"]
        self.param: str | None = facts["param"]
        self.type: str | None = facts["type"]
        self.body: Any = facts["body"]


class ClientProcess:
    """A process with the client, which makes one call after the other.

    Args:
        major: the package's major version.
        log: where its standard error goes.
    """

    def __init__(self, major: int, log: Path) -> None:
        python = ROOT / f".openai{major}-venv/bin/python"
        assert python.exists(), f"{python} is missing: `make setup` makes it"
        self._lock = Lock()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [python, "-P", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=child_environment(),
            )
        self._log = log

    def send(self, order: dict[str, Any]) -> dict[str, Any]:
        """Have a call made, and wait for what comes of it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._lock:
            patience = Timer(_CALL_SECONDS, self._process.kill)
            patience.start()
            try:
                stdin.write(json.dumps(order) + "\n")
                stdin.flush()
                line = stdout.readline()
            finally:
                patience.cancel()
        assert line, f"{order['call']}: the client gave no answer; {self._log.read_text()[-3000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


@dataclass(frozen=True)
class OpenAI:
    """A user of OpenAI's client: calls its methods by name.

    Attributes:
        asynchronous: it is the asynchronous client.
        options: further arguments of the client itself.
    """

    process: ClientProcess
    url: str
    key: str
    asynchronous: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, method: str, /, *given: dict[str, Any], **arguments: Any) -> Any:
        """What a method returns, as JSON; with several sets of arguments, those of as many calls at once.

        Raises:
            SdkError: the client raised an exception.
        """
        answer = self.send(method, list(given) if given else arguments)
        if "error" in answer:
            raise SdkError(answer["error"])
        return answer["result"]

    def send(self, method: str, arguments: Any) -> dict[str, Any]:
        """What came of a call: its result or its error, and how many seconds it took."""
        client = {"base_url": f"{self.url}/v1", "api_key": self.key, "_strict_response_validation": True} | self.options
        asynchronous = self.asynchronous or isinstance(arguments, list)
        order = {"call": method, "arguments": arguments, "client": client, "asynchronous": asynchronous}
        return self.process.send(order)

    def with_options(self, **options: Any) -> "OpenAI":
        """The same user with other arguments of the client."""
        return OpenAI(self.process, self.url, self.key, self.asynchronous, self.options | options)

    def with_key(self, key: str) -> "OpenAI":
        """Another user."""
        return OpenAI(self.process, self.url, key, self.asynchronous, self.options)
