"""The OpenAI-compatible backend against a real server that answers well, badly and not at all."""

import datetime as dt
import gzip
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.openai import OpenAIBackend, _retry_after
from sluice.backends.protocol import MODEL_ERRORS, STATUS_ERRORS, ModelError
from sluice.models import Claim, Completion
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer, head

PROMPT = "a prompt that nobody else may read"
WORDS = "words of the model"
KEY = "sk-a-key"
MAX_RESULT_BYTES = 1000
# Long enough for any answer that does come, on a busy machine too.
PATIENT = 30.0
# For those that never come; nothing depends on how long it really takes.
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
COMPLETION = Completion(WORDS, 11, 5)


def claim(server: ScriptedServer, **changes: Any) -> Claim:
    given = Claim(
        request_id=UUID(int=1),
        attempt=1,
        user_id="alice",
        model_id="small",
        prompt=PROMPT,
        parameters={"max_tokens": 7, "temperature": 0.5, "stop": ["\n"], "seed": 3},
        backend="openai",
        backend_model="org/small-1b",
        endpoint=f"{server.url}/v1",
        secret_arn=None,
        timeout_seconds=60,
    )
    return replace(given, **changes)


@pytest.fixture
def backend() -> OpenAIBackend:
    return OpenAIBackend({"arn:key": KEY}.__getitem__, MAX_RESULT_BYTES)


def failure(backend: OpenAIBackend, asked: Claim, timeout: float = PATIENT) -> ModelError:
    """The error that a call ends in, which must not repeat a word of what was said."""
    with pytest.raises(ModelError) as caught:
        backend.complete(asked, timeout)
    told = f"{caught.value!r} {caught.value} {caught.value.message} {caught.value.args}"
    assert PROMPT not in told
    assert WORDS not in told
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


# What is asked --------------------------------------------------------------------------------------------------------


def test_the_request_is_a_chat_completion(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    (asked,) = server.received
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.headers["content-type"] == "application/json"
    assert asked.json == {
        "model": "org/small-1b",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": False,
        "max_tokens": 7,
        "temperature": 0.5,
        "stop": ["\n"],
        "seed": 3,
    }


def test_a_slash_at_the_end_of_the_endpoint_changes_nothing(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, endpoint=f"{server.url}/v1/"), PATIENT)
    assert server.received[0].path == "/v1/chat/completions"


def test_the_key_comes_from_the_secret(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, secret_arn="arn:key"), PATIENT)
    assert server.received[0].headers["authorization"] == f"Bearer {KEY}"


def test_without_a_secret_no_key_is_sent(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server), PATIENT)
    assert "authorization" not in server.received[0].headers


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-sécret-€"])
def test_a_key_that_no_header_can_hold_is_not_shown(server: ScriptedServer, key: str) -> None:
    error = failure(OpenAIBackend(lambda _: key, MAX_RESULT_BYTES), claim(server, secret_arn="arn:key"))
    assert error.code == "model_unauthorized"
    assert key.strip() not in str(error)


@pytest.mark.parametrize("prompt", ['"quoted" \\ and\nbroken', "Grüße, 世界 😀", "x" * 200_000])
def test_any_prompt_arrives_as_it_is(server: ScriptedServer, backend: OpenAIBackend, prompt: str) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, prompt=prompt), PATIENT)
    assert server.received[0].json["messages"][0]["content"] == prompt


# Good answers ---------------------------------------------------------------------------------------------------------


def chunked(payload: bytes, size: int) -> Callable[[Exchange], None]:
    def reply(exchange: Exchange) -> None:
        exchange.write(head(200, {"Transfer-Encoding": "chunked"}))
        for start in range(0, len(payload), size):
            piece = payload[start : start + size]
            exchange.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.write(b"0\r\n\r\n")

    return reply


def until_closed(payload: bytes) -> Callable[[Exchange], None]:
    """An answer as of HTTP/1.0: its end is the connection's."""

    def reply(exchange: Exchange) -> None:
        exchange.write(head(200, {"Connection": "close"}) + payload)
        exchange.hang_up()

    return reply


