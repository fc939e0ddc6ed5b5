"""How much of the workers requests with a completion window may use, as the database knows it."""

from typing import Final

from sluice.db.connection import Connection

# Messages that a worker takes at once: the template's BatchSize.
BATCH: Final = 10

_UPDATE: Final = "UPDATE sluice.dispatch_capacity SET waiting_room = %(room)s WHERE waiting_room <> %(room)s"


def waiting_room(worker: int) -> int:
    """Half of what so many workers can take at once, and at least one."""
    return max(1, worker * BATCH // 2)


def set_waiting_room(connection: Connection, *, worker: int) -> None:
    """Write it for the functions of the database, as the owner.

    Args:
        worker: how many workers may run at once.

    Raises:
        psycopg.Error: the owner may not write there.
    """
    connection.execute(_UPDATE, {"room": waiting_room(worker)})
