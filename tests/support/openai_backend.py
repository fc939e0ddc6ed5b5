"""What the tests of the OpenAI-compatible backend share: a claim, a good answer, and slow servers."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.backends.protocol import ModelError
from sluice.domain.documents import Input
from sluice.domain.requests import Claim, Completion
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer, head

PROMPT = "a confidential prompt"
WORDS = "words of the model"
KEY = "sk-a-key"
MAX_RESULT_BYTES = 1000
# Long enough for any answer that arrives, even on a busy machine.
PATIENT = 30.0
# For answers that never arrive; no result depends on how long the call takes.
IMPATIENT = 0.25


def answer(content: Any = WORDS, **changes: Any) -> dict[str, Any]:
    """A chat completion; changes replace its members."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    } | changes


GOOD = Reply(body=answer())
COMPLETION = Completion.of_text(WORDS, 11, 5, "stop")


def claim(server: ScriptedServer, **changes: Any) -> Claim:
    given = Claim(
        request_id=UUID(int=1),
        attempt=1,
        user_id="alice",
        model_id="small",
        input=Input.of_prompt(PROMPT),
        parameters={"max_tokens": 7, "temperature": 0.5, "stop": ["\n"], "seed": 3},
        backend="openai",
        backend_model="org/small-1b",
        endpoint=f"{server.url}/v1",
        secret_arn=None,
        timeout_seconds=60,
    )
    return replace(given, **changes)


def failure(backend: OpenAIBackend, asked: Claim, timeout: float = PATIENT) -> ModelError:
    """The error of a call; it must not quote the prompt or the answer."""
    with pytest.raises(ModelError) as caught:
        backend.complete(asked, timeout)
    shown = f"{caught.value!r} {caught.value} {caught.value.message} {caught.value.args}"
    assert PROMPT not in shown
    assert WORDS not in shown
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def chunked(payload: bytes, size: int) -> Callable[[Exchange], None]:
    def reply(exchange: Exchange) -> None:
        exchange.write(head(200, {"Transfer-Encoding": "chunked"}))
        for start in range(0, len(payload), size):
            piece = payload[start : start + size]
            exchange.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.write(b"0\r\n\r\n")

    return reply


def until_closed(payload: bytes) -> Callable[[Exchange], None]:
    """An answer as in HTTP/1.0: it ends with the connection."""

    def reply(exchange: Exchange) -> None:
        exchange.write(head(200, {"Connection": "close"}) + payload)
        exchange.hang_up()

    return reply


def dripping(payload: bytes, **headers: str) -> Callable[[Exchange], None]:
    """An answer that arrives byte by byte."""

    def reply(exchange: Exchange) -> None:
        exchange.write(head(200, {"Content-Length": str(len(payload)), **headers}))
        exchange.drip(payload, pause=0.001)

    return reply


ENCODED = json.dumps(answer()).encode()
ZIPPED = gzip.compress(ENCODED)


def dripping_head(exchange: Exchange) -> None:
    # A client that does not give up receives all of it, a valid answer.
    exchange.drip(head(200, {"X-Slow": "x" * 250, "Content-Length": str(len(ENCODED))}))
    exchange.write(ENCODED)


def dripping_body(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": str(len(ENCODED))}))
    exchange.drip(ENCODED)
