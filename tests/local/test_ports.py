"""Ports: free ones are found; a port in use is an error that says what to do."""

import pytest

from local.errors import LocalError
from local.ports import claim_port, free_port, port_in_use


def test_free_port_is_not_in_use() -> None:
    assert not port_in_use(free_port())


def test_requested_port_is_used_if_free() -> None:
    port = free_port()
    assert claim_port(port, "the API", "--api-port") == port


def test_requested_port_in_use_is_an_error(busy_port: int) -> None:
    assert port_in_use(busy_port)
    with pytest.raises(LocalError, match=rf"^Port {busy_port}, asked for by --api-port for the API, is in use"):
        claim_port(busy_port, "the API", "--api-port")


@pytest.mark.parametrize("number", [-1, 0, 65536])
def test_invalid_port_number_is_an_error(number: int) -> None:
    with pytest.raises(LocalError, match="is not a port"):
        claim_port(number, "the API", "--api-port")
