"""Webhooks by the rules: signatures, URLs, and which addresses are public."""

import ipaddress
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.webhooks import (
    WebhookClaim,
    check_url,
    endpoint_name,
    endpoint_of,
    event_of,
    is_public,
    message,
    message_id,
    signature,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
def test_a_signature_is_that_of_the_standards_example(secret: str) -> None:
    signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def claim(**changes: object) -> WebhookClaim:
    at = datetime(2031, 1, 1, tzinfo=UTC)
    given = {
        "event_id": UUID("01a209c5-cf43-7b5f-8f22-667403834749"),
        "attempt": 1,
        "endpoint_id": uuid4(),
        "url": "https://example.com/?token=hunter2",
        "event_type": "response.completed",
        "data_id": "resp_1",
        "created_at": at,
        "secret": SECRET,
        "old_secret": None,
        "claimed_at": at,
    }
    return WebhookClaim(**(given | changes))  # type: ignore[arg-type]


def test_the_body_is_the_same_in_every_attempt_and_the_timestamp_is_not() -> None:
    first, body = message(claim())
    later, again = message(claim(attempt=2, claimed_at=datetime(2031, 1, 1, 1, tzinfo=UTC)))
    assert body == again
    assert first["webhook-id"] == later["webhook-id"] == "evt_01a209c5cf437b5f8f22667403834749"
    assert int(later["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 3600
    assert first["webhook-signature"] != later["webhook-signature"]


def test_while_a_secret_is_rotated_both_sign() -> None:
    headers, _ = message(claim(old_secret="whsec_" + "A" * 32))
    assert len(headers["webhook-signature"].split(" ")) == 2


def test_a_claim_shows_neither_secret_nor_url() -> None:
    shown = repr(claim(old_secret="whsec_old"))
    assert "whsec" not in shown
    assert "hunter2" not in shown


@given(st.uuids())
def test_ids_are_read_as_they_are_written(one: UUID) -> None:
    assert endpoint_of(endpoint_name(one)) == one
    assert event_of(message_id(one)) == one
    assert endpoint_of(message_id(one)) is None
    assert event_of(endpoint_name(one)) is None


# URLs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hooks?a=b%20c",
        "https://example.com:8443/",
        "https://xn--bcher-kva.example/",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]/hooks",
        "https://a_b.example.com./",
    ],
)
def test_an_url_on_the_internet_is_taken(url: str) -> None:
    assert check_url(url, loopback=False).scheme == "https"
    assert check_url(url, loopback=True).scheme == "https"


REFUSED = [
    "http://example.com/",
    "ftp://example.com/",
    "example.com/hooks",
    "//example.com/",
    "https://",
    "https:///hooks",
    "https://user@example.com/",
    "https://user:secret@example.com/",
    "https://example.com/#part",
    "https://example.com/#",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://bücher.example/",
    "https://example.com/a b",
    "https://example.com\\@10.0.0.1/",
    "https://-a.example/",
    "https://a..example/",
    # This machine, private networks, metadata.
    "https://localhost/",
    "https://LOCALHOST./",
    "https://a.localhost/",
    "https://127.0.0.1/",
    "https://127.8.8.8/",
    "https://0.0.0.0/",
    "https://10.1.2.3/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.170.2/",
    "https://100.64.0.1/",
    "https://192.0.0.192/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    # IPv4 in other forms.
    "https://2130706433/",
    "https://0177.0.0.1/",
    "https://0x7f.0.0.1/",
    "https://0x7f000001/",
    "https://127.1/",
    "https://127.0.1/",
    "https://017700000001/",
    "https://example.com.0x10/",
    "https://1.2.3.4.5/",
    # IPv6, and IPv4 in it.
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:7f00:1::]/",
    "https://[2001:db8::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "https://[fec0::1]/",
    "https://[3fff::1]/",
]


@pytest.mark.parametrize("url", REFUSED)
def test_an_url_that_leads_elsewhere_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|needs|is not) ") as caught:
        check_url(url, loopback=False)
    assert url not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/", "http://localhost:8000/a", "http://[::1]/"])
def test_http_to_this_machine_is_for_the_local_stack(url: str) -> None:
    assert check_url(url, loopback=True).scheme == "http"
    with pytest.raises(ValueError, match="https"):
        check_url(url, loopback=False)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "https://10.0.0.1/", "http://example.com/", "https://169.254.169.254/"]
)
def test_the_local_stack_reaches_no_private_network_either(url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_url(url, loopback=True)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_public_inside_ipv6(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for inside in (
        ipaddress.IPv6Address(0xFFFF << 32 | number),  # mapped
        ipaddress.IPv6Address(number),  # compatible
        ipaddress.IPv6Address(0x64FF9B << 96 | number),  # NAT64
        ipaddress.IPv6Address(0x2002 << 112 | number << 80),  # 6to4
        ipaddress.IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF),  # Teredo
    ):
        assert not is_public(inside), inside


@given(st.ip_addresses())
def test_what_python_knows_to_be_special_is_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        # 192.0.0.9 and 192.0.0.10 are anycast addresses, which nothing here needs to reach.
        assert not is_public(address)
