"""The OpenAI-compatible backend: missing, slow and truncated answers."""

import socket
from collections.abc import Callable

import pytest

from sluice.backends.openai import OpenAIBackend
from tests.support.openai_backend import (
    COMPLETION,
    ENCODED,
    GOOD,
    IMPATIENT,
    PATIENT,
    ZIPPED,
    claim,
    dripping_body,
    dripping_head,
    failure,
)
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer, head


def test_refused_connection_is_an_outage(server: ScriptedServer, backend: OpenAIBackend) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        error = failure(backend, claim(server, endpoint=f"http://127.0.0.1:{port}/v1"))
    assert error.code == "model_unavailable"


@pytest.mark.parametrize("endpoint", ["ftp://127.0.0.1", "http://[::1", "http://a..b", "http://127.0.0.1:99999"])
def test_endpoint_that_cannot_exist_is_the_operators_fault(
    server: ScriptedServer, backend: OpenAIBackend, endpoint: str
) -> None:
    assert failure(backend, claim(server, endpoint=endpoint)).code == "model_misconfigured"


@pytest.mark.parametrize(
    ("number", "code"), [(socket.EAI_NONAME, "model_misconfigured"), (socket.EAI_AGAIN, "model_unavailable")]
)
def test_unknown_host_is_the_operators_fault_but_not_a_name_server_that_is_down(
    server: ScriptedServer, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def resolve(*_: object) -> object:
        raise socket.gaierror(number, "no")

    # A test may not depend on the name server of the machine that it runs on.
    monkeypatch.setattr("urllib3.util.connection.socket.getaddrinfo", resolve)
    assert failure(backend, claim(server, endpoint="http://models.invalid/v1")).code == code


def never(exchange: Exchange) -> None:
    exchange.wait()


def head_and_no_body(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": "100"}))
    exchange.wait()


def half_a_head(exchange: Exchange) -> None:
    exchange.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
    exchange.wait()


def dripping_until_closed(exchange: Exchange) -> None:
    exchange.write(head(200, {"Connection": "close"}))
    exchange.drip(ENCODED)
    exchange.hang_up()


def dripping_chunks(exchange: Exchange) -> None:
    exchange.write(head(200, {"Transfer-Encoding": "chunked"}))
    exchange.drip(b"%x\r\n%b\r\n0\r\n\r\n" % (len(ENCODED), ENCODED))


def dripping_refusal(exchange: Exchange) -> None:
    exchange.write(head(400, {"Content-Length": "250"}))
    exchange.drip(b" " * 250)


@pytest.mark.parametrize(
    "reply",
    [
        never,
        head_and_no_body,
        half_a_head,
        dripping_head,
        dripping_body,
        dripping_until_closed,
        dripping_chunks,
        dripping_refusal,
    ],
)
def test_slow_answer_is_a_timeout_and_the_next_call_works(
    server: ScriptedServer, backend: OpenAIBackend, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply, GOOD)
    assert failure(backend, claim(server), IMPATIENT).code == "model_timeout"
    assert server.dripped == []
    assert backend.complete(claim(server), PATIENT) == COMPLETION


def cut(data: bytes) -> Callable[[Exchange], None]:
    def reply(exchange: Exchange) -> None:
        exchange.write(data)
        exchange.hang_up()

    return reply


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (cut(b""), "model_unavailable"),
        (cut(b"HTTP/1.1 200"), "model_bad_response"),
        (cut(b"HTTP/1.1 200 OK\r\nContent-Ty"), "model_bad_response"),
        (cut(head(200, {"Content-Length": str(len(ENCODED))}) + ENCODED[:-10]), "model_unavailable"),
        (cut(head(200, {"Transfer-Encoding": "chunked"}) + b"10\r\n{"), "model_unavailable"),
        (cut(head(200, {"Transfer-Encoding": "chunked"}) + b"zz\r\n{}"), "model_unavailable"),
        (cut(head(200, {"Connection": "close"}) + ENCODED[:-10]), "model_bad_response"),
        (cut(b"SSH-2.0-OpenSSH_9.9\r\n"), "model_unavailable"),
        (cut(b"HTTP/1.1 two hundred\r\n\r\n"), "model_unavailable"),
        (cut(head(200, {f"X-{n}": "y" for n in range(200)})), "model_unavailable"),
        (Reply(body=b"no gzip", headers={"Content-Encoding": "gzip"}), "model_unavailable"),
        (Reply(body=ZIPPED[:-10], headers={"Content-Encoding": "gzip"}), "model_bad_response"),
    ],
    ids=[
        "at once",
        "in the status line",
        "in the head",
        "in the body",
        "in a chunk",
        "bad chunk",
        "in a body without a length",
        "another protocol",
        "a status in words",
        "endless headers",
        "not gzip",
        "half a gzip",
    ],
)
def test_truncated_or_garbled_answer_is_transient_and_the_next_call_works(
    server: ScriptedServer, backend: OpenAIBackend, reply: Callable[[Exchange], None], code: str
) -> None:
    server.replies(reply, GOOD)
    error = failure(backend, claim(server))
    assert error.code == code
    assert error.is_transient
    assert backend.complete(claim(server), PATIENT) == COMPLETION
