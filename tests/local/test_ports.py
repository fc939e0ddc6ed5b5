"""Ports: free ones are found, taken ones are named in a sentence that says what to do."""

import pytest

from local.errors import LocalError
from local.ports import claim_port, free_port, port_in_use


def test_a_free_port_can_be_bound() -> None:
    assert not port_in_use(free_port())


def test_a_port_that_was_asked_for_is_given_if_free() -> None:
    port = free_port()
    assert claim_port(port, "the API", "--api-port") == port


def test_a_port_in_use_is_refused_with_a_way_out(busy_port: int) -> None:
    assert port_in_use(busy_port)
    with pytest.raises(LocalError, match=rf"^Port {busy_port}, asked for by --api-port for the API, is in use"):
        claim_port(busy_port, "the API", "--api-port")


@pytest.mark.parametrize("number", [-1, 0, 65536])
def test_a_number_that_is_no_port_is_refused(number: int) -> None:
    with pytest.raises(LocalError, match="is no port"):
        claim_port(number, "the API", "--api-port")
