"""HTTP whose timeouts bound a whole answer: a socket's own timeout restarts with every byte that arrives."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

import urllib3
from urllib3 import connection, exceptions


@contextmanager
def until(deadline: float, shut_down: Callable[[], object]) -> Iterator[None]:
    """End reading at a deadline, however steadily bytes arrive.

    Args:
        deadline: on the monotonic clock, in seconds.
        shut_down: makes the read fail at once.

    Raises:
        TimeoutError: it had not finished by then.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        # It finished in the same moment, or the other side is gone: nothing is left to end.
        with suppress(OSError, ValueError, RuntimeError):
            shut_down()

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (HTTPException, exceptions.HTTPError, OSError):
        if not expired.is_set():
            raise
    finally:
        timer.cancel()
        # From here on another call may use the connection.
        timer.join()
    if expired.is_set():
        raise TimeoutError


class _Connection(connection.HTTPConnection):
    """Waits for the head of an answer no longer than its timeout in total."""

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 overrides it
        sock, seconds = self.sock, self.timeout
        with until(time.monotonic() + (seconds or 0.0), lambda: sock.shutdown(socket.SHUT_RDWR)):
            return super().getresponse()


class _TLSConnection(_Connection, connection.HTTPSConnection):
    pass


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class DeadlinePoolManager(urllib3.PoolManager):
    """A pool manager whose read timeout covers all of an answer's head; for its body see until()."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
