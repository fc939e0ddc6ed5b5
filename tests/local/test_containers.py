"""What listens where containers of this machine reach it."""

import gc
import socket
from collections.abc import Iterator

import pytest

from local.__main__ import main
from local.containers import Forwarder, bridge_address
from local.errors import LocalError
from local.ports import free_port

ADDRESS = "127.0.0.2"
"""Another address of this machine; on Linux all of 127.0.0.0/8 are."""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_connections_are_passed_on_and_back(server: socket.socket) -> None:
    port = server.getsockname()[1]
    forwarder = Forwarder(ADDRESS)
    forwarder.start([port])
    try:
        with socket.create_connection((ADDRESS, port)) as client:
            there, _ = server.accept()
            with there:
                client.sendall(b"question")
                assert there.recv(100) == b"question"
                there.sendall(b"x" * 1_000_000)
                there.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: client.recv(65536), b""))
                assert received == b"x" * 1_000_000
    finally:
        forwarder.stop()
        forwarder.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ADDRESS, port))


def test_stopping_closes_what_is_open(server: socket.socket) -> None:
    port = server.getsockname()[1]
    forwarder = Forwarder(ADDRESS)
    forwarder.start([port])
    with socket.create_connection((ADDRESS, port)) as client:
        there, _ = server.accept()
        with there:
            forwarder.stop()
            assert client.recv(1) == b""
            assert there.recv(1) == b""


def test_a_server_that_is_gone_ends_the_connection() -> None:
    port = free_port()
    forwarder = Forwarder(ADDRESS)
    forwarder.start([port])
    try:
        with socket.create_connection((ADDRESS, port)) as client:
            assert client.recv(1) == b""
    finally:
        forwarder.stop()


def test_an_address_of_another_machine_is_refused() -> None:
    forwarder = Forwarder("192.0.2.1")
    with pytest.raises(LocalError, match=r"192\.0\.2\.1 .*--containers ADDRESS"):
        forwarder.start([free_port()])
    forwarder.stop()


def test_a_port_that_is_taken_is_refused_and_the_others_are_free_again() -> None:
    with socket.create_server((ADDRESS, 0)) as taken:
        other = free_port()
        with pytest.raises(LocalError, match="in use"):
            Forwarder(ADDRESS).start([other, taken.getsockname()[1]])
        socket.create_server((ADDRESS, other)).close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client leaves its socket open
def test_without_an_engine_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(LocalError, match=r"No container engine answers: .*--containers ADDRESS"):
        bridge_address()
    gc.collect()


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "here", "::1", "300.1.1.1"])
def test_what_is_no_address_of_containers_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["run", "--containers", address])
    assert refused.value.code == 2
    assert "--containers" in capsys.readouterr().err
