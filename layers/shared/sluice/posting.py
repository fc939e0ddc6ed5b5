"""Sending a webhook to an address that its receiver chose: nothing but a public one is ever connected to."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import SplitResult

from sluice.backends.deadline import until
from sluice.backends.pauses import seconds_of
from sluice.domain.webhooks import check_url, is_loopback, is_public

POST_SECONDS: Final = 15.0
"""The longest that an attempt takes, from resolving the name to the head of the answer."""
_CONNECT_SECONDS: Final = 5.0
# Of a name's addresses, so many are tried.
_ADDRESSES: Final = 3
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LONGEST_RETRY_SECONDS: Final = 7 * 86_400.0

Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True)
class Posted:
    """What became of an attempt.

    Attributes:
        status_code: that the receiver answered; None: none.
        cause: why it failed: status, redirect, gone, timeout, unreachable, tls, refused_address; None: delivered.
        latency_ms: from the beginning to the head of the answer.
        retry_after: seconds that the receiver asked for.
    """

    status_code: int | None = None
    cause: str | None = None
    latency_ms: int = 0
    retry_after: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _FailedError(Exception):
    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(cause)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order in which the system would try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def post(
    url: str,
    headers: Mapping[str, str],
    body: str,
    *,
    loopback: bool = False,
    resolve: Resolve = resolve,
    context: ssl.SSLContext | None = None,
    seconds: float = POST_SECONDS,
) -> Posted:
    """Send a webhook, and wait for the head of the answer; its body is not read. Raises nothing.

    The name is resolved once, and the connection is made to an address that was looked at: a name that resolves to
    something else a moment later changes nothing. No redirect is followed.

    Args:
        loopback: http to this machine is allowed, as on the local stack.
        context: of TLS; None: the system's certificates.
        seconds: the longest that all of it may take.
    """
    began = time.monotonic()
    status, cause, retry_after = None, None, None
    try:
        status, retry_after = _exchange(url, headers, body, began + seconds, loopback, resolve, context)
        cause = _cause(status)
    except _FailedError as error:
        cause = error.cause
    return Posted(status, cause, round((time.monotonic() - began) * 1000), retry_after)


def _cause(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if status == 410:
        return "gone"
    return "redirect" if 300 <= status < 400 else "status"


def _exchange(
    url: str,
    headers: Mapping[str, str],
    body: str,
    deadline: float,
    loopback: bool,
    resolve: Resolve,
    context: ssl.SSLContext | None,
) -> tuple[int, float | None]:
    """Status and Retry-After of the answer."""
    try:
        parts = check_url(url, loopback=loopback)
    except ValueError:
        raise _FailedError("refused_address") from None
    host, port = str(parts.hostname), parts.port or _DEFAULT_PORTS[parts.scheme]
    addresses = _public(host, _within(deadline, lambda: resolve(host, port)), loopback)
    raw = _connected(addresses, port, deadline)
    sock: socket.socket = raw
    try:
        with until(deadline, lambda: sock.shutdown(socket.SHUT_RDWR)):
            raw.settimeout(max(0.1, deadline - time.monotonic()))
            if parts.scheme == "https":
                secured = (context or ssl.create_default_context()).wrap_socket(
                    raw, server_hostname=host, do_handshake_on_connect=False
                )
                sock = secured
                secured.do_handshake()
            return _ask(sock, parts, headers, body)
    except ssl.SSLError as error:
        raise _FailedError("timeout" if isinstance(error, TimeoutError) else "tls") from None
    except TimeoutError:
        raise _FailedError("timeout") from None
    except (HTTPException, OSError, ValueError):
        raise _FailedError("unreachable") from None
    finally:
        sock.close()


def _ask(sock: socket.socket, parts: SplitResult, headers: Mapping[str, str], body: str) -> tuple[int, float | None]:
    # http.client bounds the head of an answer: a hundred headers, each of 64 KiB at most.
    connection = HTTPConnection("")
    connection.sock = sock
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("POST", target, body.encode(), {"Host": parts.netloc, "Connection": "close", **headers})
    answer = connection.getresponse()
    retry_after = seconds_of(answer.headers.get("retry-after") or "")
    return answer.status, None if retry_after is None else min(retry_after, _LONGEST_RETRY_SECONDS)


def _public(host: str, addresses: Sequence[str], loopback: bool) -> Sequence[str]:
    """The addresses, if all of them may be connected to: a name with a private one beside it is a trap."""
    try:
        found = [ipaddress.ip_address(address) for address in addresses]
    except ValueError:
        raise _FailedError("refused_address") from None
    if loopback and is_loopback(host):
        allowed = all(address.is_loopback for address in found)
    else:
        allowed = all(is_public(address) for address in found)
    if not found:
        raise _FailedError("unreachable")
    if not allowed:
        raise _FailedError("refused_address")
    return addresses[:_ADDRESSES]


def _within(deadline: float, work: Callable[[], Sequence[str]]) -> Sequence[str]:
    """What work returns, if that is before the deadline. The system's resolver has no timeout of its own."""
    result: list[Sequence[str]] = []

    def run() -> None:
        try:
            result.append(work())
        except (OSError, UnicodeError):
            result.append([])

    thread = threading.Thread(target=run, daemon=True, name="resolve")
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not result:
        raise _FailedError("timeout")
    return result[0]


def _connected(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    timed_out = False
    for address in addresses:
        left = min(_CONNECT_SECONDS, deadline - time.monotonic())
        if left <= 0:
            break
        try:
            return socket.create_connection((address, port), timeout=left)
        except TimeoutError:
            timed_out = True
        except OSError:
            timed_out = False
    raise _FailedError("timeout" if timed_out else "unreachable")