def dripping(payload: bytes, **headers: str) -> Callable[[Exchange], None]:
    """Slowly, but surely."""

    def reply(exchange: Exchange) -> None:
        exchange.write(head(200, {"Content-Length": str(len(payload)), **headers}))
        exchange.drip(payload, pause=0.001)

    return reply


ENCODED = json.dumps(answer()).encode()
ZIPPED = gzip.compress(ENCODED)


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


# No answer ------------------------------------------------------------------------------------------------------------


def test_nobody_listening_is_an_outage(server: ScriptedServer, backend: OpenAIBackend) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        error = failure(backend, claim(server, endpoint=f"http://127.0.0.1:{port}/v1"))
    assert error.code == "model_unavailable"


@pytest.mark.parametrize("endpoint", ["ftp://127.0.0.1", "http://[::1", "http://a..b", "http://127.0.0.1:99999"])
def test_an_endpoint_that_does_not_exist_is_an_outage(
    server: ScriptedServer, backend: OpenAIBackend, endpoint: str
) -> None:
    assert failure(backend, claim(server, endpoint=endpoint)).code == "model_unavailable"


def never(exchange: Exchange) -> None:
    exchange.wait()


def head_and_no_body(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": "100"}))
    exchange.wait()


def half_a_head(exchange: Exchange) -> None:
    exchange.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
    exchange.wait()


def dripping_head(exchange: Exchange) -> None:
    # Should nobody give up, all of it comes, and it is a good answer.
    exchange.drip(head(200, {"X-Slow": "x" * 250, "Content-Length": str(len(ENCODED))}))
    exchange.write(ENCODED)


def dripping_body(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": str(len(ENCODED))}))
    exchange.drip(ENCODED)


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
def test_who_does_not_finish_in_time_timed_out_and_the_next_call_works(
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
def test_an_answer_cut_short_or_garbled_is_tried_again_and_the_next_call_works(
    server: ScriptedServer, backend: OpenAIBackend, reply: Callable[[Exchange], None], code: str
) -> None:
    server.replies(reply, GOOD)
    error = failure(backend, claim(server))
    assert error.code == code
    assert error.is_transient
    assert backend.complete(claim(server), PATIENT) == COMPLETION


# Answers that say no --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "model_rejected"),
        (401, "model_unauthorized"),
        (402, "model_rejected"),
        (403, "model_unauthorized"),
        (404, "model_rejected"),
        (408, "model_timeout"),
        (409, "model_unavailable"),
        (413, "model_rejected"),
        (422, "model_rejected"),
        (425, "model_unavailable"),
        (429, "model_throttled"),
        (500, "model_unavailable"),
        (502, "model_unavailable"),
        (503, "model_unavailable"),
        (504, "model_timeout"),
        (529, "model_unavailable"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [{"error": {"message": f"{WORDS}: {PROMPT}", "code": None}}, f"<html>{PROMPT}".encode(), b""],
    ids=["json", "html", "empty"],
)
def test_each_status_has_its_meaning(
    server: ScriptedServer, backend: OpenAIBackend, status: int, code: str, body: Any
) -> None:
    server.replies(Reply(status, body), GOOD)
    assert failure(backend, claim(server)).code == code
    assert backend.complete(claim(server), PATIENT) == COMPLETION


def test_only_what_the_client_did_wrong_is_final() -> None:
    final = {code for code, (is_transient, _) in MODEL_ERRORS.items() if not is_transient}
    assert final.isdisjoint(STATUS_ERRORS.values())
    assert final == {
        "model_usage_missing",
        "model_rejected",
        "context_length_exceeded",
        "result_too_large",
        "model_backend_unknown",
    }


CONTEXT_ERRORS = [
    # OpenAI
    {
        "error": {
            "message": PROMPT,
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
    # llama.cpp
    {"error": {"code": 400, "message": PROMPT, "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 4}},
    # vLLM
    {"error": {"message": PROMPT, "type": "BadRequestError", "param": "input_tokens", "code": 400}},
]


@pytest.mark.parametrize("status", [200, 400, 413])
@pytest.mark.parametrize("body", CONTEXT_ERRORS, ids=["OpenAI", "llama.cpp", "vLLM"])
def test_a_prompt_that_is_too_long_is_told_apart(
    server: ScriptedServer, backend: OpenAIBackend, status: int, body: dict[str, Any]
) -> None:
    server.replies(Reply(status, body))
    error = failure(backend, claim(server))
    assert error.code == "context_length_exceeded"
    assert not error.is_transient


@pytest.mark.parametrize("error", [None, "context_length_exceeded", [], {}, {"code": ["context_length_exceeded"]}, 1])
def test_an_error_of_another_shape_is_just_an_error(server: ScriptedServer, backend: OpenAIBackend, error: Any) -> None:
    server.replies(Reply(400, {"error": error}), Reply(200, {"error": error}))
    assert [failure(backend, claim(server)).code for _ in range(2)] == ["model_rejected", "model_bad_response"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: ScriptedServer, backend: OpenAIBackend, status: int) -> None:
    # The key and the prompt were meant for the endpoint alone.
    server.replies(Reply(status, headers={"Location": f"{server.url}/elsewhere"}))
    assert failure(backend, claim(server, secret_arn="arn:key")).code == "model_bad_response"
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [201, 202, 204])
def test_other_successes_are_no_answers(server: ScriptedServer, backend: OpenAIBackend, status: int) -> None:
    server.replies(Reply(status, b"" if status == 204 else answer()))
    assert failure(backend, claim(server)).code == "model_bad_response"


# Retry-After ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 504])
def test_retry_after_in_seconds_is_passed_on(server: ScriptedServer, backend: OpenAIBackend, status: int) -> None:
    server.replies(Reply(status, headers={"Retry-After": "17"}))
    assert failure(backend, claim(server)).retry_after == 17


def test_retry_after_as_a_date_is_passed_on(server: ScriptedServer, backend: OpenAIBackend) -> None:
    when = dt.datetime.now(dt.UTC) + dt.timedelta(hours=10)
    server.replies(Reply(429, headers={"Retry-After": format_datetime(when, usegmt=True)}))
    # An hour of tolerance: it is the unit and the zone that could be wrong.
    assert failure(backend, claim(server)).retry_after == pytest.approx(36_000, abs=3600)


def test_retry_after_in_the_past_is_now(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(Reply(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}))
    assert failure(backend, claim(server)).retry_after == 0


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "1.5", "5, 10", "1e3", "NaN", "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"]
)
def test_a_retry_after_that_makes_no_sense_is_none(server: ScriptedServer, backend: OpenAIBackend, value: str) -> None:
    server.replies(Reply(429, headers={"Retry-After": value}))
    error = failure(backend, claim(server))
    assert (error.code, error.retry_after) == ("model_throttled", None)


@given(
    st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ ([+-]\d+|[A-Z]{3})", fullmatch=True)
)
def test_whatever_retry_after_says_it_is_none_or_no_less_than_zero(value: str) -> None:
    seconds = _retry_after(value)
    assert seconds is None or seconds >= 0


# Answers that are none ------------------------------------------------------------------------------------------------


def deep(opening: bytes) -> bytes:
    """Nested further than Python reads."""
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
        json.dumps({"choices": [{"text": WORDS}]}).encode(),
        json.dumps({"choices": [{"message": WORDS}]}).encode(),
        json.dumps({"choices": [{"message": {}}]}).encode(),
        json.dumps({"detail": PROMPT}).encode(),
    ],
)
def test_an_answer_of_another_shape_is_not_understood(
    server: ScriptedServer, backend: OpenAIBackend, body: bytes
) -> None:
    server.replies(Reply(body=body), GOOD)
    assert failure(backend, claim(server)).code == "model_bad_response"
    assert backend.complete(claim(server), PATIENT) == COMPLETION


@pytest.mark.parametrize("content", [5, True, [{"type": "text", "text": WORDS}], {"text": WORDS}])
def test_content_that_is_no_text_is_not_understood(
    server: ScriptedServer, backend: OpenAIBackend, content: Any
) -> None:
    server.replies(Reply(body=answer(content)))
    assert failure(backend, claim(server)).code == "model_bad_response"


@pytest.mark.parametrize("count", [None, -1, True, 2**30, 2**64, 7.0, 7.5, "7", [], {}])
@pytest.mark.parametrize("member", ["prompt_tokens", "completion_tokens"])
def test_no_books_are_kept_with_a_strange_count(
    server: ScriptedServer, backend: OpenAIBackend, member: str, count: Any
) -> None:
    server.replies(Reply(body=answer(usage={"prompt_tokens": 1, "completion_tokens": 1} | {member: count})))
    error = failure(backend, claim(server))
    assert error.code == "model_usage_missing"
    # The model would be paid again, and say no more the second time.
    assert not error.is_transient


@pytest.mark.parametrize("usage", [None, [], "7", 7, {}, {"total_tokens": 7}, {"prompt_tokens": 7}])
def test_without_usage_there_is_no_result(server: ScriptedServer, backend: OpenAIBackend, usage: Any) -> None:
    server.replies(Reply(body=answer(usage=usage)))
    assert failure(backend, claim(server)).code == "model_usage_missing"


@pytest.mark.parametrize(("prompt", "completion"), [(0, 0), (2**30 - 1, 2**30 - 1)])
def test_counts_at_the_edges_are_taken(
    server: ScriptedServer, backend: OpenAIBackend, prompt: int, completion: int
) -> None:
    server.replies(Reply(body=answer(usage={"prompt_tokens": prompt, "completion_tokens": completion})))
    assert backend.complete(claim(server), PATIENT) == Completion(WORDS, prompt, completion)


# Answers without end --------------------------------------------------------------------------------------------------


def endless(exchange: Exchange) -> None:
    exchange.write(head(200, {"Transfer-Encoding": "chunked"}))
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    # Far beyond what is accepted; then it ends well, so that a client without a limit is found out.
    for _ in range(100):
        exchange.write(piece)
    exchange.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(ENCODED), ENCODED))


