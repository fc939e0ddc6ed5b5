"""The designs that are compared, each as the same few operations on a database of its own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from benchmarks.server import Address
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


class Side(ABC):
    """A design that accepts, hands out and answers requests. Users are numbers from 0.

    Attributes:
        name: as in the report.
        address: of the database that it alone uses.
    """

    name: str
    address: Address

    @abstractmethod
    def submit(self, user: int) -> Any:
        """Accept a request with PROMPT; returns what claim() takes."""

    @abstractmethod
    def claim(self, requests: Sequence[Any]) -> Any:
        """Take a batch for a worker; returns what settle() takes."""

    @abstractmethod
    def settle(self, claimed: Any) -> None:
        """End a batch with ANSWER."""

    @abstractmethod
    def status(self, user: int, request: Any) -> None:
        """Read an ended request and check its answer."""

    @abstractmethod
    def close(self) -> None:
        """Close its connections."""

    def answer(self, users: Sequence[int]) -> list[Any]:
        """Accept and end a batch of requests, one of each of these users; returns what submit() did."""
        accepted = [self.submit(user) for user in users]
        self.settle(self.claim(accepted))
        return accepted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Compared(Side):
    """A design that does all that Sluice does besides, in some way."""

    @abstractmethod
    def history(self, user: int) -> None:
        """Read the newest ten requests of a user who has more."""

    @abstractmethod
    def leave_tokens(self, user: int, tokens: int) -> None:
        """Limit a user's month to so many tokens, those that are used included."""

    @abstractmethod
    def refuse(self, user: int) -> None:
        """Refuse a request of a user whose quota is used up."""

    @abstractmethod
    def roll_up(self) -> None:
        """Bring usage up to date."""

    @abstractmethod
    def refresh_statistics(self) -> None:
        """Bring statistics up to date."""

    @abstractmethod
    def archive(self) -> None:
        """Move requests of months that ended more than 30 days ago to the archive."""


class SluiceSide(Compared):
    """Sluice, through the classes that its functions use, each with its function's database role.

    Users have limits that are checked and counted, but high enough never to refuse anything.

    Args:
        users: how many there are.
        is_new: the database is empty: the schema and the users are made.
    """

    name = "Sluice"
    limits = RequestLimits(max_prompt_bytes=100_000, longest_seconds=86_400, max_attempts=20)

    def __init__(self, address: Address, users: int, *, is_new: bool = True) -> None:
        self.address = address
        self._databases: list[Database] = []
        self.keys = [digest(f"sluice_{user:043}") for user in range(users)]
        self.administration = Administration(self.database("admin"), None)
        if is_new:
            with address.connect() as owner:
                migrate(owner)
            self._add_users()
        self.front = Ledger(self.database("submit"))
        self.reader = Ledger(self.database("status"))
        self.worker = Ledger(self.database("worker"))
        self.maintenance = Maintenance(self.database("rollup"))

    def _add_users(self) -> None:
        much = {"max_requests": 2_000_000_000, "max_tokens": 10**15}
        for number, key in enumerate(self.keys):
            user = {"user_id": user_id(number)}
            self.administration.run("user.create", user | {"tier": "premium"})
            self.administration.run(
                "key.create",
                user | {"key_hash": key.hex(), "key_prefix": "sluice_", "scopes": ["submit", "read"]},
            )
            self.administration.run(
                "quota.set",
                user
                | {"max_unfinished": 10**6, "dispatch_window": 10**6}
                | {"limits": dict.fromkeys(("minute", "daily", "monthly"), much)},
            )

    def database(self, role: str) -> Database:
        """Another connection, as a function's role."""

        def opener() -> Connection:
            connection = self.address.connect("sluice")
            connection.execute(ASSUME_ROLE, {"role": f"sluice_{role}"})
            return connection

        database = Database(opener)
        self._databases.append(database)
        return database

    def submit(self, user: int) -> UUID:
        admission = self.front.submit(self.keys[user], submission(), self.limits)
        assert admission.request_id is not None, admission.outcome
        return admission.request_id

    def refuse(self, user: int) -> None:
        admission = self.front.submit(self.keys[user], submission(), self.limits)
        assert admission.outcome == "quota_exceeded", admission.outcome

    def leave_tokens(self, user: int, tokens: int) -> None:
        limits = {"monthly": {"max_tokens": tokens}}
        self.administration.run("quota.set", {"user_id": user_id(user), "limits": limits})

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
        assert len(rows) == 11  # with the row that tells whether there are more

    def roll_up(self) -> None:
        assert self.maintenance.rollup_usage() > 0

    def refresh_statistics(self) -> None:
        assert self.maintenance.rollup_stats() > 0

    def archive(self) -> None:
        assert self.maintenance.archive_months(30)

    def close(self) -> None:
        for database in self._databases:
            database.close()


def submission() -> Submission:
    """A request with PROMPT."""
    return Submission(input=Input.of_prompt(PROMPT), parameters={"max_tokens": MAX_TOKENS})


def user_id(number: int) -> str:
    """The id of a user, the same on every side."""
    return f"user{number}"
