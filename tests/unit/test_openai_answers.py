"""The OpenAI-compatible backend: good answers, however they travel."""

import json
import socket
from collections.abc import Callable

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.models import Completion
from tests.support.openai_backend import (
    COMPLETION,
    ENCODED,
    GOOD,
    PATIENT,
    ZIPPED,
    answer,
    chunked,
    claim,
    dripping,
    failure,
    until_closed,
)
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer


@pytest.mark.parametrize(
    "reply",
    [
        chunked(ENCODED, 10),
        chunked(ENCODED, 100_000),
        until_closed(ENCODED),
        dripping(ENCODED),
        Reply(body=ZIPPED, headers={"Content-Encoding": "gzip"}),
        # The first bytes of a compressed stream decode to nothing: that is not the end.
        dripping(ZIPPED, **{"Content-Encoding": "gzip"}),
        Reply(body=b"\xef\xbb\xbf" + ENCODED),
        Reply(body=b"\n  " + json.dumps(answer(), ensure_ascii=False, indent=2).encode()),
    ],
    ids=["chunks", "one chunk", "until closed", "slow", "gzip", "slow gzip", "byte order mark", "indented"],
)
def test_an_answer_is_understood_however_it_travels(
    server: ScriptedServer, backend: OpenAIBackend, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply)
    assert backend.complete(claim(server), PATIENT) == COMPLETION


@pytest.mark.parametrize("text", ["", "Grüße 😀", "\ud83d half a pair", "nul \x00", "</s>\r\n\t"])
def test_the_model_may_say_anything(server: ScriptedServer, backend: OpenAIBackend, text: str) -> None:
    server.replies(Reply(body=answer(text)))
    assert backend.complete(claim(server), PATIENT).text == text


def test_content_null_is_an_empty_answer(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(Reply(body=answer(None)))
    assert backend.complete(claim(server), PATIENT) == Completion("", 11, 5)


def test_a_text_of_the_largest_size_arrives_even_if_every_character_is_escaped(server: ScriptedServer) -> None:
    size = 50_000
    server.replies(Reply(body=json.dumps(answer("@")).replace("@", "\\u0041" * size).encode()))
    assert OpenAIBackend(str, size).complete(claim(server), PATIENT).text == "A" * size


def test_connections_are_used_again_after_success_and_after_refusals(
    server: ScriptedServer, backend: OpenAIBackend
) -> None:
    server.replies(GOOD, Reply(400, {"error": {}}), chunked(ENCODED, 50), Reply(503, b"busy"), GOOD)
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    assert failure(backend, claim(server)).code == "model_rejected"
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    assert failure(backend, claim(server)).code == "model_unavailable"
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    assert len({request.client for request in server.received}) == 1


def test_a_connection_that_was_closed_while_idle_is_replaced(server: ScriptedServer, backend: OpenAIBackend) -> None:
    def last_words(exchange: Exchange) -> None:
        GOOD(exchange)
        # Unannounced: the client is to find out by itself, before it sends anything.
        exchange.connection.shutdown(socket.SHUT_RDWR)
        exchange.hang_up()

    server.replies(last_words, GOOD)
    assert [backend.complete(claim(server), PATIENT) for _ in range(2)] == [COMPLETION] * 2
    assert len({request.client for request in server.received}) == 2
