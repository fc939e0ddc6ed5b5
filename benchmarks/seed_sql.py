"""The baseline: the design that Sluice replaces, as its first drawing had it ("the seed's SQL").

Tables, indexes and statements are the drawing's, with its token counts; docs/history/seed-map.md says what became of
each. Two things are filled in that it shows in prose only: users are found by a key in plain text (users.api_key), and
a worker takes and ends a batch in one transaction, as Sluice's does. It has no leases, no retries, no audit log and no
reservations, and two requests at the same instant can exceed a quota.
"""

from collections.abc import Sequence
from typing import Any, Final, LiteralString
from uuid import UUID, uuid4

from benchmarks.server import Address
from benchmarks.sides import ANSWER, COMPLETION_TOKENS, PROMPT, PROMPT_TOKENS, Compared, user_id
from sluice.db.connection import Connection

SCHEMA: Final = """
    CREATE TABLE users (
        user_id VARCHAR(50) PRIMARY KEY,
        api_key VARCHAR(64) UNIQUE NOT NULL,
        name VARCHAR(100),
        email VARCHAR(100),
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        active BOOLEAN DEFAULT TRUE
    );
    CREATE TABLE quotas (
        quota_id SERIAL PRIMARY KEY,
        user_id VARCHAR(50) REFERENCES users(user_id),
        request_limit INTEGER NOT NULL,
        token_limit INTEGER NOT NULL,
        requests_used INTEGER DEFAULT 0,
        tier VARCHAR(20) NOT NULL,
        reset_frequency VARCHAR(20) DEFAULT 'monthly',
        UNIQUE(user_id)
    );
    CREATE TABLE results (
        result_id UUID PRIMARY KEY,
        content TEXT NOT NULL,
        token_count INTEGER,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
    );
    CREATE TABLE requests (
        request_id UUID PRIMARY KEY,
        user_id VARCHAR(50) REFERENCES users(user_id),
        prompt TEXT NOT NULL,
        result_id UUID,
        status VARCHAR(20) NOT NULL,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        completed_at TIMESTAMP,
        processing_time_ms INTEGER,
        estimated_tokens INTEGER,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        total_tokens INTEGER,
        model VARCHAR(50),
        error TEXT
    );
    CREATE TABLE usage (
        usage_id SERIAL PRIMARY KEY,
        user_id VARCHAR(50) REFERENCES users(user_id),
        period VARCHAR(20) NOT NULL,
        period_start DATE NOT NULL,
        period_end DATE NOT NULL,
        requests_count INTEGER DEFAULT 0,
        tokens_used INTEGER DEFAULT 0,
        UNIQUE(user_id, period, period_start)
    );
    CREATE TABLE requests_archive (LIKE requests INCLUDING ALL);
    CREATE INDEX idx_api_keys ON users(api_key);
    CREATE INDEX idx_requests_user_id ON requests(user_id);
    CREATE INDEX idx_requests_created_at ON requests(created_at);
    CREATE INDEX idx_requests_status ON requests(status);
    CREATE INDEX idx_usage_user_period ON usage(user_id, period, period_start);
    CREATE MATERIALIZED VIEW request_stats AS
    SELECT date_trunc('day', created_at) AS day, user_id, model, COUNT(*) AS request_count,
           AVG(processing_time_ms) AS avg_processing_time,
           SUM(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failure_count
    FROM requests
    GROUP BY date_trunc('day', created_at), user_id, model;
"""

FIND_USER: Final = "SELECT user_id, active FROM users WHERE api_key = %s"
TOKENS_LEFT: Final = """
    WITH user_quota AS (SELECT token_limit FROM quotas WHERE user_id = %(user)s),
    user_usage AS (
        SELECT COALESCE(SUM(total_tokens), 0) AS tokens_used FROM requests
        WHERE user_id = %(user)s AND created_at >= DATE_TRUNC('month', CURRENT_DATE))
    SELECT (SELECT token_limit FROM user_quota) - (SELECT tokens_used FROM user_usage) AS remaining_tokens"""
INSERT_REQUEST: Final = """
    INSERT INTO requests (request_id, user_id, prompt, model, estimated_tokens, status)
    VALUES (%s, %s, %s, %s, %s, 'queued')"""
BEGIN_REQUEST: Final = "UPDATE requests SET status = 'processing' WHERE request_id = %s RETURNING prompt, model"
INSERT_RESULT: Final = "INSERT INTO results (result_id, content, token_count) VALUES (%s, %s, %s)"
COMPLETE_REQUEST: Final = """
    UPDATE requests SET status = 'completed', result_id = %s, processing_time_ms = 1500, prompt_tokens = %s,
        completion_tokens = %s, total_tokens = %s, completed_at = CURRENT_TIMESTAMP
    WHERE request_id = %s RETURNING user_id"""
COUNT_REQUEST: Final = "UPDATE quotas SET requests_used = requests_used + 1 WHERE user_id = %s"
STATUS: Final = """
    SELECT r.status, r.error, r.created_at, r.completed_at, r.prompt_tokens, r.completion_tokens, r.total_tokens,
           res.content AS result
    FROM requests r LEFT JOIN results res ON r.result_id = res.result_id
    WHERE r.request_id = %s AND r.user_id = %s"""
