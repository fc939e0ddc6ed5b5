"""The life of a request, with the seed's statements and with ours."""

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from sluice.domain.documents import Input
from sluice.domain.errors import DatabaseError
from tests.support.seed import (
    OTHER_KEY,
    SEED_HISTORY,
    SEED_STATUS,
    STATEMENTS,
    accept,
    answered,
    ask,
    books,
    claim,
    one,
    plan_of,
    seed_says,
    settle,
)
from tests.support.service import Service, completed, failed, retry


def test_status_is_the_seeds_query_unchanged(seed: Service, user123: bytes) -> None:
    done, refused, running, waiting = (accept(seed, user123) for _ in range(4))
    claim(seed, done, refused, running)
    settle(seed, completed(done, content="Le texte"), failed(refused))

    for request_id, status, error, result in (
        (done, "completed", None, "Le texte"),
        (refused, "failed", "no", None),
        (running, "processing", None, None),
        (waiting, "queued", None, None),
    ):
        expected = {"request_id": request_id, "status": status, "error_message": error, "result": result}
        assert ask(seed, "status", request_id) == seed_says(seed, SEED_STATUS, request_id) == [expected]
        assert one(seed, "status_read", user123, request_id) == {"outcome": "ok"} | expected
    assert " ".join(STATEMENTS["status"][1].split()) == " ".join(SEED_STATUS.split())
    assert ask(seed, "status", uuid4()) == []
    assert one(seed, "status_read", user123, uuid4())["outcome"] == "request_not_found"
    other = seed.add_user("bob", OTHER_KEY)
    assert one(seed, "status_read", other, done)["outcome"] == "request_not_found"


def test_history_is_the_newest_ten(seed: Service, user123: bytes) -> None:
    bob = seed.add_user("bob", OTHER_KEY)
    for n in range(12):
        answered(seed, user123, f"prompt {n}") if n % 2 else accept(seed, user123, f"prompt {n}")
        accept(seed, bob)
        time.sleep(0.002)  # The seed orders by milliseconds: two in one would be unordered.

    found = ask(seed, "history", user123)

    assert [row["prompt"] for row in found] == [f"prompt {n}" for n in range(11, 1, -1)]
    assert found == seed_says(seed, SEED_HISTORY)


def test_history_truncates_long_prompts(seed: Service, user123: bytes) -> None:
    accept(seed, user123, "x" * 1001)
    assert one(seed, "history", user123)["prompt"] == "x" * 1000
    assert seed_says(seed, SEED_HISTORY)[0]["prompt"] == "x" * 1001


def test_completion_is_one_commit(service: Service, user123: bytes) -> None:
    request_id = accept(service, user123)
    assert service.value("SELECT sum(requests_used) FROM quotas") == 3, "counted when accepted, once in each period"
    (claimed,) = claim(service, request_id)
    assert (claimed["attempt"], Input.model_validate(claimed["input"])) == (1, Input.of_prompt("hello"))
    assert one(service, "status", request_id)["status"] == "processing"
    time.sleep(0.02)

    settle(service, completed(request_id, content="Le texte", prompt_tokens=120, completion_tokens=80))

    (row,) = service.rows("SELECT r.*, s.content, s.token_count FROM requests r JOIN results s USING (result_id)")
    assert (row["status"], row["content"], row["error_message"]) == ("completed", "Le texte", None)
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (120, 80, 200)
    assert row["token_count"] == 80
    took = row["completed_at"] - row["started_at"]
    assert row["processing_time_ms"] == pytest.approx(took.total_seconds() * 1000, abs=1)
    assert row["processing_time_ms"] >= 20
    assert row["updated_at"] == row["completed_at"]
    for quota in service.rows("SELECT * FROM quotas"):
        assert (quota["requests_used"], quota["tokens_used"], quota["tokens_reserved"]) == (1, 200, 0)
    assert service.value("SELECT count(*) FROM inflight") == 0
    written = {
        row["xmin"] for t in ("requests", "results", "quotas") for row in service.rows(f"SELECT xmin::text FROM {t}")
    }
    written |= {
        row["xmin"] for row in service.rows("SELECT xmin::text FROM audit_log WHERE action = 'request.completed'")
    }
    assert len(written) == 1, "it is one transaction"


