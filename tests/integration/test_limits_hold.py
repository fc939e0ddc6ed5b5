"""Limits hold exactly under concurrent submits, and checking them does not get slower with history."""

import itertools
import json
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.processes import wait_until
from sluice.api.ratelimit import rate_limit_headers
from sluice.db.connection import Connection, Database
from sluice.domain.documents import Input
from sluice.domain.errors import SluiceError
from sluice.domain.keys import digest
from sluice.domain.requests import Submission
from sluice.services.submit import Accepted
from tests.support.database import with_schema
from tests.support.ledger import SMALL, assert_books_balance, run_concurrently, set_clock, stop_the_clock
from tests.support.service import Service, completed, retry, status_of, submission

CROWD = 400
OVERHEAD = 64 + 1  # in addition to the prompt's bytes: the model's overhead_tokens, and max_tokens=1
PERIODS = ("minute", "daily", "monthly")
# No period ends while a test runs: the clock stands.
NOON = datetime(2031, 2, 28, 12, 0, 35, tzinfo=UTC)
UNTIL = {"minute": 25, "daily": 12 * 3600 - 35, "monthly": 12 * 3600 - 35}


def _itself(connection: Connection) -> Connection:
    return connection


@dataclass
class Crowd:
    """Many connections to one database, opened in advance. Each test has its own user there."""

    service: Service
    connections: Sequence[Connection]
    _numbers: Iterator[int] = field(default_factory=partial(itertools.count, 1))

    @cached_property
    def databases(self) -> list[Database]:
        return [Database(partial(_itself, connection)) for connection in self.connections]

    def add_user(self, **limits: Any) -> tuple[str, bytes]:
        """A user with high limits except for the given ones."""
        number = next(self._numbers)
        user_id = f"user{number}"
        key_hash = digest(f"sluice_{number:043}")
        self.act("user.create", user_id=user_id, tier="premium")
        self.act("key.create", user_id=user_id, key_hash=key_hash.hex(), key_prefix="x", scopes=["submit"])
        self.act("quota.set", user_id=user_id, limits=limits)
        self.service.queue.take()
        return user_id, key_hash

    def act(self, operation: str, **arguments: Any) -> None:
        """Use the owner's connection: not many are left."""
        self.service.owner.execute("SELECT admin_run(%s, %s, NULL)", (operation, Jsonb(arguments)))

    def submit(
        self, database: Database, key_hash: bytes, length: int = 5, idempotency_key: str | None = None
    ) -> Accepted:
        asked = Submission(Input.of_prompt("x" * length), parameters={"max_tokens": 1}, idempotency_key=idempotency_key)
        return self.service.submitter(database).submit(key_hash, asked)

    def quota(self, user_id: str, period: str) -> dict[str, Any]:
        (row,) = self.service.rows("SELECT * FROM quotas WHERE user_id = %s AND quota_period = %s", user_id, period)
        return row


@pytest.fixture(scope="module")
def crowd(server_dsn: str, create_database: Callable[..., str], template_database: str) -> Iterator[Crowd]:
    # A plain copy: without the roles' settings, no statement_timeout ends the wait of the last call.
    service = Service(with_schema(server_dsn, create_database(template_database)))

    stop_the_clock(service.owner, NOON)

    def connect(_: int) -> Connection:
        connection = psycopg.connect(service.dsn, autocommit=True, prepare_threshold=None, row_factory=dict_row)
        connection.execute("SET ROLE sluice_submit")
        return connection

    with ExitStack() as opened:
        opened.callback(service.close)
        with ThreadPoolExecutor(4) as pool:
            connections = [opened.enter_context(closing(made)) for made in pool.map(connect, range(CROWD))]
        yield Crowd(service, connections)


def split(answers: Sequence[Accepted | SluiceError]) -> tuple[list[UUID], list[SluiceError]]:
    accepted = [answer.request_id for answer in answers if isinstance(answer, Accepted)]
    return accepted, [answer for answer in answers if isinstance(answer, SluiceError)]


