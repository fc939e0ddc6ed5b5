"""How many connections each database role may have, so that every one of them and the owner always get theirs."""

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from sluice.db.connection import Connection
from sluice.db.migrate import LOCK

# Connections that no function may have: for the server itself, people with psql, and logins that are being refused.
RESERVE: Final = 16
# The migration logs in as the owner, whose connections are not limited.
OWNER_CONNECTIONS: Final = 1
# Scheduled tasks that run at once are two, and people who administer a few. The worker and rollup get twice what they
# need: after a deployment, the environments of the previous version keep theirs until they have idled long enough. The
# others idle for seconds only, and their callers can try again.
ROLLUP_CONNECTIONS: Final = 4
ADMIN_CONNECTIONS: Final = 5
# Those that the queue of webhooks may have at once.
WEBHOOKS_CONNECTIONS: Final = 2
# The same of batches.
BATCHES_CONNECTIONS: Final = 2

_MAX_CONNECTIONS: Final = "SELECT current_setting('max_connections')::integer AS most"
_LIMITS: Final = "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname = ANY (%(roles)s)"


@dataclass(frozen=True)
class ConnectionLimits:
    """Connections by database role.

    Attributes:
        limits: the most that each role may have.
        wanted: what the settings ask for; more than the limits where the server is too small for it.
        max_connections: the server's own.
    """

    limits: dict[str, int]
    wanted: dict[str, int]
    max_connections: int

    @property
    def sentence(self) -> str:
        """What a person who deploys wants to know."""
        limits = ", ".join(f"{role.removeprefix('sluice_')} {limit}" for role, limit in self.limits.items())
        told = f"Connection limits: {limits}; the server has {self.max_connections}, of which {RESERVE} stay free."
        if self.limits == self.wanted:
            return told
        wanted = ", ".join(
            f"{role.removeprefix('sluice_')} {number}"
            for role, number in self.wanted.items()
            if number != self.limits[role]
        )
        return f"{told} It is too small for what the parameters ask for: {wanted}."


def connection_limits(*, submit: int, status: int, openai: int, worker: int, max_connections: int) -> ConnectionLimits:
    """Give each role its connections.

    If they are more than the server has, those whose number follows the traffic are reduced in proportion, to one at
    least.

    Args:
        submit, status, openai, worker: environments of each function that may run at once; of foreground, as many as of
            openai.
        max_connections: the server's own.
    """
    by_load = {
        "sluice_submit": submit,
        "sluice_status": status,
        "sluice_worker": 2 * worker,
        "sluice_openai": openai,
        "sluice_foreground": openai,
    }
    fixed = {
        "sluice_rollup": ROLLUP_CONNECTIONS,
        "sluice_admin": ADMIN_CONNECTIONS,
        "sluice_webhooks": WEBHOOKS_CONNECTIONS,
        "sluice_batches": BATCHES_CONNECTIONS,
    }
    left = max_connections - RESERVE - OWNER_CONNECTIONS - sum(fixed.values())
    # One for each in any case; what is beyond that is shared.
    more, room = sum(by_load.values()) - len(by_load), max(0, left - len(by_load))
    given = by_load if more <= room else {role: 1 + room * (each - 1) // more for role, each in by_load.items()}
    return ConnectionLimits(limits=given | fixed, wanted=by_load | fixed, max_connections=max_connections)


def limit_connections(
    connection: Connection, *, submit: int, status: int, openai: int, worker: int
) -> ConnectionLimits:
    """Set the limit of each role, as the owner. What is set already is not written again.

    Raises:
        psycopg.Error: the owner may not change the roles.
    """
    with connection.transaction():
        connection.execute(LOCK)
        setting = connection.execute(_MAX_CONNECTIONS).fetchone() or {}
        found = connection_limits(
            submit=submit, status=status, openai=openai, worker=worker, max_connections=setting["most"]
        )
        rows = connection.execute(_LIMITS, {"roles": list(found.limits)}).fetchall()
        present = {row["rolname"]: row["rolconnlimit"] for row in rows}
        for role, limit in found.limits.items():
            if present.get(role, limit) != limit:
                connection.execute(
                    sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(role), sql.Literal(limit))
                )
    return found
