"""What the tests of the Bedrock backend share: the real SDK against a server on this machine, a claim, a good answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import boto3
import pytest
from botocore.config import Config

from sluice.backends.bedrock import BedrockBackend
from sluice.backends.protocol import ModelError
from sluice.domain.documents import Input
from sluice.domain.requests import Claim, Completion
from tests.unit.scripted_server import Reply

PROMPT = "a confidential prompt"
WORDS = "words of the model"
COMPLETION = Completion.of_text(WORDS, 11, 5, "stop")
PATIENT = 30


def answer(*content: Any, **changes: Any) -> dict[str, Any]:
    """A Converse answer; changes replace its members."""
    return {
        "output": {"message": {"role": "assistant", "content": list(content or [{"text": WORDS}])}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 11, "outputTokens": 5, "totalTokens": 16},
        "metrics": {"latencyMs": 1},
    } | changes


GOOD = Reply(body=answer())

CLAIM = Claim(
    request_id=UUID(int=1),
    attempt=1,
    user_id="alice",
    model_id="nova",
    input=Input.of_prompt(PROMPT),
    parameters={},
    backend="bedrock",
    backend_model="eu.amazon.nova-lite-v1:0",
    endpoint=None,
    secret_arn=None,
    timeout_seconds=PATIENT,
)


class Bedrock:
    """A backend whose clients call a server on this machine, and the time limits of the clients that it asked for."""

    def __init__(self, url: str) -> None:
        self.limits: list[int] = []
        self._url = url
        self._clients: dict[float, Any] = {}
        self.backend = BedrockBackend(self._client)
        # Set where the answer never arrives, so that the test need not wait for seconds.
        self.read_timeout: float | None = None

    def _client(self, timeout_seconds: int) -> Any:
        self.limits.append(timeout_seconds)
        seconds = self.read_timeout or timeout_seconds
        if seconds not in self._clients:
            config = Config(read_timeout=seconds, connect_timeout=5, retries={"total_max_attempts": 1})
            self._clients[seconds] = boto3.client("bedrock-runtime", endpoint_url=self._url, config=config)
        return self._clients[seconds]

    def complete(self, **changes: Any) -> Completion:
        return self.backend.complete(replace(CLAIM, **changes), PATIENT)

    def failure(self, **changes: Any) -> ModelError:
        """The error of a call; it must not quote the prompt or the answer."""
        with pytest.raises(ModelError) as caught:
            self.complete(**changes)
        shown = f"{caught.value!r} {caught.value} {caught.value.message} {caught.value.args}"
        assert PROMPT not in shown
        assert WORDS not in shown
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return caught.value

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@contextmanager
def bedrock_at(url: str) -> Iterator[Bedrock]:
    made = Bedrock(url)
    yield made
    made.close()


def error(status: int, code: str, message: str = f"{WORDS}: {PROMPT}", **headers: str) -> Reply:
    """An error as Converse answers it."""
    named = {"x-amzn-ErrorType": code} if code else {}
    return Reply(
        status, {"message": message}, named | {name.replace("_", "-"): value for name, value in headers.items()}
    )
