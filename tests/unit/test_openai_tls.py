"""The OpenAI-compatible backend over TLS."""

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sluice.backends.openai import OpenAIBackend
from tests.support.openai_backend import (
    COMPLETION,
    GOOD,
    IMPATIENT,
    PATIENT,
    claim,
    dripping_body,
    dripping_head,
    failure,
)
from tests.unit.scripted_server import ScriptedServer


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
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


def test_nothing_is_sent_if_the_certificate_is_not_trusted(tls_server: ScriptedServer, backend: OpenAIBackend) -> None:
    assert failure(backend, claim(tls_server, secret_arn="arn:key")).code == "model_misconfigured"
    assert tls_server.received == []


def test_https_to_a_server_without_it_is_the_operators_fault(server: ScriptedServer, backend: OpenAIBackend) -> None:
    endpoint = server.url.replace("http://", "https://")
    assert failure(backend, claim(server, endpoint=endpoint)).code == "model_misconfigured"
