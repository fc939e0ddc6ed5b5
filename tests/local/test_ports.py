"""Ports: free ones are found; a port in use is an error that says what to do."""

from pathlib import Path

import pytest

from local.__main__ import main
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


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", " 1", "1e3", "nan", "\u0663", "\uff11", "9" * 6, "9" * 5000])
def test_a_port_is_written_in_ascii_digits(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", f"--api-port={text}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is not a port: give a number from 1 to 65535" in said
    assert len(said) < 200


@pytest.mark.parametrize("text", ["0", "65536", "99999"])
def test_a_port_is_in_range(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--state", str(tmp_path), f"--api-port={text}"]) == 1
    assert f"--api-port {text} is not a port" in capsys.readouterr().err
