"""The OpenAI-compatible backend: answers of another form, and endless ones."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from sluice.backends.openai import OpenAIBackend
from tests.support.openai_backend import COMPLETION, ENCODED, GOOD, PATIENT, PROMPT, WORDS, answer, claim, failure
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer, head


def deep(opening: bytes) -> bytes:
    """Nested deeper than Python can read."""
    return (opening * 60_000)[:60_000]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"data: {}\n\n",
        b"\xff\xfe\xfa",
        b"null",
        b"5",
        b'"choices"',
        b"[]",
        b"{}",
        deep(b"["),
        deep(b'{"error":'),
        b'{"choices": %b}' % (b"9" * 10_000),
        json.dumps({"choices": None}).encode(),
        json.dumps({"choices": []}).encode(),
        json.dumps({"choices": {"0": {}}}).encode(),
        json.dumps({"choices": [None]}).encode(),
        json.dumps({"choices": ["message"]}).encode(),
        json.dumps({"choices": [{"text": 5}]}).encode(),
        json.dumps({"choices": [{"message": WORDS}]}).encode(),
        json.dumps({"choices": [{"message": {}}]}).encode(),
        json.dumps({"detail": PROMPT}).encode(),
    ],
)
def test_answer_of_another_form_is_a_bad_response(server: ScriptedServer, backend: OpenAIBackend, body: bytes) -> None:
    server.replies(Reply(body=body), GOOD)
    assert failure(backend, claim(server)).code == "model_bad_response"
    assert backend.complete(claim(server), PATIENT) == COMPLETION


@pytest.mark.parametrize("content", [5, True, [5], {"text": 5}, {}, [[[[[[WORDS]]]]]]])
def test_content_that_is_not_a_text_is_a_bad_response(
    server: ScriptedServer, backend: OpenAIBackend, content: Any
) -> None:
    server.replies(Reply(body=answer(content)))
    error = failure(backend, claim(server))
    assert (error.code, error.prompt_tokens, error.completion_tokens) == ("model_bad_response", 11, 5)


# Endless answers ------------------------------------------------------------------------------------------------------


def endless(exchange: Exchange) -> None:
    exchange.write(head(200, {"Transfer-Encoding": "chunked"}))
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    # Much more than is accepted; then a valid end, which a client without a limit would accept.
    for _ in range(100):
        exchange.write(piece)
    exchange.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(ENCODED), ENCODED))


def bomb(exchange: Exchange) -> None:
    Reply(body=gzip.compress(b" " * 50_000_000 + ENCODED), headers={"Content-Encoding": "gzip"})(exchange)


@pytest.mark.parametrize("reply", [endless, bomb])
def test_endless_answer_is_abandoned_and_the_next_call_works(
    server: ScriptedServer, backend: OpenAIBackend, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply, GOOD)
    assert failure(backend, claim(server)).code == "result_too_large"
    assert backend.complete(claim(server), PATIENT) == COMPLETION
