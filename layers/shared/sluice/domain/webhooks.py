"""Webhooks by the rules of the Standard Webhooks: what is sent, how it is signed, and where to."""

import base64
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

EVENT_TYPES: Final = (
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
)
"""What happens, in the words of OpenAI's events: a request of any API is a response."""
EventState = Literal["pending", "delivered", "dead"]
"""Of an event: to be sent (again), sent, or given up."""
DisabledReason = Literal["gone", "user", "operator"]
"""Why an endpoint is disabled; gone: it answered 410."""
# What a name's last label must not look like: such hosts are read as an IPv4 address in decimal, octal or hexadecimal.
_NUMERIC: Final = re.compile(r"(0x[0-9a-f]*|\d+)\.?", re.ASCII | re.IGNORECASE)
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII | re.IGNORECASE)
_ENDPOINT: Final = re.compile("we_([0-9a-f]{32})", re.ASCII)
_EVENT: Final = re.compile("evt_([0-9a-f]{32})", re.ASCII)
_PRINTABLE: Final = re.compile(r"[!-~]+", re.ASCII)


@dataclass(frozen=True)
class WebhookClaim:
    """An event that is to be sent now.

    Attributes:
        attempt: the fencing token of this claim.
        data_id: the id by which the client knows its request.
        secret, old_secret: sign it; the old one only while it still counts.
        claimed_at: the timestamp of this attempt.
    """

    event_id: UUID
    attempt: int
    endpoint_id: UUID
    url: str = field(repr=False)
    event_type: str
    data_id: str
    created_at: datetime
    secret: str = field(repr=False)
    old_secret: str | None = field(repr=False)
    claimed_at: datetime


@dataclass(frozen=True)
class WebhookOutcome:
    """What became of an attempt to send an event.

    Attributes:
        status_code: that the receiver answered; None: none.
        cause: why it failed; None: it was delivered; released: it was not sent.
        retry_after: seconds that the receiver asked for.
    """

    event_id: UUID
    attempt: int
    status_code: int | None = None
    cause: str | None = None
    latency_ms: int | None = None
    retry_after: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "event_id": str(self.event_id)}


def endpoint_name(endpoint_id: UUID) -> str:
    """The id of an endpoint as people see it."""
    return f"we_{endpoint_id.hex}"


def endpoint_of(name: str) -> UUID | None:
    """The endpoint that an id names; None if it is none."""
    found = _ENDPOINT.fullmatch(name)
    return UUID(found[1]) if found else None


def event_of(name: str) -> UUID | None:
    """The event that an id names; None if it is none."""
    found = _EVENT.fullmatch(name)
    return UUID(found[1]) if found else None


def message_id(event_id: UUID) -> str:
    """The id of an event, the same in every attempt."""
    return f"evt_{event_id.hex}"


def message(claim: WebhookClaim) -> tuple[dict[str, str], str]:
    """The headers and the body of an attempt. The body is the same in each, the timestamp is not."""
    event_id = message_id(claim.event_id)
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(claim.created_at.timestamp()),
        "type": claim.event_type,
        "data": {"id": claim.data_id},
    }
    body = json.dumps(event, separators=(",", ":"))
    timestamp = int(claim.claimed_at.timestamp())
    secrets = [claim.secret] + ([claim.old_secret] if claim.old_secret else [])
    headers = {
        "content-type": "application/json",
        "user-agent": "Sluice-Webhooks/1",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(each, event_id, timestamp, body) for each in secrets),
    }
    return headers, body


def signature(secret: str, event_id: str, timestamp: int, body: str) -> str:
    """One signature of the Standard Webhooks: HMAC-SHA256 over id, timestamp and body.

    Args:
        secret: base64, with or without the prefix whsec_.
        timestamp: in seconds since 1970.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{event_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def check_url(url: str, *, loopback: bool) -> SplitResult:
    """The parts of an URL to which webhooks may be sent, as far as its form says that.

    What its name resolves to is looked at when something is sent.

    Args:
        loopback: http to this machine is allowed, as on the local stack.

    Raises:
        ValueError: it may not be used; says why without quoting it.
    """
    if not _PRINTABLE.fullmatch(url):
        raise ValueError("must be ASCII without spaces: write other names in Punycode, other characters as %XX")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not an URL") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or a password")
    if parts.fragment or url.endswith("#"):
        raise ValueError("must not have a fragment")
    if port == 0 or "\\" in url:
        raise ValueError("is not an URL")
    address = literal_address(host)
    if address is None and not _NAME.fullmatch(host):
        raise ValueError("needs the name or the address of a host")
    if address is None and _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise ValueError("must write an IPv4 address as four decimal numbers")
    if loopback and is_loopback(host):
        if parts.scheme not in ("http", "https"):
            raise ValueError("must begin with http:// or https://")
    elif parts.scheme != "https":
        raise ValueError("must begin with https://")
    elif is_loopback(host) or (address is not None and not is_public(address)):
        raise ValueError("must not lead to a private, local or reserved address")
    return parts


def literal_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or its address."""
    address = literal_address(host)
    if address is None:
        return host.rstrip(".").lower() == "localhost" or host.rstrip(".").lower().endswith(".localhost")
    return address.is_loopback


# Everything in IANA's registries of special-purpose addresses that is not for everybody. Written down here, because
# what ipaddress.is_global says differs between versions of Python.
_SPECIAL_V4: Final = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Of IPv6, only what is given out (2000::/3), without what leads to an IPv4 address in another way: Teredo (in
# 2001::/23) and 6to4. Mapped addresses (::ffff:0:0/96) and NAT64 (64:ff9b::/96) are not in 2000::/3 anyway.
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    ipaddress.IPv6Network(each)
    for each in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one that anybody on the internet can reach."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address.scope_id is None and address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def outcome_of(claim: WebhookClaim, answer: Mapping[str, Any]) -> WebhookOutcome:
    """What the function that sends says about an attempt.

    Args:
        answer: status_code, cause, latency_ms, retry_after, each of which may be missing.
    """
    return WebhookOutcome(
        claim.event_id,
        claim.attempt,
        status_code=answer.get("status_code"),
        cause=answer.get("cause"),
        latency_ms=answer.get("latency_ms"),
        retry_after=answer.get("retry_after"),
    )