def assert_written_once_each(service: Service, user_id: str, accepted: Sequence[UUID]) -> None:
    """Every row of the user belongs to an accepted request, once."""
    assert len(set(accepted)) == len(accepted)
    for table in ("requests", "inflight"):
        rows = service.rows(f"SELECT request_id, status FROM {table} WHERE user_id = %s", user_id)
        assert {row["request_id"] for row in rows} == set(accepted)
        assert {row["status"] for row in rows} <= {"queued"}
    audited = service.rows(
        "SELECT request_id, action FROM audit_log WHERE user_id = %s AND request_id IS NOT NULL", user_id
    )
    assert sorted(row["request_id"] for row in audited) == sorted(accepted)
    assert {row["action"] for row in audited} <= {"request.queued"}
    prompts = "SELECT count(*) FROM prompts p WHERE p.request_id = ANY (%s)"
    assert service.value(prompts, list(accepted)) == len(accepted)


def test_400_concurrent_submits_fill_the_request_limit_exactly(crowd: Crowd) -> None:
    user_id, key_hash = crowd.add_user(minute={"max_requests": 50})

    answers = run_concurrently([partial(crowd.submit, database, key_hash) for database in crowd.databases])

    accepted, refused = split(answers)
    assert (len(accepted), len(refused)) == (50, 350)
    for refusal in refused:
        assert (refusal.code, status_of(refusal), refusal.retry_after) == ("quota_exceeded", 429, 25)
        assert rate_limit_headers(refusal.quotas)["x-ratelimit-limit-requests"] == "50"
        assert rate_limit_headers(refusal.quotas)["x-ratelimit-remaining-requests"] == "0"
        assert rate_limit_headers(refusal.quotas)["x-ratelimit-reset-requests"] == "25"
    for period in PERIODS:
        quota = crowd.quota(user_id, period)
        assert (quota["requests_used"], quota["tokens_used"]) == (50, 0)
        assert quota["tokens_reserved"] == 50 * (5 + OVERHEAD)
    assert_written_once_each(crowd.service, user_id, accepted)
    assert sorted(crowd.service.queue.take()) == sorted(accepted), "the dispatch window of 50 has slots for all of them"
    assert_books_balance(crowd.service)


@pytest.mark.parametrize("period", PERIODS)
def test_400_concurrent_submits_never_exceed_the_token_limit(crowd: Crowd, period: str) -> None:
    """Nothing is released meanwhile, so a refused request would not fit into the rest of the limit either."""
    lengths = [1 + 13 * n % 389 for n in range(CROWD)]
    needed = [length + OVERHEAD for length in lengths]
    limit = sum(needed) // 3 + 1
    user_id, key_hash = crowd.add_user(**{period: {"max_tokens": limit}})

    answers = run_concurrently(
        [
            partial(crowd.submit, database, key_hash, length)
            for database, length in zip(crowd.databases, lengths, strict=True)
        ]
    )

    taken = [size for size, answer in zip(needed, answers, strict=True) if isinstance(answer, Accepted)]
    turned_away = [
        (size, answer) for size, answer in zip(needed, answers, strict=True) if isinstance(answer, SluiceError)
    ]
    left = limit - sum(taken)
    assert 0 <= left < min(size for size, _ in turned_away)
    for size, refusal in turned_away:
        assert (refusal.code, status_of(refusal), refusal.retry_after) == ("quota_reserved", 429, 5)
        assert rate_limit_headers(refusal.quotas)["x-ratelimit-limit-tokens"] == str(limit)
        assert left <= int(rate_limit_headers(refusal.quotas)["x-ratelimit-remaining-tokens"]) < size
    for each in PERIODS:
        quota = crowd.quota(user_id, each)
        assert (quota["requests_used"], quota["tokens_used"], quota["tokens_reserved"]) == (len(taken), 0, sum(taken))
    assert_written_once_each(crowd.service, user_id, split(answers)[0])
    assert_books_balance(crowd.service)


