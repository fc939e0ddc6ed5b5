"""Job queues on PostgreSQL that do the part of Sluice's work that they are made for: accept, hand out, finish.

Each is used through its own library, with the library's own worker and settings, ten jobs at a time. What such a queue
leaves to its user is added as simply as can be: the task stores the answer in a table, the client reads it there. There
are no API keys, quotas, audit log or prices.
"""

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, LiteralString

import asyncpg
import pgqueuer
import procrastinate
import psycopg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.types import QueueExecutionMode

from benchmarks.server import Address
from benchmarks.sides import ANSWER, PROMPT, Side, user_id

_ANSWERS: Final = """
    CREATE TABLE answers (
        job_id     bigint PRIMARY KEY,
        answer     text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )"""
_AT_ONCE: Final = 10

AsyncConnection = psycopg.AsyncConnection[tuple[Any, ...]]


class Peer(Side):
    """A queue with an asynchronous library. Its worker takes what it finds, so it works off all batches at once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._waiting = 0
        self._runner = asyncio.Runner()
        with address.connect() as connection:
            connection.execute(_ANSWERS)
        self._client: AsyncConnection = self._run(self._connect())
        self._run(self._open())

    async def _connect(self) -> AsyncConnection:
        return await psycopg.AsyncConnection.connect(self.address.url(), autocommit=True)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    @abstractmethod
    async def _open(self) -> None:
        """Make the queue's tables and connect."""

    @abstractmethod
    async def _add(self, user: int) -> Any:
        """Accept a request; returns the job's id."""

    @abstractmethod
    async def _work_off(self) -> None:
        """Run a worker until nothing waits any more."""

    @abstractmethod
    async def _close(self) -> None:
        """Disconnect."""

    def submit(self, user: int) -> Any:
        self._waiting += 1
        return self._run(self._add(user))

    def claim(self, requests: Sequence[Any]) -> Sequence[Any]:
        return requests

    def settle(self, claimed: Sequence[Any]) -> None:
        if self._waiting:
            self._run(self._work_off())
            self._waiting = 0

    async def _answer(self, statement: LiteralString, job_id: Any) -> str:
        row = await (await self._client.execute(statement, (job_id,))).fetchone()
        assert row is not None
        return str(row[0])

    def close(self) -> None:
        self._run(self._close())
        self._run(self._client.close())
        self._runner.close()


class Procrastinate(Peer):
    """procrastinate: a job's states are updates of its row, each noted in a table of events by triggers."""

    name = "procrastinate"

    async def _open(self) -> None:
        logging.getLogger("procrastinate").setLevel(logging.WARNING)
        connector = procrastinate.PsycopgConnector(conninfo=self.address.url(), min_size=2, max_size=_AT_ONCE + 2)
        self._app = procrastinate.App(connector=connector)

        @self._app.task(name="answer", pass_context=True)
        async def answer(context: procrastinate.JobContext, user: str, prompt: str) -> None:
            assert prompt == PROMPT
            await self._app.connector.execute_query_async(
                "INSERT INTO answers (job_id, answer) VALUES (%(id)s, %(answer)s)", id=context.job.id, answer=ANSWER
            )

        self._task = answer
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()

    async def _add(self, user: int) -> int:
        return await self._task.defer_async(user=user_id(user), prompt=PROMPT)

    async def _work_off(self) -> None:
        await self._app.run_worker_async(
            wait=False, concurrency=_AT_ONCE, listen_notify=False, install_signal_handlers=False
        )

    def status(self, user: int, request: int) -> None:
        statement: LiteralString = """
            SELECT a.answer, j.status FROM procrastinate_jobs j LEFT JOIN answers a ON a.job_id = j.id
            WHERE j.id = %s"""
        assert self._run(self._answer(statement, request)) == ANSWER

    async def _close(self) -> None:
        await self._app.close_async()


class PgQueuer(Peer):
    """pgqueuer: a finished job is deleted from the queue and noted in a log."""

    name = "pgqueuer"

    async def _open(self) -> None:
        logging.getLogger("pgqueuer").setLevel(logging.WARNING)
        self._producer, self._consumer = [await asyncpg.connect(self.address.url()) for _ in range(2)]
        self._queries = pgqueuer.Queries(AsyncpgDriver(self._producer))
        await self._queries.install()

    async def _add(self, user: int) -> Any:
        payload = json.dumps({"user": user_id(user), "prompt": PROMPT}).encode()
        (job_id,) = await self._queries.enqueue("answer", payload)
        return job_id

    async def _work_off(self) -> None:
        driver = AsyncpgDriver(self._consumer)
        queue = pgqueuer.PgQueuer(driver)

        @queue.entrypoint("answer")
        async def answer(job: pgqueuer.Job) -> None:
            assert json.loads(job.payload or b"")["prompt"] == PROMPT
            await driver.execute("INSERT INTO answers (job_id, answer) VALUES ($1, $2)", job.id, ANSWER)

        # The timeout is how long it waits for more before it sees that nothing is left.
        await queue.run(timedelta(milliseconds=50), batch_size=_AT_ONCE, mode=QueueExecutionMode.drain)

    def status(self, user: int, request: Any) -> None:
        # What is not in this table is still in the queue, or in the log as failed.
        assert self._run(self._answer("SELECT answer FROM answers WHERE job_id = %s", request)) == ANSWER

    async def _close(self) -> None:
        await self._producer.close()
        await self._consumer.close()
