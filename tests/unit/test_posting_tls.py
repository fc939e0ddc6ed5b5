"""Webhooks over TLS: the certificate is that of the name, whatever address the connection goes to."""

import datetime as dt
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sluice.posting import Posted, post
from tests.support.receiver import Receiver, receiving

HEADERS = {"webhook-id": "evt_1"}


def certificate(folder: Path, name: str) -> Path:
    """A certificate of its own authority for a name, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def asked() -> list[str | None]:
    """The names that clients asked for (SNI)."""
    return []


@pytest.fixture
def receiver(tmp_path: Path, asked: list[str | None]) -> Iterator[Receiver]:
    with receiving() as made:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(tmp_path, "localhost"))
        context.sni_callback = lambda sock, name, context: asked.append(name)
        made.server.socket = context.wrap_socket(made.server.socket, server_side=True, do_handshake_on_connect=False)
        yield made


def send(receiver: Receiver, host: str, trusted: Path | None) -> Posted:
    url = f"https://{host}:{receiver.server.server_port}/hooks"
    context = ssl.create_default_context(cafile=None if trusted is None else str(trusted))
    return post(url, HEADERS, "{}", loopback=True, resolve=lambda *_: ["127.0.0.1"], context=context, seconds=3.0)


def test_the_name_is_asked_for_and_its_certificate_verified(
    receiver: Receiver, tmp_path: Path, asked: list[str | None]
) -> None:
    posted = send(receiver, "localhost", tmp_path / "localhost.pem")
    assert (posted.status_code, posted.cause) == (200, None)
    assert asked == ["localhost"]
    (call,) = receiver.received
    assert call.headers["host"] == f"localhost:{receiver.server.server_port}"


def test_a_certificate_for_another_name_or_of_nobody_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    assert send(receiver, "other.localhost", tmp_path / "localhost.pem").cause == "tls"
    assert send(receiver, "127.0.0.1", tmp_path / "localhost.pem").cause == "tls"
    assert send(receiver, "localhost", certificate(tmp_path, "stranger")).cause == "tls"
    assert send(receiver, "localhost", None).cause == "tls"
    assert receiver.received == []
