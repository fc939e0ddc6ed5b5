"""TCP ports of 127.0.0.1: everything in the stack listens there and nowhere else."""

import socket

from local.errors import LocalError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listened on a moment ago.

    Another process may take it before its user binds it; who starts a server on it must be ready to try another.
    """
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def port_in_use(port: int) -> bool:
    """Whether binding `port` on 127.0.0.1 would fail because somebody has it."""
    with socket.socket() as probe:
        # As servers do, so that a connection lingering in TIME_WAIT does not count as somebody.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def claim_port(requested: int | None, purpose: str, option: str) -> int:
    """`requested` if it is free, or a free port if none was asked for.

    `purpose` ("the API") and `option` ("--api-port") make the sentence of the LocalError raised otherwise.
    """
    if requested is None:
        return free_port()
    if not 0 < requested < 65536:
        raise LocalError(f"{option} {requested} is no port: give a number from 1 to 65535.")
    if port_in_use(requested):
        raise LocalError(
            f"Port {requested}, asked for by {option} for {purpose}, is in use: stop what listens there, "
            f"give another port, or leave {option} out for a free one."
        )
    return requested
