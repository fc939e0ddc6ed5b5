"""TCP ports of 127.0.0.1, the only address that the servers of the stack listen on."""

import socket

from local.errors import LocalError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1.

    Another process may take it before the caller binds it; the caller must be prepared to try another one.
    """
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def port_in_use(port: int) -> bool:
    """Return True if a port of 127.0.0.1 is in use."""
    with socket.socket() as probe:
        # As servers do, so that connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def claim_port(requested: int | None, purpose: str, option: str) -> int:
    """Return the requested port, or a free one if none was requested.

    Args:
        requested: the port, or None.
        purpose: for the error message, as in "the API".
        option: for the error message, as in "--api-port".

    Raises:
        LocalError: the requested port is invalid or in use.
    """
    if requested is None:
        return free_port()
    if not 0 < requested < 65536:
        raise LocalError(f"{option} {requested} is not a port: give a number from 1 to 65535.")
    if port_in_use(requested):
        raise LocalError(
            f"Port {requested}, asked for by {option} for {purpose}, is in use: stop what listens there, "
            f"give another port, or leave {option} out for a free one."
        )
    return requested
