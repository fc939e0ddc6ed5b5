"""The stack ignores the caller's AWS configuration, so it can never deploy into a real account."""

from pathlib import Path

import pytest

from local.environment import architecture, aws_client, aws_variables, child_environment
from local.errors import LocalError

REAL = {
    "AWS_PROFILE": "production",
    "AWS_ACCESS_KEY_ID": "AKIAREAL",
    "AWS_SECRET_ACCESS_KEY": "real",
    "AWS_SESSION_TOKEN": "real",
    "AWS_ENDPOINT_URL": "https://example.com",
    "AWS_ENDPOINT_URL_LAMBDA": "https://example.com",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.2/",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/token",
    "SAM_CLI_TELEMETRY": "real",
}


@pytest.fixture(autouse=True)
def real_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in REAL.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[profile other]\nregion = eu-west-1\n")
    monkeypatch.setenv("HOME", str(tmp_path))


def test_child_environment_has_no_aws_variables() -> None:
    assert not [name for name in child_environment() if name.startswith(("AWS_", "SAM_"))]


def test_aws_variables_point_to_the_emulator() -> None:
    variables = child_environment(**aws_variables("http://127.0.0.1:1"))
    assert not set(REAL.values()) & set(variables.values())
    assert variables["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert variables["AWS_CONFIG_FILE"] == variables["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"


def test_client_ignores_the_profile() -> None:
    client = aws_client("lambda", "http://127.0.0.1:1")
    assert client.meta.endpoint_url == "http://127.0.0.1:1"
    assert client._request_signer._credentials.access_key == "local"


def test_loopback_bypasses_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "intranet")
    variables = child_environment()
    assert variables["HTTPS_PROXY"] == "http://proxy:3128"
    assert variables["NO_PROXY"] == variables["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_empty_home_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert "HOME" not in child_environment()


@pytest.mark.parametrize(("machine", "expected"), [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("aarch64", "arm64")])
def test_architecture_uses_the_names_of_lambda(monkeypatch: pytest.MonkeyPatch, machine: str, expected: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert architecture() == expected


def test_unsupported_processor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(LocalError, match="riscv64"):
        architecture()
