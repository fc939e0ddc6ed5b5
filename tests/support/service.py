"""The layer on a real PostgreSQL, with each function's role; queues are in memory."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any
from uuid import UUID

import psycopg
from aws_lambda_powertools.event_handler import Response
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sluice.api.native import reading
from sluice.api.native.bodies import GenerateRequest
from sluice.api.problems import STATUSES
from sluice.db.connection import ASSUME_ROLE, Connection, Database
from sluice.db.ledger import Ledger
from sluice.db.maintenance import Maintenance
from sluice.db.migrate import SQL
from sluice.domain.documents import Input, Output
from sluice.domain.errors import SluiceError
from sluice.domain.fields import id_of
from sluice.domain.history import HistoryQuery
from sluice.domain.keys import digest
from sluice.domain.requests import RequestLimits
from sluice.messaging import Delivery, Message
from sluice.services.cancel import Canceller
from sluice.services.read import Reader
from sluice.services.submit import Submitter
from sluice.services.tasks.context import TaskContext
from sluice.validation import parse_object
from tests.support.conformance import check_response
from tests.support.database import RoleDatabase

KEY = "sluice_" + "a" * 43
# The functions' database roles, without the prefix sluice_, as SQL creates them.
ROLES = tuple(
    role
    for path in sorted(SQL.rglob("*.sql"))
    for role in re.findall(r"\('sluice_(\w+)', '\d+\w+', ARRAY\[", path.read_text(encoding="utf-8"))
)
LIMITS = RequestLimits(max_prompt_bytes=1000, longest_seconds=3600, max_attempts=3)


@dataclass
class FakeQueue:
    """A queue that keeps its messages; with `down` it fails to send."""

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
        """Remove all messages; returns their request ids."""
        taken, self.messages = [message.request_id for message in self.messages], []
        return taken


@dataclass
class FakeWebhookQueue:
    """A queue that counts how often it was to wake somebody up."""

    wakes: int = 0

    def wake(self, delay_seconds: int = 0) -> None:
        self.wakes += 1


@dataclass
class FakeDeadLetters:
    """A dead-letter queue that hides received messages until they are deleted."""

    letters: list[Delivery] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)

    def receive(self) -> list[Delivery]:
        received = [letter for letter in self.letters if letter.message_id not in self.hidden][:10]
        self.hidden.update(letter.message_id for letter in received)
        return received

    def delete(self, messages: Sequence[Delivery]) -> None:
        self.letters = [letter for letter in self.letters if letter not in messages]


class Service:
    """The database with each function's role, and as its owner."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.queue = FakeQueue()
        self.dead_letters = FakeDeadLetters()
        self.webhook_queue = FakeWebhookQueue()
        self.owner: Connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self._databases: list[RoleDatabase] = []
        self._kept: dict[tuple[int, str], RoleDatabase] = {}

    def kept(self, role: str) -> RoleDatabase:
        """The database of this thread that acts as sluice_<role>; its plans are made once."""
        key = (get_ident(), role)
        if key not in self._kept:
            self._kept[key] = self.database(role)
        return self._kept[key]

    def database(self, role: str) -> RoleDatabase:
        """A new database that acts as sluice_<role>."""

        def opener() -> Connection:
            connection = psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None, row_factory=dict_row)
            connection.execute(ASSUME_ROLE, {"role": f"sluice_{role}"})
            return connection

        database = RoleDatabase(opener)
        self._databases.append(database)
        return database

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """Any SQL, as the owner."""
        return self.owner.execute(sql, parameters).fetchall()

    def value(self, sql: str, *parameters: Any) -> Any:
        """The single value of a query, as the owner."""
        (row,) = self.rows(sql, *parameters)
        (value,) = row.values()
        return value

    def add_user(self, user_id: str = "alice", key: str = KEY, tier: str = "premium", **limits: Any) -> bytes:
        """Create a user with a key.

        Args:
            limits: as quota_period={"max_requests": ..., "max_tokens": ...}.

        Returns:
            The key's hash.
        """
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
        """admin_run as the admin function."""
        return self.kept("admin").value("admin_run", operation=operation, arguments=Jsonb(arguments), invocation=None)

    def settle(self, *outcomes: dict[str, Any]) -> list[dict[str, Any]]:
        """request_settle as the worker."""
        return self.kept("worker").call("request_settle", outcomes=Jsonb(outcomes), actor="worker")

    def claim(self, *ids: UUID, lease_seconds: float = 60) -> list[dict[str, Any]]:
        """request_claim as the worker."""
        return self.kept("worker").call("request_claim", ids=list(ids), lease_seconds=lease_seconds)

    def submit(self, key_hash: bytes, prompt: str = "hello", **given: Any) -> UUID:
        """A request that must be accepted."""
        submitter = self.submitter(self.kept("submit"))
        return submitter.submit(key_hash, GenerateRequest(prompt=prompt, **given).submission()).request_id

    def ledger(self, role: str) -> Ledger:
        """The ledger as a function sees it."""
        return Ledger(self.database(role))

    def submitter(self, database: Database | None = None, limits: RequestLimits = LIMITS) -> Submitter:
        return Submitter(ledger=Ledger(database or self.database("submit")), queue=self.queue, limits=limits)

    def canceller(self, database: Database | None = None) -> Canceller:
        return Canceller(ledger=Ledger(database or self.database("submit")), queue=self.queue)

    def reader(self) -> Reader:
        """That of this thread."""
        return Reader(ledger=Ledger(self.kept("status")))

    def status(self, key_hash: bytes, request_id: UUID | str) -> dict[str, Any]:
        """What GET /status answers."""
        response = reading.get_request(self.reader(), key_hash, id_of(str(request_id)))
        check_response("GET /status/{request_id}", response)
        return body_of(response)

    def history(
        self, key_hash: bytes, cursor: str | None = None, limit: str | None = None, **query: str
    ) -> dict[str, Any]:
        """What GET /requests answers."""
        given = {"cursor": cursor, "limit": limit} | query
        asked = parse_object(HistoryQuery, {name: text for name, text in given.items() if text is not None})
        response = reading.get_history(self.reader(), key_hash, asked)
        check_response("GET /requests", response)
        return body_of(response)

    def models(self, key_hash: bytes) -> dict[str, Any]:
        """What GET /models answers."""
        response = reading.get_models(self.reader(), key_hash)
        check_response("GET /models", response)
        return body_of(response)

    def maintenance(self) -> Maintenance:
        """What the rollup function's tasks do in the database."""
        return Maintenance(self.database("rollup"))

    def tasks(self, **changes: Any) -> TaskContext:
        """What the rollup function's tasks work with."""
        database = self.database("rollup")
        context: dict[str, Any] = {
            "ledger": Ledger(database),
            "maintenance": Maintenance(database),
            "queue": self.queue,
            "dead_letters": self.dead_letters,
            "storage": None,
            "webhook_queue": self.webhook_queue,
            "archive_after_days": 30,
            "redispatch_grace_seconds": 60,
        }
        return TaskContext(**context | changes)

    def close(self) -> None:
        for database in self._databases:
            database.close()
        self.owner.close()


def body_of(response: Response[str]) -> dict[str, Any]:
    """The JSON object in an answer."""
    body: dict[str, Any] = json.loads(response.body or "")
    return body


def status_of(error: SluiceError) -> int:
    """The HTTP status that an error is answered with."""
    return STATUSES[error.kind]


def submission(prompt: str = "x", **fields: Any) -> Jsonb:
    """The argument of request_submit: a lifetime of a minute, three attempts, and `fields`."""
    usual = {"input": Input.of_prompt(prompt).to_json(), "ttl_seconds": 60, "longest_seconds": 60, "max_attempts": 3}
    return Jsonb(usual | fields)


def completed(request_id: UUID, attempt: int = 1, *, content: str = "an answer", **changes: Any) -> dict[str, Any]:
    """An outcome: answered with 7 + 3 tokens."""
    return {
        "request_id": str(request_id),
        "attempt": attempt,
        "outcome": "completed",
        "output": Output.of_text(content).to_json(),
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
    """An outcome: to be retried."""
    return failed(request_id, attempt, outcome="retry", retry_after=after) | changes
