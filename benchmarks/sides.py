"""The designs that are compared, each as the same few operations on a database of its own."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import UUID

from benchmarks.server import BenchmarkServer
from sluice.db.administration import Administration
from sluice.db.connection import ASSUME_ROLE, Connection, Database
from sluice.db.ledger import Ledger
from sluice.db.maintenance import Maintenance
from sluice.db.migrate import migrate
from sluice.domain.documents import Input, Output
from sluice.domain.history import HistoryQuery
from sluice.domain.keys import digest
from sluice.domain.requests import Claim, Outcome, RequestLimits, Submission
from sluice.validation import parse_object

PROMPT = "Why is the sky blue? " * 50
"""1 kB, as every prompt here."""
ANSWER = "Because air scatters blue light more. " * 28
"""1 kB, as every answer here."""
PROMPT_TOKENS, COMPLETION_TOKENS = 250, 250
MAX_TOKENS = 512


class Side(Protocol):
    """A design that accepts, hands out and answers requests. Users are numbers from 0.

    Attributes:
        name: as in the report.
        dbname: the database that it alone uses.
    """

    name: str
    dbname: str

    def backends(self) -> Sequence[int]:
        """Process ids of the server's ends of its connections."""

    def submit(self, user: int) -> Any:
        """Accept a request with PROMPT; returns what claim() takes."""

    def claim(self, requests: Sequence[Any]) -> Any:
        """Take a batch for a worker; returns what settle() takes."""

    def settle(self, claimed: Any) -> None:
        """End a batch with ANSWER."""

    def status(self, user: int, request: Any) -> None:
        """Read an ended request and check its answer."""


class SluiceSide:
    """Sluice, through the classes that its functions use, each with its function's database role.

    Users have limits that are checked and counted, but high enough never to refuse anything.
    """

    name = "Sluice"
    limits = RequestLimits(max_prompt_bytes=100_000, longest_seconds=86_400, max_attempts=20)

    def __init__(self, server: BenchmarkServer, dbname: str, users: int = 1, *, is_new: bool = True) -> None:
        self.dbname = dbname
        self._server = server
        self._connections: list[Connection] = []
        self._databases: list[Database] = []
        if is_new:
            with server.connect(dbname) as owner:
                migrate(owner)
        self.keys = [digest(f"sluice_{user:043}") for user in range(users)]
        if is_new:
            self._add_users(Administration(self.database("admin"), None))
        self.front = Ledger(self.database("submit"))
        self.reader = Ledger(self.database("status"))
        self.worker = Ledger(self.database("worker"))
        self.maintenance = Maintenance(self.database("rollup"))

    def _add_users(self, administration: Administration) -> None:
        much = {"max_requests": 2_000_000_000, "max_tokens": 10**15}
        for number, key in enumerate(self.keys):
            user = {"user_id": user_id(number)}
            administration.run("user.create", user | {"tier": "premium"})
            administration.run(
                "key.create",
                user | {"key_hash": key.hex(), "key_prefix": "sluice_", "scopes": ["submit", "read"]},
            )
            administration.run(
                "quota.set",
                user
                | {"max_unfinished": 10**6, "dispatch_window": 10**6}
                | {"limits": dict.fromkeys(("minute", "daily", "monthly"), much)},
            )

    def database(self, role: str) -> Database:
        """Another connection, as a function's role."""

        def opener() -> Connection:
            connection = self._server.connect(self.dbname, "sluice")
            connection.execute(ASSUME_ROLE, {"role": f"sluice_{role}"})
            self._connections.append(connection)
            return connection

        database = Database(opener)
        self._databases.append(database)
        return database

    def backends(self) -> Sequence[int]:
        return [connection.info.backend_pid for connection in self._connections if not connection.closed]

    def submit(self, user: int) -> UUID:
        submission = Submission(input=Input.of_prompt(PROMPT), parameters={"max_tokens": MAX_TOKENS})
        admission = self.front.submit(self.keys[user], submission, self.limits)
        assert admission.request_id is not None, admission.outcome
        return admission.request_id

    def claim(self, requests: Sequence[UUID]) -> list[Claim]:
        claims = self.worker.claim(requests, 60)
        assert len(claims) == len(requests)
        return claims

    def settle(self, claimed: Sequence[Claim]) -> None:
        output = Output.of_text(ANSWER, "stop")
        settled = self.worker.settle(
            [
                Outcome(
                    request_id=claim.request_id,
                    attempt=claim.attempt,
                    outcome="completed",
                    output=output,
                    fingerprint="00" * 32,
                    prompt_tokens=PROMPT_TOKENS,
                    completion_tokens=COMPLETION_TOKENS,
                )
                for claim in claimed
            ]
        )
        assert sum(each.kind == "settled" for each in settled) == len(claimed)

    def status(self, user: int, request: UUID) -> None:
        state = self.reader.show(self.keys[user], request)
        assert state.output is not None
        assert state.output.text == ANSWER

    def history(self, user: int) -> None:
        rows = self.reader.history(self.keys[user], parse_object(HistoryQuery, {"limit": "10"}))
        assert len(rows) == 11

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def user_id(number: int) -> str:
    """The id of a user, the same on every side."""
    return f"user{number}"
