"""The OpenAI-compatible backend: valid answers, in every form of transfer."""

import json
import socket
from collections.abc import Callable

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.domain.requests import Completion
from tests.support.openai_backend import (
    COMPLETION,
    ENCODED,
    GOOD,
    PATIENT,
    WORDS,
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
        # The first bytes of a compressed stream decode to an empty text, which is not the end.
        dripping(ZIPPED, **{"Content-Encoding": "gzip"}),
        Reply(body=b"\xef\xbb\xbf" + ENCODED),
        Reply(body=b"\n  " + json.dumps(answer(), ensure_ascii=False, indent=2).encode()),
    ],
    ids=["chunks", "one chunk", "until closed", "slow", "gzip", "slow gzip", "byte order mark", "indented"],
)
def test_answer_is_read_in_every_form_of_transfer(
    server: ScriptedServer, backend: OpenAIBackend, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply)
    assert backend.complete(claim(server), PATIENT) == COMPLETION


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("Grüße 😀", "Grüße 😀"),
        ("\ud83d half a pair", "\ufffd half a pair"),
        ("nul \x00", "nul \ufffd"),
        ("</s>\r\n\t", "</s>\r\n\t"),
    ],
)
def test_answer_may_be_any_text(server: ScriptedServer, backend: OpenAIBackend, text: str, kept: str) -> None:
    server.replies(Reply(body=answer(text)))
    assert backend.complete(claim(server), PATIENT).output.text == kept


def test_finish_reason_may_be_missing(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(Reply(body=answer(choices=[{"message": {"content": WORDS}}])))
    assert backend.complete(claim(server), PATIENT) == Completion.of_text(WORDS, 11, 5)


def test_largest_text_is_accepted_even_if_every_character_is_escaped(server: ScriptedServer) -> None:
    size = 50_000
    server.replies(Reply(body=json.dumps(answer("@")).replace("@", "\\u0041" * size).encode()))
    assert OpenAIBackend(str, size).complete(claim(server), PATIENT).output.text == "A" * size


def test_connection_is_reused_after_success_and_after_refusals(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD, Reply(400, {"error": {}}), chunked(ENCODED, 50), Reply(503, b"busy"), GOOD)
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    assert failure(backend, claim(server)).code == "model_rejected"
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    assert failure(backend, claim(server)).code == "model_unavailable"
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    assert len({request.client for request in server.received}) == 1


def test_connection_that_was_closed_while_idle_is_replaced(server: ScriptedServer, backend: OpenAIBackend) -> None:
    def answer_and_close(exchange: Exchange) -> None:
        GOOD(exchange)
        # Without a header that announces it: the client must notice by itself, before it sends anything.
        exchange.connection.shutdown(socket.SHUT_RDWR)
        exchange.hang_up()

    server.replies(answer_and_close, GOOD)
    assert [backend.complete(claim(server), PATIENT) for _ in range(2)] == [COMPLETION] * 2
    assert len({request.client for request in server.received}) == 2
