"""Sending a webhook: to the address that was looked at, for a bounded time, and nowhere else."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pytest

from sluice.posting import Posted, post
from tests.support.receiver import Answer, Receiver, receiving

HEADERS = {"content-type": "application/json", "webhook-id": "evt_1"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def send(url: str, *, loopback: bool = True, addresses: Sequence[str] | None = None, seconds: float = 2.0) -> Posted:
    if addresses is None:
        return post(url, HEADERS, "{}", loopback=loopback, seconds=seconds)
    return post(url, HEADERS, "{}", loopback=loopback, resolve=lambda host, port: addresses, seconds=seconds)


def test_what_is_sent_arrives(receiver: Receiver) -> None:
    posted = send(f"{receiver.url}/a/b?c=d")
    assert (posted.status_code, posted.cause, posted.retry_after) == (200, None, None)
    (call,) = receiver.received
    assert (call.path, call.body, call.headers["webhook-id"]) == ("/a/b?c=d", "{}", "evt_1")
    assert call.headers["host"] == receiver.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("answer", "cause", "retry_after"),
    [
        (Answer(204), None, None),
        (Answer(301, {"location": "http://127.0.0.1:1/"}), "redirect", None),
        (Answer(307, {"location": "http://127.0.0.1:1/"}), "redirect", None),
        (Answer(400), "status", None),
        (Answer(410), "gone", None),
        (Answer(429, {"retry-after": "7"}), "status", 7),
        (Answer(503, {"retry-after": "1000000000000"}), "status", None),
        (Answer(500, {"retry-after": "soon"}), "status", None),
    ],
)
def test_an_answer_is_read_by_its_status(
    receiver: Receiver, answer: Answer, cause: str | None, retry_after: float | None
) -> None:
    receiver.rule = lambda call: answer
    posted = send(receiver.url)
    assert (posted.status_code, posted.cause) == (answer.status, cause)
    if answer.status != 503:
        assert posted.retry_after == retry_after
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["fd00:ec2::254"],
        ["fe80::1%lo"],
        # A private one beside a public one.
        ["93.184.216.34", "127.0.0.1"],
        ["not an address"],
    ],
)
def test_a_name_that_resolves_to_what_is_not_public_is_not_connected_to(
    receiver: Receiver, addresses: Sequence[str]
) -> None:
    port = receiver.server.server_port
    for loopback in (False, True):
        posted = send(f"https://rebound.example:{port}/", loopback=loopback, addresses=addresses)
        assert (posted.status_code, posted.cause) == (None, "refused_address")
    assert receiver.received == []


def test_a_name_is_resolved_once_and_the_connection_is_to_what_was_found(receiver: Receiver) -> None:
    asked: list[str] = []

    def rebind(host: str, port: int) -> list[str]:
        asked.append(host)
        # Whoever asked again would be led to somewhere else.
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    url = f"http://localhost:{receiver.server.server_port}/"
    posted = post(url, HEADERS, "{}", loopback=True, resolve=rebind, seconds=2.0)
    assert (posted.status_code, asked) == (200, ["localhost"])


def test_this_machine_is_reached_on_the_local_stack_only(receiver: Receiver) -> None:
    assert send(receiver.url, loopback=False).cause == "refused_address"
    assert send(f"https://127.0.0.1:{receiver.server.server_port}/", loopback=False).cause == "refused_address"
    assert receiver.received == []


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    assert send("https://example.com/", addresses=[]).cause == "unreachable"


def test_a_resolver_that_hangs_is_given_up() -> None:
    released = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        released.wait(10)
        return []

    try:
        assert post("https://example.com/", HEADERS, "{}", resolve=hang, seconds=0.2).cause == "timeout"
    finally:
        released.set()


def test_what_speaks_no_tls_is_told_apart(receiver: Receiver) -> None:
    assert send(f"https://127.0.0.1:{receiver.server.server_port}/").cause == "tls"


@contextmanager
def speaking(*parts: bytes, pause: float = 0.05) -> Iterator[str]:
    """A server that says these parts, one after the other, to whoever connects."""
    stopped = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(5)

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                for part in parts:
                    if stopped.wait(pause):
                        return
                    try:
                        connection.sendall(part)
                    except OSError:
                        return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        stopped.set()
        thread.join()


def test_an_answer_that_trickles_is_given_up() -> None:
    with speaking(b"HTTP/1.1 200 OK\r\n", *(b"x: y\r\n" for _ in range(1000))) as address:
        assert send(f"http://{address}/", seconds=0.5).cause == "timeout"


def test_endless_continues_are_given_up() -> None:
    with speaking(*(b"HTTP/1.1 100 Continue\r\n\r\n" for _ in range(1000))) as address:
        assert send(f"http://{address}/", seconds=0.5).cause == "timeout"


def test_a_handshake_that_never_ends_is_given_up() -> None:
    with speaking(*(b"\x16" for _ in range(1000)), pause=0.2) as address:
        assert send(f"https://{address}/", seconds=0.5).cause in ("timeout", "tls")


def test_a_huge_head_is_no_answer() -> None:
    with speaking(b"HTTP/1.1 200 OK\r\n", *(b"x%d: y\r\n" % n for n in range(300)), pause=0) as address:
        assert send(f"http://{address}/").cause == "unreachable"
    with speaking(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, pause=0) as address:
        assert send(f"http://{address}/").cause == "unreachable"


def test_an_endless_body_is_not_waited_for() -> None:
    with speaking(b"HTTP/1.1 200 OK\r\n\r\n", *(b"z" * 1000 for _ in range(1000))) as address:
        assert send(f"http://{address}/").cause is None


def test_what_is_not_http_is_no_answer() -> None:
    with speaking(b"SSH-2.0-OpenSSH_9.9\r\n") as address:
        assert send(f"http://{address}/").cause == "unreachable"