@pytest.mark.parametrize("missing", [0, 1])
def test_the_token_limit_is_used_to_the_last_token(crowd: Crowd, missing: int) -> None:
    """A limit for all of them is used up; with one token less, all but one fit, whichever that is."""
    lengths = [1 + 7 * n % 97 for n in range(100)]
    limit = sum(length + OVERHEAD for length in lengths) - missing
    user_id, key_hash = crowd.add_user(daily={"max_tokens": limit})

    answers = run_concurrently(
        [
            partial(crowd.submit, database, key_hash, length)
            for database, length in zip(crowd.databases, lengths, strict=False)
        ]
    )

    accepted, refused = split(answers)
    assert (len(accepted), len(refused)) == (100 - missing, missing)
    unserved = [n + OVERHEAD for n, answer in zip(lengths, answers, strict=True) if isinstance(answer, SluiceError)]
    left = limit - crowd.quota(user_id, "daily")["tokens_reserved"]
    assert left == sum(unserved) - missing
    assert_books_balance(crowd.service)


def test_400_concurrent_direct_inserts_keep_to_the_limit(crowd: Crowd) -> None:
    user_id, _ = crowd.add_user(monthly={"max_requests": 50})
    crowd.service.owner.execute("GRANT SELECT, INSERT ON submissions TO sluice_submit")

    def write(writer: Connection) -> UUID | psycopg.Error:
        statement = "INSERT INTO submissions (user_id, prompt) VALUES (%s, 'hello') RETURNING request_id"
        try:
            request_id: UUID = writer.execute(statement, (user_id,)).fetchall()[0]["request_id"]
            return request_id
        except psycopg.Error as refusal:
            return refusal

    answers = run_concurrently([partial(write, connection) for connection in crowd.connections])

    accepted = [answer for answer in answers if isinstance(answer, UUID)]
    refused = [answer for answer in answers if isinstance(answer, psycopg.Error)]
    assert (len(accepted), len(refused)) == (50, 350)
    assert {(r.sqlstate, r.diag.constraint_name) for r in refused} == {("SL429", "quota_exceeded")}
    assert {json.loads(refusal.diag.message_detail or "{}")["retry_after"] for refusal in refused} == {UNTIL["monthly"]}
    assert [crowd.quota(user_id, period)["requests_used"] for period in PERIODS] == [50, 50, 50]
    assert_written_once_each(crowd.service, user_id, accepted)
    assert_books_balance(crowd.service)


def test_50_concurrent_repeats_are_one_request(crowd: Crowd) -> None:
    user_id, key_hash = crowd.add_user(daily={"max_requests": 1})

    answers = run_concurrently(
        [partial(crowd.submit, database, key_hash, 5, "once") for database in crowd.databases[:50]]
    )

    accepted, refused = split(answers)
    assert (len(accepted), len(set(accepted)), refused) == (50, 1, [])
    assert [answer.replayed for answer in answers if not isinstance(answer, SluiceError)].count(False) == 1
    assert_written_once_each(crowd.service, user_id, accepted[:1])
    assert crowd.service.queue.take() == accepted[:1], "only the first sends a message"
    assert [crowd.quota(user_id, period)["requests_used"] for period in PERIODS] == [1, 1, 1]
    assert_books_balance(crowd.service)


