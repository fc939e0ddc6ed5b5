"""The layer on a real PostgreSQL, each function's part under its own role; the queue is a list."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sluice.db.connection import Connection, Database
from sluice.db.queries import query
from sluice.keys import digest
from sluice.models import GenerateRequest
from sluice.queue import Delivery, Message
from sluice.services import rollup
from sluice.services.submit import Limits, submit

KEY = "sluice_" + "a" * 43
LIMITS = Limits(max_prompt_bytes=1000, ttl_seconds=3600, max_attempts=3)


@dataclass
class FakeQueue:
    """A queue that keeps what it is sent; `down` makes it lose everything, and say so."""

    messages: list[Message] = field(default_factory=list)
    down: bool = False

    def send(self, messages: Sequence[Message]) -> list[UUID]:
        if self.down:
            return [message.request_id for message in messages]
        self.messages += messages
        return []

    def depth(self) -> int | None:
        return None if self.down else sum(not message.delay_seconds for message in self.messages)

    def take(self) -> list[UUID]:
        """The ids in the queue, which is empty after."""
        taken, self.messages = [message.request_id for message in self.messages], []
        return taken


@dataclass
class FakeDeadLetters:
    """A dead-letter queue that keeps what is not deleted, and hides what was received."""

    letters: list[Delivery] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)

    def receive(self) -> list[Delivery]:
        received = [letter for letter in self.letters if letter.message_id not in self.hidden][:10]
        self.hidden.update(letter.message_id for letter in received)
        return received

    def delete(self, messages: Sequence[Delivery]) -> None:
        self.letters = [letter for letter in self.letters if letter not in messages]


class Service:
    """The database as each function sees it, and as its owner."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.queue = FakeQueue()
        self.dead_letters = FakeDeadLetters()
        self.owner: Connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self._databases: list[Database] = []

    def database(self, role: str) -> Database:
        """A database that acts as sluice_<role>."""

        def opener() -> Connection:
            connection = psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None, row_factory=dict_row)
            connection.execute(query("role_assume"), {"role": f"sluice_{role}"})
            return connection

        database = Database(opener)
        self._databases.append(database)
        return database

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """Any SQL, as the owner."""
        return self.owner.execute(sql, parameters).fetchall()

    def value(self, sql: str, *parameters: Any) -> Any:
        """The one value that any SQL answers, as the owner."""
        (row,) = self.rows(sql, *parameters)
        (value,) = row.values()
        return value

    def add_user(self, user_id: str = "alice", key: str = KEY, tier: str = "premium", **limits: Any) -> bytes:
        """A user with a key; limits as quota_period={"max_requests": ..., "max_tokens": ...}. The key's hash."""
        self.act("user.create", user_id=user_id, tier=tier)
        self.act(
            "key.create",
            user_id=user_id,
            key_hash=digest(key).hex(),
            key_prefix=key[:13],
            scopes=["submit", "read"],
        )
        if limits:
            self.act("quota.set", user_id=user_id, limits=limits)
        return digest(key)

    def act(self, operation: str, **arguments: Any) -> Any:
        """admin_act as the admin function."""
        parameters = {"operation": operation, "arguments": Jsonb(arguments), "invocation": None}
        return self.database("admin").row("admin_act", parameters)["result"]

    def settle(self, *outcomes: dict[str, Any]) -> list[dict[str, Any]]:
        """request_settle as the worker."""
        return self.database("worker").rows("request_settle", {"outcomes": Jsonb(outcomes), "actor": "worker"})

    def claim(self, *ids: UUID, lease_seconds: float = 60) -> list[dict[str, Any]]:
        """request_claim as the worker."""
        return self.database("worker").rows("request_claim", {"ids": list(ids), "lease_seconds": lease_seconds})

    def submit(self, key_hash: bytes, prompt: str = "hello", **given: Any) -> UUID:
        """A request that must be accepted."""
        request = GenerateRequest(prompt=prompt, **given)
        return submit(self.database("submit"), self.queue, key_hash, request, LIMITS).request_id

    def rollup(self) -> rollup.Context:
        """What the rollup function's tasks work with."""
        return rollup.Context(self.database("rollup"), self.queue, self.dead_letters, 30, 60)

    def close(self) -> None:
        for database in self._databases:
            database.close()
        self.owner.close()


def completed(request_id: UUID, attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """An outcome: answered with 7 + 3 tokens."""
    return {
        "request_id": str(request_id),
        "attempt": attempt,
        "outcome": "completed",
        "content": "an answer",
        "fingerprint": "00" * 32,
        "prompt_tokens": 7,
        "completion_tokens": 3,
    } | changes


def failed(request_id: UUID, attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """An outcome: refused by the model."""
    return {
        "request_id": str(request_id),
        "attempt": attempt,
        "outcome": "failed",
        "error_code": "model_rejected",
        "error_message": "no",
    } | changes


def retry(request_id: UUID, attempt: int = 1, after: float = 0, **changes: Any) -> dict[str, Any]:
    """An outcome: to be tried again."""
    return failed(request_id, attempt, outcome="retry", retry_after=after) | changes