@pytest.mark.parametrize(
    ("table", "promise"),
    [
        ("requests", "CHECK (status <> 'completed')"),  # fails after the result was inserted
        ("quotas", "CHECK (tokens_used = 0)"),
        ("audit_log", "CHECK (action <> 'request.completed')"),  # the last row that is written
    ],
)
def test_a_failed_completion_is_rolled_back(service: Service, user123: bytes, table: str, promise: str) -> None:
    request_id = accept(service, user123)
    claim(service, request_id)
    before = books(service)
    service.owner.execute(f"ALTER TABLE {table} ADD CONSTRAINT in_the_middle {promise} NOT VALID")

    with pytest.raises(DatabaseError) as broken:
        service.settle(completed(request_id))

    assert broken.value.constraint == "in_the_middle"
    assert books(service) == before
    service.owner.execute(f"ALTER TABLE {table} DROP CONSTRAINT in_the_middle")
    settle(service, completed(request_id))
    assert one(service, "status", request_id)["status"] == "completed"


def test_tokens_are_first_estimated_then_actual(service: Service, user123: bytes) -> None:
    request_id = accept(service, user123, "Translate the following text to French")
    columns = "SELECT estimated_tokens, reserved_tokens, prompt_tokens, completion_tokens, total_tokens FROM requests"

    (row,) = service.rows(columns)
    assert row["estimated_tokens"] == -(-len("Translate the following text to French") // 4) + 64 + 512
    assert row["estimated_tokens"] <= row["reserved_tokens"]
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (None, None, None)

    claim(service, request_id)
    settle(service, completed(request_id, prompt_tokens=120, completion_tokens=80))

    (after,) = service.rows(columns)
    assert after == row | {"prompt_tokens": 120, "completion_tokens": 80, "total_tokens": 200}


def test_status_needs_no_index_on_requests(seed: Service, user123: bytes) -> None:
    ids = [accept(seed, user123) for _ in range(6)]
    claim(seed, *ids[:4])
    settle(seed, completed(ids[0]), failed(ids[1]), retry(ids[2]))

    for status, expected in (("queued", [ids[2], *ids[4:]]), ("processing", [ids[3]])):
        found = [row["request_id"] for row in ask(seed, "unfinished", status)]
        by_seed = seed_says(seed, "SELECT request_id FROM requests WHERE status = $1", status)
        assert found == sorted(row["request_id"] for row in by_seed) == sorted(expected)
    indexed = "SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'requests%%' AND indexdef LIKE '%%status%%'"
    assert seed.rows(indexed) == []


def test_a_time_range_is_a_range_of_ids(seed: Service, user123: bytes) -> None:
    first, now = accept(seed, user123), datetime.now(UTC)
    time.sleep(0.002)
    middle = accept(seed, user123)
    start, end = (seed.value("SELECT created_at FROM requests WHERE request_id = %s", i) for i in (first, middle))

    for low, high in (
        (start, end),
        (start, end + timedelta(milliseconds=1)),
        (end, end + timedelta(days=1)),
        (end, start),
    ):
        by_time = seed_says(
            seed,
            "SELECT request_id, created_at FROM requests WHERE created_at >= $1 AND created_at < $2 ORDER BY 2",
            low,
            high,
        )
        assert ask(seed, "accepted_between", low, high) == by_time

    # Only one of the four monthly partitions is read.
    read = {node["Relation Name"] for node in plan_of(seed, STATEMENTS["accepted_between"][1], start, end)}
    assert read == {f"requests_y{now:%Y}m{now:%m}"}