def test_concurrent_bodies_under_one_idempotency_key_conflict(crowd: Crowd) -> None:
    user_id, key_hash = crowd.add_user()

    answers = run_concurrently(
        [
            partial(crowd.submit, database, key_hash, 5 + n % 2, "once")
            for n, database in enumerate(crowd.databases[:50])
        ]
    )

    accepted, refused = split(answers)
    assert len(set(accepted)) == 1
    assert (len(accepted), len(refused)) == (25, 25)
    assert {refusal.code for refusal in refused} == {"idempotency_conflict"}
    assert len({n % 2 for n, answer in enumerate(answers) if isinstance(answer, Accepted)}) == 1
    assert_written_once_each(crowd.service, user_id, accepted[:1])
    assert_books_balance(crowd.service)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT outcome FROM request_submit(%(key)s, %(submission)s)",
        "INSERT INTO submissions (user_id, prompt) VALUES ('alice', 'x') RETURNING 'accepted' AS outcome",
    ],
    ids=["submit", "submissions"],
)
def test_submit_waiting_for_the_user_lock_sees_the_deactivation(service: Service, alice: bytes, statement: str) -> None:
    """Once the deactivation has committed, nothing of the user is accepted."""

    def submit() -> str:
        with psycopg.connect(service.dsn, autocommit=True) as connection:
            try:
                (row,) = connection.execute(statement, {"key": alice, "submission": submission()}).fetchall()
                outcome: str = row[0]
                return outcome
            except psycopg.Error as refusal:
                return refusal.diag.constraint_name or ""

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(service.dsn) as admin, ThreadPoolExecutor(1) as pool:
        admin.execute('SELECT admin_run(\'user.update\', \'{"user_id": "alice", "is_active": false}\', NULL)')
        answer = pool.submit(submit)
        assert wait_until(lambda: service.value(waiting) == 1, 30)
        admin.commit()
        assert answer.result() == "user_inactive"
    assert service.value("SELECT count(*) FROM requests") == 0


def test_a_settlement_delayed_into_a_new_period_does_not_change_it(service: Service, alice: bytes) -> None:
    """It read the counters of the old minute and writes when they are of the new one: the latter counts."""
    stop_the_clock(service.owner, NOON)
    old = service.submit(alice)
    service.claim(old)
    set_clock(service.owner, NOON + timedelta(minutes=1))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(service.dsn) as submitter, ThreadPoolExecutor(1) as pool:
        submitter.execute("SELECT request_submit(%s, %s)", (alice, submission("new", model="nova-micro")))
        settlement = pool.submit(service.settle, completed(old))
        assert wait_until(lambda: service.value(waiting) == 1, 30)
        submitter.commit()
        settlement.result()

    minute, day = service.rows("SELECT * FROM quotas WHERE quota_period <> 'monthly' ORDER BY quota_period DESC")
    assert (minute["requests_used"], minute["tokens_used"], minute["tokens_reserved"]) == (1, 0, 64 + 512 + 3)
    assert (day["requests_used"], day["tokens_used"], day["tokens_reserved"]) == (2, 10, 64 + 512 + 3)
    assert_books_balance(service)


def test_the_books_balance_in_every_snapshot_under_concurrent_writes(service: Service) -> None:
    """Submits, claims, settlements, recovery, rollups, seals and changed limits, with continuous verification."""
    keys = [service.add_user(name, "sluice_" + name[0] * 43) for name in ("anna", "bert", "carl")]
    service.act("model.set", **SMALL)
    over = threading.Event()
    looked = {True: 0, False: 0}

    def work(number: int) -> None:
        worker, database, rollup = (service.database(role) for role in ("worker", "submit", "rollup"))
        for turn in range(300):
            if turn >= 12 and (over.is_set() or min(looked.values()) >= 3):
                break
            ids = []
            for n in range(6):
                key_of_n = str(n) if n < 3 else None
                asked = Submission(Input.of_prompt("x"), ("small", None)[n % 2], idempotency_key=key_of_n)
                key = keys[(number + n) % 3 if n < 3 else (number + turn) % 3]
                with suppress(SluiceError):  # the limits change, so bert is sometimes refused
                    ids.append(service.submitter(database).submit(key, asked).request_id)
            lease = -1 if turn % 3 == 0 else 60
            claims = worker.call("request_claim", ids=ids, lease_seconds=lease)
            rollup.call("request_recover", limit=100)
            kinds = (completed, retry, partial(completed, prompt_tokens=5000), partial(completed, outcome="cancelled"))
            outcomes = [kinds[(n + turn) % 4](c["request_id"], c["attempt"]) for n, c in enumerate(claims)]
            for _ in range(1 + turn % 2):
                worker.call("request_settle", outcomes=Jsonb(outcomes), actor="worker")

    def administer() -> None:
        rollup, admin = service.database("rollup"), service.database("admin")
        for turn in itertools.count():
            if over.is_set():
                break
            limits = {
                "minute": {"max_requests": 50 if turn % 2 else 3000},
                "daily": {"max_tokens": 10**6 * (1 + turn % 2)},
            }
            arguments = Jsonb({"user_id": "bert", "limits": limits})
            admin.call_row("admin_run", operation="quota.set", arguments=arguments, invocation=None)
            for task in ("rollup_usage", "rollup_stats"):
                rollup.call(task)
            rollup.call_row("audit_seal", limit=1000)

    def check(every: bool) -> None:
        database = service.database("rollup")
        try:
            while not over.is_set():
                assert database.call_row("ledger_verify", full=every)["violations"] == []
                assert database.call_row("audit_verify", after_batch=0, limit=1000)["kind"] is None
                looked[every] += 1
        finally:
            over.set()

    with ThreadPoolExecutor(7) as pool:
        observers = [pool.submit(check, every) for every in (True, False)]
        administrator = pool.submit(administer)
        try:
            list(pool.map(work, range(4)))
        finally:
            over.set()
        for result in (administrator, *observers):
            result.result()
    assert min(looked.values()) >= 3
    assert_books_balance(service)
    statuses = {row["status"] for row in service.rows("SELECT DISTINCT status FROM requests")}
    assert {"completed", "cancelled"} <= statuses


