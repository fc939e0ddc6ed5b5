"""Submitting: who may, what is written, what is refused, and what is reserved."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from sluice.api.native.bodies import GenerateRequest
from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.errors import SluiceError
from sluice.domain.keys import digest
from sluice.services.submit import Accepted
from tests.support.service import Service, status_of

TABLES = ("requests", "prompts", "inflight", "idempotency_keys", "audit_log")


def try_submit(
    service: Service, key_hash: bytes, prompt: str = "hello", idempotency_key: str | None = None, **given: Any
) -> Accepted:
    request = GenerateRequest(prompt=prompt, **given)
    return service.submitter().submit(key_hash, request.submission(idempotency_key))


def written(service: Service) -> dict[str, Any]:
    """Every row that submitting may write."""
    counts = {table: service.value(f"SELECT count(*) FROM {table}") for table in TABLES}
    return counts | {"quotas": service.rows("SELECT * FROM quotas ORDER BY user_id, quota_period")}


def test_an_accepted_request_is_stored_and_sent(service: Service, alice: bytes) -> None:
    accepted = try_submit(service, alice, "hello", parameters={"max_tokens": 5, "seed": 1}, metadata={"team": "x"})

    (row,) = service.rows(
        "SELECT * FROM requests JOIN prompts USING (request_id) JOIN inflight USING (request_id, user_id)"
    )
    assert row["request_id"] == accepted.request_id
    assert (row["user_id"], row["model_id"], row["prompt"]) == ("alice", "nova-micro", "hello")
    assert row["parameters"] == {"max_tokens": 5, "seed": 1}
    assert row["metadata"] == {"team": "x"}
    assert row["created_at"] == service.value("SELECT uuid_extract_timestamp(%s)", accepted.request_id)
    assert row["reserved_tokens"] == len("hello") + 64 + 5
    assert row["dispatched_at"] is not None
    assert service.queue.take() == [accepted.request_id]
    (audit,) = service.rows("SELECT * FROM audit_log WHERE action = 'request.queued'")
    assert (audit["actor"], audit["user_id"], audit["request_id"]) == ("submit", "alice", accepted.request_id)
    assert audit["key_id"] == service.value("SELECT key_id FROM api_keys")
    for quota in service.rows("SELECT * FROM quotas"):
        assert (quota["requests_used"], quota["tokens_used"], quota["tokens_reserved"]) == (1, 0, 74)


def test_the_reservation_counts_bytes_and_the_models_default(service: Service, alice: bytes) -> None:
    try_submit(service, alice, "é" * 10)

    # 20 bytes of UTF-8, 64 for the chat template, 512 for the answer by default
    assert service.value("SELECT reserved_tokens FROM requests") == 20 + 64 + 512


def make_unknown(service: Service) -> None:
    service.owner.execute("UPDATE api_keys SET key_hash = sha256('another')")


def make_revoked(service: Service) -> None:
    service.owner.execute("UPDATE api_keys SET revoked_at = now()")


def make_expired(service: Service) -> None:
    service.owner.execute("UPDATE api_keys SET expires_at = now()")


def make_inactive(service: Service) -> None:
    service.owner.execute("UPDATE users SET is_active = false")


def make_read_only(service: Service) -> None:
    service.owner.execute("UPDATE api_keys SET scopes = '{read}'")


def fill_the_minute(service: Service) -> None:
    service.owner.execute(
        "UPDATE quotas SET requests_used = max_requests, period_start = period_start('minute', now()),"
        " reset_at = period_end('minute', now()) + interval '1 minute' WHERE quota_period = 'minute'"
    )


def leave_few_tokens(service: Service) -> None:
    service.owner.execute("UPDATE quotas SET tokens_reserved = max_tokens - 580 WHERE quota_period = 'monthly'")


def shrink_the_day(service: Service) -> None:
    service.owner.execute("UPDATE quotas SET max_tokens = 100 WHERE quota_period = 'daily'")


def allow_none_unfinished(service: Service) -> None:
    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (uuidv7(), 'alice', 1, now())"
    )
    service.owner.execute("UPDATE quota_plans SET max_unfinished = 1")


def forget_the_default_model(service: Service) -> None:
    service.owner.execute("UPDATE models SET is_default = false")


@pytest.mark.parametrize(
    ("spoil", "given", "code", "status"),
    [
        (make_unknown, {}, "key_unknown", 401),
        (make_revoked, {}, "key_revoked", 401),
        (make_expired, {}, "key_expired", 401),
        (make_inactive, {}, "user_inactive", 403),
        (make_read_only, {}, "scope_missing", 403),
        (None, {"prompt": "x" * 1001}, "prompt_too_long", 422),
        (None, {"model": "no-such-model"}, "model_unknown", 422),
        (forget_the_default_model, {}, "model_missing", 422),
        (None, {"parameters": {"max_tokens": 5001}}, "max_tokens_exceeded", 422),
        (shrink_the_day, {}, "quota_too_small", 422),
        (fill_the_minute, {}, "quota_exceeded", 429),
        (leave_few_tokens, {}, "quota_reserved", 429),
        (allow_none_unfinished, {}, "unfinished_exceeded", 429),
    ],
)
def test_a_refusal_says_why_and_writes_nothing(
    service: Service,
    alice: bytes,
    spoil: Callable[[Service], None] | None,
    given: dict[str, Any],
    code: str,
    status: int,
) -> None:
    if spoil:
        spoil(service)
    before = written(service)

    with pytest.raises(SluiceError) as refused:
        try_submit(service, alice, **given)

    assert (refused.value.code, status_of(refused.value)) == (code, status)
    assert (refused.value.retry_after is not None) == (status == 429)
    assert written(service) == before
    assert service.queue.take() == []


def test_a_quota_refusal_says_when_to_retry(service: Service, alice: bytes) -> None:
    fill_the_minute(service)

    with pytest.raises(SluiceError) as refused:
        try_submit(service, alice)

    reset_in = service.value("SELECT extract(epoch FROM reset_at - now()) FROM quotas WHERE quota_period = 'minute'")
    assert refused.value.retry_after == pytest.approx(float(reset_in), abs=2)
    headers = rate_limit_headers(refused.value.quotas)
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert int(headers["x-ratelimit-reset-requests"]) == refused.value.retry_after


def test_a_period_starts_again_after_it_ends(service: Service, alice: bytes) -> None:
    service.owner.execute(
        "UPDATE quotas SET requests_used = max_requests, tokens_used = 5, tokens_reserved = 7,"
        " period_start = period_start - interval '1 minute', reset_at = reset_at - interval '1 minute'"
        " WHERE quota_period = 'minute'"
    )

    try_submit(service, alice)

    (minute,) = service.rows("SELECT * FROM quotas WHERE quota_period = 'minute'")
    created_at = service.value("SELECT created_at FROM requests")
    assert minute["period_start"] <= created_at < minute["reset_at"]
    assert (minute["requests_used"], minute["tokens_used"], minute["tokens_reserved"]) == (1, 0, 581)


def test_recovery_sends_messages_that_submit_could_not(service: Service, alice: bytes) -> None:
    service.queue.down = True
    accepted = try_submit(service, alice)

    assert service.rows("SELECT request_id, dispatched_at FROM inflight") == [
        {"request_id": accepted.request_id, "dispatched_at": None}
    ]


def test_requests_beyond_the_dispatch_window_have_no_message(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 2")
    ids = [try_submit(service, alice).request_id for _ in range(4)]

    assert service.queue.take() == ids[:2]
    assert service.value("SELECT count(*) FROM inflight WHERE dispatched_at IS NULL") == 2


def test_the_same_idempotency_key_and_body_is_the_same_request(service: Service, alice: bytes) -> None:
    first = try_submit(service, alice, "hello", "once")
    second = try_submit(service, alice, "hello", "once")

    assert (second.request_id, second.replayed) == (first.request_id, True)
    assert service.value("SELECT count(*) FROM requests") == 1
    with pytest.raises(SluiceError) as refused:
        try_submit(service, alice, "another", "once")
    assert refused.value.code == "idempotency_conflict"


def test_an_idempotency_key_belongs_to_one_user(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    first = try_submit(service, alice, "hello", "once")

    assert try_submit(service, bob, "hello", "once").request_id != first.request_id


def test_concurrent_use_of_an_idempotency_key_makes_one_request(service: Service, alice: bytes) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: try_submit(service, alice, "hello", "once"), range(16)))

    assert len({answer.request_id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert service.value("SELECT count(*) FROM requests") == 1


@pytest.mark.parametrize(
    ("limit", "code"),
    [({"max_requests": 13}, "quota_exceeded"), ({"max_tokens": 13 * 581 + 580}, "quota_reserved")],
)
def test_a_limit_holds_under_concurrent_submits(service: Service, limit: dict[str, int], code: str) -> None:
    key = service.add_user("bob", "sluice_" + "b" * 43, monthly=limit)

    def attempt(_: int) -> str:
        try:
            try_submit(service, key)
        except SluiceError as error:
            return error.code
        return "accepted"

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(attempt, range(60)))

    assert answers.count("accepted") == 13
    assert answers.count(code) == 47
    assert service.value("SELECT count(*) FROM requests") == 13


def test_direct_inserts_are_accounted_like_submits(service: Service, alice: bytes) -> None:
    service.owner.execute("INSERT INTO submissions (user_id, prompt, model_id) VALUES ('alice', 'hello', 'nova-micro')")

    assert service.rows("SELECT user_id, prompt, model_id, status FROM submissions") == [
        {"user_id": "alice", "prompt": "hello", "model_id": "nova-micro", "status": "queued"}
    ]
    assert service.value("SELECT sum(requests_used) FROM quotas") == 3
    assert service.value("SELECT dispatched_at FROM inflight") is None


@pytest.mark.parametrize(
    ("spoil", "sqlstate", "constraint"),
    [(fill_the_minute, "SL429", "quota_exceeded"), (make_inactive, "SL403", "user_inactive")],
)
def test_refused_direct_inserts_name_the_reason(
    service: Service, alice: bytes, spoil: Callable[[Service], None], sqlstate: str, constraint: str
) -> None:
    spoil(service)
    with pytest.raises(psycopg.Error) as refused:
        service.owner.execute("INSERT INTO submissions (user_id, prompt) VALUES ('alice', 'hello')")
    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == (sqlstate, constraint)
    assert service.value("SELECT count(*) FROM requests") == 0


def test_a_keys_last_use_is_written_at_most_once_a_minute(service: Service, alice: bytes) -> None:
    try_submit(service, alice)
    first = service.value("SELECT last_used_at FROM api_keys")
    try_submit(service, alice)

    assert first is not None
    assert service.value("SELECT last_used_at FROM api_keys") == first


def test_an_unknown_key_is_refused(service: Service, alice: bytes) -> None:
    with pytest.raises(SluiceError) as refused:
        try_submit(service, digest("sluice_" + "z" * 43))
    assert refused.value.code == "key_unknown"


@pytest.mark.parametrize(
    "parameters",
    [
        '{"max_tokens": 0}',
        '{"max_tokens": -5}',
        '{"max_tokens": 1.5}',
        '{"max_tokens": "5"}',
        '{"max_tokens": 99999999999}',
        '{"messages": []}',
        '{"model": "x"}',
        '{"stop": 5}',
        '{"temperature": "hot"}',
        '{"temperature": -0.1}',
        '{"temperature": 2.1}',
        '{"top_p": 0}',
        '{"top_p": 1.1}',
        '{"seed": 2147483648}',
        "[]",
        "5",
    ],
)
def test_direct_inserts_are_validated_like_submits(service: Service, alice: bytes, parameters: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        service.owner.execute(
            "INSERT INTO submissions (user_id, prompt, parameters) VALUES ('alice', 'hello', %s)", (parameters,)
        )
    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == ("SL422", "invalid_input")


@pytest.mark.parametrize("prompt", ["", None])
def test_direct_inserts_need_a_prompt(service: Service, alice: bytes, prompt: str | None) -> None:
    with pytest.raises(psycopg.Error) as refused:
        service.owner.execute("INSERT INTO submissions (user_id, prompt) VALUES ('alice', %s)", (prompt,))
    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == ("SL422", "invalid_input")


def test_a_repeat_is_answered_even_if_the_model_is_gone(service: Service, alice: bytes) -> None:
    first = try_submit(service, alice, "hello", "once")
    service.owner.execute("UPDATE models SET is_default = false, is_active = false")
    assert try_submit(service, alice, "hello", "once").request_id == first.request_id


def test_a_limit_of_zero_requests_is_reported_as_too_small(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quotas SET max_requests = 0 WHERE quota_period = 'daily'")
    with pytest.raises(SluiceError, match="daily quota allows no requests"):
        try_submit(service, alice)
