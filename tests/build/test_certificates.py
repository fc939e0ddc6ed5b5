"""The certificates that the layer ships are usable for their purpose."""

import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

BUNDLE = Path(__file__).parents[2] / "layers" / "shared" / "certs" / "rds-ca.pem"
CERTIFICATES = x509.load_pem_x509_certificates(BUNDLE.read_bytes())


def name(certificate: x509.Certificate) -> str:
    (attribute,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(attribute.value)


@pytest.mark.parametrize("certificate", CERTIFICATES, ids=name)
def test_certificate_is_a_self_signed_authority_valid_for_years(certificate: x509.Certificate) -> None:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3 * 365)


def test_bundle_names_its_certificates_correctly() -> None:
    text = BUNDLE.read_text()
    stated = re.findall(r"^# (.*?)(?: \(RDS Proxy\))?, valid until (\S+)\n-----BEGIN", text, re.MULTILINE)
    assert stated == [(name(each), f"{each.not_valid_after_utc:%Y-%m-%d}") for each in CERTIFICATES]


def test_bundle_covers_rds_and_its_proxy() -> None:
    names = [name(certificate) for certificate in CERTIFICATES]
    assert len(names) == len(set(names))
    assert "Amazon Root CA 1" in names
    for region in ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-southeast-2", "ap-northeast-1"):
        assert f"Amazon RDS {region} Root CA RSA2048 G1" in names


def test_openssl_loads_the_whole_bundle() -> None:
    context = ssl.create_default_context(cafile=str(BUNDLE))
    assert context.cert_store_stats()["x509_ca"] == len(CERTIFICATES)