def pages_of_a_submit(service: Service, database: Database, key_hash: bytes) -> int:
    """The median number of pages that a submit reads, including everything it calls."""
    costs = []
    for _ in range(15):
        service.rows("SELECT pg_stat_statements_reset()")
        service.submitter(database).submit(key_hash, Submission(Input.of_prompt("x")))
        pages: int = service.value(
            "SELECT shared_blks_hit + shared_blks_read FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
            " WHERE d.datname = current_database() AND query LIKE '%%request_submit%%' AND query LIKE 'SELECT%%'"
        )
        costs.append(pages)
    return statistics.median_low(costs)


@pytest.mark.slow
def test_quota_check_cost_does_not_grow_with_a_million_requests(service: Service, alice: bytes) -> None:
    """A counter is read, not the history. Only the depth of the two indexes of requests that get an entry may grow.

    Each goes from one level to three, as does the heap's free space map: two more pages each, and as much again as
    a margin. Counting the month's requests would read some twenty thousand.
    """
    database = service.database("submit")
    pages_of_a_submit(service, database, alice)
    before = pages_of_a_submit(service, database, alice)

    partition = service.value("SELECT tableoid::regclass::text FROM requests LIMIT 1")
    service.owner.execute(f"""
        INSERT INTO {partition} (request_id, user_id, model_id, status, created_at, updated_at, started_at, completed_at,
                                 result_id, estimated_tokens, reserved_tokens, prompt_tokens, completion_tokens, total_tokens)
        SELECT i, 'alice', 'nova-micro', 'completed', uuid_extract_timestamp(i), now(), now(), now(), i, 9, 9, 4, 5, 9
        FROM (
            SELECT overlay(uuidv7_floor(m.start + (now() - m.start) * (n / 1000001.0))::text
                           PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid AS i
            FROM generate_series(1, 1000000) AS n, date_trunc('month', now()) AS m (start)
            ORDER BY 1
        ) AS ids
    """)
    service.owner.execute(f"ANALYZE {partition}")
    assert service.value("SELECT count(*) FROM requests WHERE user_id = 'alice'") > 1_000_000

    fresh = service.database("submit")  # no plans from when the table was small
    pages_of_a_submit(service, fresh, alice)
    for connection in (database, fresh):
        assert pages_of_a_submit(service, connection, alice) - before <= 3 * 2 * 2
    assert service.value("SELECT pg_relation_size(%s::regclass) / 8192", partition) > 15_000