HISTORY: Final = """
    SELECT request_id, prompt, status, created_at, processing_time_ms FROM requests WHERE user_id = %s
    ORDER BY created_at DESC LIMIT 10"""
USAGE: Final = """
    INSERT INTO usage (user_id, period, period_start, period_end, requests_count, tokens_used)
    SELECT user_id, 'monthly', DATE_TRUNC('month', CURRENT_DATE),
           (DATE_TRUNC('month', CURRENT_DATE) + INTERVAL '1 month - 1 day')::date,
           COUNT(*), COALESCE(SUM(total_tokens), 0)
    FROM requests
    WHERE created_at >= DATE_TRUNC('month', CURRENT_DATE)
      AND created_at < (DATE_TRUNC('month', CURRENT_DATE) + INTERVAL '1 month')
    GROUP BY user_id
    ON CONFLICT (user_id, period, period_start)
    DO UPDATE SET requests_count = EXCLUDED.requests_count, tokens_used = EXCLUDED.tokens_used"""
STATISTICS: Final = "REFRESH MATERIALIZED VIEW request_stats"
ARCHIVE: Final = (
    """INSERT INTO requests_archive SELECT * FROM requests
    WHERE status IN ('completed', 'failed') AND created_at < NOW() - INTERVAL '30 days'""",
    "DELETE FROM requests WHERE status IN ('completed', 'failed') AND created_at < NOW() - INTERVAL '30 days'",
)
MODEL: Final = "nova-micro"
_TOKENS: Final = PROMPT_TOKENS + COMPLETION_TOKENS


class SeedSide(Compared):
    """The seed's SQL, one statement at a time, each a transaction of its own except for a worker's batch.

    Args:
        users: how many there are.
        is_new: the database is empty: the tables and the users are made.
        checks_quotas: False leaves the sum of the month's tokens out: then nothing is refused.
    """

    name = "the seed's SQL"

    def __init__(self, address: Address, users: int, *, is_new: bool = True, checks_quotas: bool = True) -> None:
        self.address = address
        self._checks_quotas = checks_quotas
        # As separate functions have: submit, status, worker.
        self._front, self._reader, self._worker = (address.connect() for _ in range(3))
        if is_new:
            self._front.execute(SCHEMA)
            for user in range(users):
                self._front.execute("INSERT INTO users (user_id, api_key) VALUES (%s, %s)", (user_id(user), _key(user)))
                self._front.execute(
                    """INSERT INTO quotas (user_id, request_limit, token_limit, tier)
                    VALUES (%s, 2000000000, 2000000000, 'premium')""",
                    (user_id(user),),
                )

    def submit(self, user: int) -> UUID:
        request_id = uuid4()
        found = _one(self._front, FIND_USER, (_key(user),))
        assert found["active"]
        if self._checks_quotas:
            assert _one(self._front, TOKENS_LEFT, {"user": found["user_id"]})["remaining_tokens"] > 0
        self._front.execute(INSERT_REQUEST, (request_id, found["user_id"], PROMPT, MODEL, _TOKENS))
        return request_id

    def refuse(self, user: int) -> None:
        found = _one(self._front, FIND_USER, (_key(user),))
        assert _one(self._front, TOKENS_LEFT, {"user": found["user_id"]})["remaining_tokens"] <= 0

    def leave_tokens(self, user: int, tokens: int) -> None:
        self._front.execute("UPDATE quotas SET token_limit = %s WHERE user_id = %s", (tokens, user_id(user)))

    def claim(self, requests: Sequence[UUID]) -> Sequence[UUID]:
        with self._worker.transaction():
            for request_id in requests:
                assert _one(self._worker, BEGIN_REQUEST, (request_id,))["prompt"] == PROMPT
        return requests

    def settle(self, claimed: Sequence[UUID]) -> None:
        with self._worker.transaction():
            for request_id in claimed:
                result_id = uuid4()
                self._worker.execute(INSERT_RESULT, (result_id, ANSWER, COMPLETION_TOKENS))
                completed = (result_id, PROMPT_TOKENS, COMPLETION_TOKENS, _TOKENS, request_id)
                ended = _one(self._worker, COMPLETE_REQUEST, completed)
                self._worker.execute(COUNT_REQUEST, (ended["user_id"],))

    def status(self, user: int, request: UUID) -> None:
        found = _one(self._reader, FIND_USER, (_key(user),))
        assert _one(self._reader, STATUS, (request, found["user_id"]))["result"] == ANSWER

    def history(self, user: int) -> None:
        found = _one(self._reader, FIND_USER, (_key(user),))
        assert len(self._reader.execute(HISTORY, (found["user_id"],)).fetchall()) == 10

    def roll_up(self) -> None:
        assert self._worker.execute(USAGE).rowcount > 0

    def refresh_statistics(self) -> None:
        self._worker.execute(STATISTICS)

    def archive(self) -> None:
        with self._worker.transaction():
            for statement in ARCHIVE:
                assert self._worker.execute(statement).rowcount > 0

    def close(self) -> None:
        for connection in (self._front, self._reader, self._worker):
            connection.close()


def _one(connection: Connection, statement: LiteralString, arguments: Any) -> dict[str, Any]:
    row = connection.execute(statement, arguments).fetchone()
    assert row is not None
    return row


def _key(user: int) -> str:
    return f"sluice_{user:043}"
