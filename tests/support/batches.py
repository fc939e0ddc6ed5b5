"""Batches on a real PostgreSQL: files are put into a bucket, and what the function batches does is done on demand."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from sluice.api.openai.batch_lines import OpenAiLines
from sluice.db.batches import Batches
from sluice.db.files import Files
from sluice.db.ledger import Ledger
from sluice.domain.objects import ObjectClass, StoredObject
from sluice.domain.requests import RequestLimits
from sluice.messaging import Message
from sluice.services.batch_work import BatchReport, BatchWorker
from sluice.services.batches import BatchManager
from sluice.services.files import image_of
from sluice.services.inputs import InputKeeper
from sluice.storage import Storage
from tests.support.service import Service, completed

LIMITS = RequestLimits(max_prompt_bytes=100_000, longest_seconds=86_400, max_attempts=3)
CHAT = "/v1/chat/completions"


def line(custom_id: str, body: Any = None, url: str = CHAT, **more: Any) -> dict[str, Any]:
    """A line of a batch."""
    asked = {"messages": [{"role": "user", "content": f"the question of {custom_id}"}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked if body is None else body} | more


def jsonl(lines: Iterable[Any]) -> bytes:
    """Lines as a file; bytes as they are."""
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines)


@dataclass
class BatchBench:
    """What batches need, on demand.

    Attributes:
        remaining: seconds that an invocation has.
        wakes: how often a settlement said that a batch is due.
    """

    service: Service
    storage: Storage
    remaining: float = 900.0
    limits: RequestLimits = field(default=LIMITS)
    wakes: int = 0

    @property
    def manager(self) -> BatchManager:
        return BatchManager(Batches(self.service.kept("openai")), None)

    def lift_limits(self, user_id: str) -> None:
        """Let a user's quotas have no limit."""
        every = {"max_requests": None, "max_tokens": None}
        self.service.act("quota.set", user_id=user_id, limits=dict.fromkeys(("minute", "daily", "monthly"), every))

    def upload(self, content: bytes, user_id: str = "alice", purpose: str = "batch") -> UUID:
        """A file of a user."""
        stored = StoredObject(uuid4(), "files", user_id, "application/jsonl", len(content), sha256(content).hexdigest())
        stored = replace(stored, version_id=self.storage.put(stored, content))
        facts = {"user_id": user_id, "purpose": purpose, "filename": "lines.jsonl"}
        row = self.service.rows(
            "SELECT (file_keep(%s, %s, 'openai', NULL, clock_now())).file_id AS id",
            Jsonb(facts),
            Jsonb(stored.to_row()),
        )
        return UUID(str(row[0]["id"]))

    def keep(self, object_class: ObjectClass, content: bytes, mime_type: str, user_id: str = "alice") -> StoredObject:
        """An object in the bucket, without a row."""
        stored = StoredObject(uuid4(), object_class, user_id, mime_type, len(content), sha256(content).hexdigest())
        return replace(stored, version_id=self.storage.put(stored, content))

    def create(self, key_hash: bytes, lines: Iterable[Any] | bytes, endpoint: str = CHAT, **more: Any) -> UUID:
        """A batch of these lines."""
        content = lines if isinstance(lines, bytes) else jsonl(lines)
        given: dict[str, Any] = {
            "input_file_id": self.upload(content),
            "endpoint": endpoint,
            "completion_window": "24h",
            "metadata": None,
            "output_expires_seconds": None,
        }
        return UUID(self.manager.create(key_hash, **given | more)["batch_id"])

    def worker(self, remaining_seconds: Callable[[], float] | None = None) -> BatchWorker:
        """The function batches."""
        database = self.service.kept("batches")
        return BatchWorker(
            batches=Batches(database),
            ledger=Ledger(database),
            queue=self.service.queue,
            storage=lambda: self.storage,
            inputs=InputKeeper(lambda: self.storage),
            api=OpenAiLines(partial(image_of, Files(database), lambda: self.storage)),
            limits=self.limits,
            remaining_seconds=remaining_seconds or (lambda: self.remaining),
        )

    def run(self) -> BatchReport:
        """One invocation."""
        return self.worker().run()

    def answer(self, make: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None, most: int = 10**9) -> int:
        """A worker answers what was dispatched; returns how many requests that were.

        Args:
            make: the outcome of a claim; None: all are answered.
            most: stop after about so many.
        """
        answered = 0
        while answered < most and (ids := self.service.queue.take()):
            chosen, rest = ids[: most - answered], ids[most - answered :]
            self.service.queue.send([Message(each, "alice") for each in rest])
            claims = self.service.claim(*chosen)
            self.settle(claims, make)
            answered += len(claims)
        return answered

    def redispatch(self) -> None:
        """As the recovery task does when the queue has lost its messages."""
        rows = self.service.rows(
            "UPDATE inflight SET dispatched_at = clock_now() WHERE status = 'queued' AND dispatched_at IS NOT NULL"
            " RETURNING request_id, user_id"
        )
        waiting = self.service.ledger("rollup").dispatch(1000)
        self.service.queue.send([Message(each["request_id"], each["user_id"]) for each in rows])
        self.service.queue.send([Message(each.request_id, each.user_id) for each in waiting])

    def settle(
        self, claims: Iterable[Mapping[str, Any]], make: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    ) -> None:
        """A worker answers what it has claimed; as of answer()."""
        outcome = make or (lambda each: completed(each["request_id"], each["attempt"]))
        outcomes = [outcome(each) for each in claims]
        settled = self.service.settle(*outcomes) if outcomes else []
        self.wakes += any(each["is_batch_due"] for each in settled)
        self.service.queue.send(
            [Message(each["request_id"], "alice") for each in settled if each["kind"] == "dispatch"]
        )

    def finish(
        self, batch_id: UUID, make: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None, rounds: int = 200
    ) -> dict[str, Any]:
        """Run and answer until the batch has ended."""
        for _ in range(rounds):
            self.run()
            if (batch := self.batch(batch_id))["ended_at"] is not None:
                return batch
            self.answer(make)
        raise AssertionError(f"the batch has not ended: {self.batch(batch_id)}")

    def batch(self, batch_id: UUID) -> dict[str, Any]:
        """The row of a batch."""
        (row,) = self.service.rows("SELECT * FROM batches WHERE batch_id = %s", batch_id)
        return row

    def file(self, file_id: UUID | None) -> list[dict[str, Any]]:
        """The lines of a file; none if there is none."""
        if file_id is None:
            return []
        (row,) = self.service.rows(
            "SELECT object_json(f.object_id) AS stored FROM files f WHERE f.file_id = %s", file_id
        )
        content = self.storage.read(StoredObject.of_json(row["stored"]))
        return [json.loads(each) for each in content.decode().split("\n") if each]