def bomb(exchange: Exchange) -> None:
    Reply(body=gzip.compress(b" " * 50_000_000 + ENCODED), headers={"Content-Encoding": "gzip"})(exchange)


@pytest.mark.parametrize("reply", [endless, bomb])
def test_an_answer_without_end_is_left_alone_and_the_next_call_works(
    server: ScriptedServer, backend: OpenAIBackend, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply, GOOD)
    assert failure(backend, claim(server)).code == "result_too_large"
    assert backend.complete(claim(server), PATIENT) == COMPLETION


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a model")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedServer(context) as running:
        yield running


def test_https_works_like_http(
    tls_server: ScriptedServer, backend: OpenAIBackend, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls_server.replies(GOOD, dripping_head, dripping_body, GOOD, GOOD)
    assert backend.complete(claim(tls_server), PATIENT) == COMPLETION
    assert [failure(backend, claim(tls_server), IMPATIENT).code for _ in range(2)] == ["model_timeout"] * 2
    assert [backend.complete(claim(tls_server), PATIENT) for _ in range(2)] == [COMPLETION] * 2
    assert tls_server.received[-1].client == tls_server.received[-2].client


def test_a_certificate_that_nobody_vouches_for_ends_the_call_before_anything_is_sent(
    tls_server: ScriptedServer, backend: OpenAIBackend
) -> None:
    assert failure(backend, claim(tls_server, secret_arn="arn:key")).code == "model_unavailable"
    assert tls_server.received == []
