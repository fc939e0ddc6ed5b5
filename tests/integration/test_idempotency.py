"""Idempotency keys: for how long they count, and what a replay says."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from sluice.api.native.bodies import GenerateRequest
from sluice.domain.keys import digest
from sluice.services.submit import Accepted
from sluice.services.tasks import expire
from tests.support.functions import KEYED, Answer, post
from tests.support.ledger import assert_books_balance, cancelled, set_clock, stop_the_clock
from tests.support.service import KEY, LIMITS, Service, completed, failed

NOON = datetime(2031, 1, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OTHER_KEY = "sluice_" + "o" * 43


@pytest.fixture
def clocked(service: Service, alice: bytes) -> tuple[Service, bytes]:
    stop_the_clock(service.owner, NOON)
    return service, alice


def submit(service: Service, key_hash: bytes, prompt: str = "hello", **given: Any) -> Accepted:
    """A submission with the key `once`, to a service where requests may wait for two days."""
    day_long = type(LIMITS)(max_prompt_bytes=1000, longest_seconds=2 * 86_400, max_attempts=3)
    request = GenerateRequest(prompt=prompt, **given).submission("once")
    return service.submitter(limits=day_long).submit(key_hash, request)


def clean(service: Service, at: datetime) -> int:
    """What the cleaning task deletes at a time."""
    set_clock(service.owner, at)
    return expire.run(service.tasks())["idempotency_keys"]


# For how long it counts -----------------------------------------------------------------------------------------------


def test_a_key_counts_while_its_request_waits(clocked: tuple[Service, bytes]) -> None:
    service, alice = clocked
    first = submit(service, alice, not_before="2031-01-31T11:00:00Z")

    for hours in (1, 23, 24, 25, 46):
        assert clean(service, NOON + hours * HOUR) == 0
        again = submit(service, alice, not_before="2031-01-31T11:00:00Z")
        assert (again.request_id, again.replayed, again.status) == (first.request_id, True, "queued")
    assert service.value("SELECT count(*) FROM requests") == 1


@pytest.mark.parametrize("end", [completed, failed, cancelled], ids=["completed", "failed", "cancelled"])
def test_a_key_counts_until_a_day_after_the_end(
    clocked: tuple[Service, bytes], end: Callable[[UUID], dict[str, Any]]
) -> None:
    service, alice = clocked
    first = submit(service, alice)
    service.claim(first.request_id)
    set_clock(service.owner, NOON + 30 * HOUR)
    service.settle(end(first.request_id))

    assert clean(service, NOON + 54 * HOUR - timedelta(milliseconds=1)) == 0
    assert submit(service, alice).request_id == first.request_id
    set_clock(service.owner, NOON + 54 * HOUR)
    assert submit(service, alice, "another").request_id != first.request_id, "the key is free for anything"


def test_keys_of_ended_requests_are_deleted_a_day_later(clocked: tuple[Service, bytes]) -> None:
    service, alice = clocked
    first = submit(service, alice)
    assert clean(service, NOON + 25 * HOUR) == 0, "unfinished"
    service.claim(first.request_id)
    service.settle(completed(first.request_id))

    assert clean(service, NOON + 48 * HOUR) == 0
    assert clean(service, NOON + 49 * HOUR) == 1
    assert service.value("SELECT count(*) FROM idempotency_keys") == 0


def test_the_key_of_a_redriven_request_counts_again(clocked: tuple[Service, bytes]) -> None:
    service, alice = clocked
    first = submit(service, alice)
    service.claim(first.request_id)
    service.settle(failed(first.request_id))
    for days in range(1, 5):
        assert clean(service, NOON + timedelta(days=days)) == 0, "it may be redriven"

    service.act("request.redrive", request_id=str(first.request_id), ttl_seconds=60, max_attempts=3)

    again = submit(service, alice)
    assert (again.request_id, again.replayed, again.status) == (first.request_id, True, "queued")
    assert_books_balance(service)


def test_keys_of_failed_requests_go_with_their_month(clocked: tuple[Service, bytes]) -> None:
    service, alice = clocked
    first = submit(service, alice)
    service.claim(first.request_id)
    service.settle(failed(first.request_id))
    set_clock(service.owner, NOON + timedelta(days=40))
    service.maintenance().archive_months(30)

    assert clean(service, NOON + timedelta(days=40)) == 1


# What a replay says ---------------------------------------------------------------------------------------------------


def repeat(key: str = "once", headers: dict[str, str] = KEYED, body: str = '{"prompt": "hello"}') -> Answer:
    return post(body, headers | {"idempotency-key": key})


def test_a_replay_says_so_and_what_became_of_the_first(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit")
    status, headers, first = repeat()
    request_id = UUID(first["request_id"])
    assert (status, first["status"], headers.get("Idempotent-Replayed")) == (202, "queued", None)

    seen = [repeat()]
    service.claim(request_id)
    seen.append(repeat())
    service.settle(completed(request_id))
    seen.append(repeat())

    assert [(status, body) for status, _, body in seen] == [
        (202, {"request_id": str(request_id), "status": "queued"}),
        (202, {"request_id": str(request_id), "status": "processing"}),
        (200, {"request_id": str(request_id), "status": "completed"}),
    ]
    assert [headers.get("Retry-After") for _, headers, _ in seen] == ["1", "1", None]
    for _, headers, _ in seen:
        assert (headers["Idempotent-Replayed"], headers["Location"]) == ("true", f"/status/{request_id}")
    assert service.value("SELECT count(*) FROM requests") == 1


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ("once", True),
        (" once ", True),  # space around a header's value is none of it
        ("ONCE", False),
        ("on ce", False),
        ("once.", False),
    ],
)
def test_keys_are_compared_character_by_character(
    deploy: Any, service: Service, alice: bytes, key: str, same: bool
) -> None:
    deploy("submit")
    first = repeat()[2]["request_id"]
    assert (repeat(key)[2]["request_id"] == first) == same


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "é" * 255, "a\tb", "a\x7f", "a,b", "once,once", "once, once"])
def test_a_key_that_is_none_is_refused(deploy: Any, service: Service, alice: bytes, key: str) -> None:
    """A comma is what API Gateway puts between the values of a header that was sent twice."""
    deploy("submit")
    status, _, problem = repeat(key)
    assert (status, problem["code"]) == (422, "invalid_input")
    assert "Idempotency-Key" in problem["detail"]
    assert service.value("SELECT count(*) FROM requests") == 0


def test_the_longest_key_is_accepted(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit")
    assert repeat("!" + "~" * 254)[2]["request_id"] == repeat("!" + "~" * 254)[2]["request_id"]


def test_another_time_zone_is_the_same_body(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit")
    ends = datetime.now(UTC) + HOUR
    bodies = [
        json.dumps({"prompt": "hello", "expires_at": text})
        for text in (ends.isoformat(), f"{ends:%Y-%m-%d %H:%M:%S.%f}999z")
    ]
    assert len({repeat(body=body)[2]["request_id"] for body in bodies}) == 1


def test_a_replay_needs_no_quota(deploy: Any, service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", limits={"daily": {"max_requests": 1}}, max_unfinished=1)
    deploy("submit")
    first = repeat()[2]["request_id"]
    assert post('{"prompt": "hello"}')[0] == 429

    status, headers, body = repeat()

    assert (status, body["request_id"], headers["x-ratelimit-remaining-requests"]) == (202, first, "0")


def test_a_replay_needs_no_model(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit")
    first = repeat()[2]["request_id"]
    service.owner.execute("UPDATE models SET is_default = false, is_active = false")
    assert repeat()[2]["request_id"] == first


def test_a_refusal_keeps_no_key(deploy: Any, service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", limits={"daily": {"max_requests": 0}})
    deploy("submit")
    assert repeat()[2]["code"] == "quota_too_small"
    assert service.value("SELECT count(*) FROM idempotency_keys") == 0
    service.act("quota.set", user_id="alice", limits={"daily": {"max_requests": 9}})

    status, headers, _ = repeat(body='{"prompt": "another"}')

    assert (status, "Idempotent-Replayed" in headers) == (202, False)


def test_keys_belong_to_the_user_and_not_to_the_api_key(deploy: Any, service: Service, alice: bytes) -> None:
    service.act(
        "key.create", user_id="alice", key_hash=digest(OTHER_KEY).hex(), key_prefix=OTHER_KEY[:13], scopes=["submit"]
    )
    deploy("submit")
    first = repeat()[2]["request_id"]
    service.owner.execute("UPDATE api_keys SET revoked_at = now() WHERE key_hash = %s", (digest(KEY),))

    assert repeat()[2]["code"] == "key_revoked"
    status, headers, body = repeat(headers={"x-api-key": OTHER_KEY})
    assert (status, body["request_id"], headers["Idempotent-Replayed"]) == (202, first, "true")


def test_at_once_one_is_accepted_and_the_others_are_replays(service: Service, alice: bytes) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(service, alice), range(8)))
    assert len({answer.request_id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + 7 * [True]
    assert {answer.status for answer in answers} == {"queued"}


def test_a_writers_id_counts_as_long(clocked: tuple[Service, bytes]) -> None:
    service, _ = clocked
    insert = "INSERT INTO submissions (request_id, user_id, prompt) VALUES (%s, 'alice', 'hello') RETURNING request_id"
    own = uuid4()
    first = service.value(insert, own)
    service.owner.execute("UPDATE inflight SET expires_at = expires_at + interval '9 days'")

    assert clean(service, NOON + 30 * HOUR) == 0
    assert service.value(insert, own) == first
    service.act("request.cancel", request_id=str(first))
    set_clock(service.owner, NOON + 54 * HOUR)
    assert service.value(insert, own) != first
