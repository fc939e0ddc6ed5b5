"""Cancelling a request, and its lifetime."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from sluice.domain.errors import SluiceError
from sluice.services.tasks import recover
from tests.support.functions import KEYED, Context, event, load
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.service import Service, completed, failed, retry, status_of

NOON = datetime(2031, 1, 30, 12, tzinfo=UTC)


def cancelled(service: Service, key_hash: bytes, request_id: UUID) -> str:
    return service.canceller().cancel(key_hash, request_id)


def seen(service: Service, key_hash: bytes, request_id: UUID) -> dict[str, Any]:
    return service.status(key_hash, str(request_id))


def counters(service: Service) -> list[tuple[int, int, int]]:
    rows = service.rows("SELECT DISTINCT requests_used, tokens_used, tokens_reserved FROM quotas")
    return [(row["requests_used"], row["tokens_used"], row["tokens_reserved"]) for row in rows]


def actions(service: Service, request_id: UUID) -> list[str]:
    rows = service.rows("SELECT action FROM audit_log WHERE request_id = %s ORDER BY audit_id", request_id)
    return [row["action"].removeprefix("request.") for row in rows]


# Cancelling -------------------------------------------------------------------------------------------------------


def test_cancelling_a_queued_request_releases_its_reservation(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)

    assert cancelled(service, alice, request_id) == "cancelled"

    found = seen(service, alice, request_id)
    assert (found["status"], found["queue"], found["error"]) == ("cancelled", None, None)
    assert (found["started_at"], found["processing_time_ms"]) == (None, None)
    assert counters(service) == [(1, 0, 0)], "it still counts, or cancelling would circumvent the limit"
    assert service.claim(request_id) == []
    assert_books_balance(service)


def test_a_cancelled_request_frees_a_slot_of_the_dispatch_window(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=1)
    first, second = service.submit(alice), service.submit(alice)
    assert service.queue.take() == [first]

    cancelled(service, alice, first)

    assert service.queue.take() == [second]


def test_the_answer_to_a_cancelled_request_is_dropped(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)

    assert cancelled(service, alice, request_id) == "processing"
    assert seen(service, alice, request_id)["queue"]["cancel_requested_at"] is not None
    (row,) = service.settle(completed(request_id))

    assert (row["kind"], row["status"]) == ("settled", "cancelled")
    found = seen(service, alice, request_id)
    assert (found["status"], found["result"], found["usage"]["total_tokens"]) == ("cancelled", None, 10)
    assert counters(service) == [(1, 10, 0)], "the model reported these tokens"
    assert service.value("SELECT count(*) FROM results") == 0
    assert actions(service, request_id) == ["queued", "processing", "cancel_requested", "cancelled"]
    assert_books_balance(service)


@pytest.mark.parametrize("outcome", [failed, retry], ids=["failed", "to be tried again"])
def test_a_cancelled_request_is_not_retried(service: Service, alice: bytes, outcome: Callable[..., Any]) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    cancelled(service, alice, request_id)

    service.settle(outcome(request_id))

    found = seen(service, alice, request_id)
    assert (found["status"], found["error"]) == ("cancelled", None)


def test_recovery_cancels_a_cancelled_request_whose_worker_is_lost(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id, lease_seconds=60)
    cancelled(service, alice, request_id)
    service.owner.execute("UPDATE inflight SET lease_until = now() - interval '1 s'")
    assert service.claim(request_id) == [], "it is not started again"

    assert recover.run(service.tasks())["cancelled"] == 1

    assert seen(service, alice, request_id)["status"] == "cancelled"
    (row,) = service.settle(completed(request_id))
    assert row["kind"] == "superseded"
    assert service.value("SELECT after->>'wasted_tokens' FROM audit_log WHERE action = 'request.superseded'") == "10"
    assert_books_balance(service)


def test_cancelling_a_lost_claim_ends_the_request_at_once(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id, lease_seconds=-1)

    assert cancelled(service, alice, request_id) == "cancelled"


def test_cancelling_twice_changes_nothing(service: Service, alice: bytes) -> None:
    queued, running = service.submit(alice), service.submit(alice)
    service.claim(running)

    assert [cancelled(service, alice, queued) for _ in range(2)] == ["cancelled"] * 2
    assert [cancelled(service, alice, running) for _ in range(2)] == ["processing"] * 2
    assert actions(service, running).count("cancel_requested") == 1
    assert actions(service, queued).count("cancelled") == 1


def test_a_finished_request_is_not_cancelled(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(completed(request_id))

    with pytest.raises(SluiceError) as refused:
        cancelled(service, alice, request_id)

    assert (refused.value.code, status_of(refused.value)) == ("request_finished", 409)
    assert refused.value.extra == {"request_status": "completed"}


def test_requests_of_other_users_cannot_be_cancelled(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    request_id = service.submit(alice)
    for key_hash, wanted in ((bob, request_id), (alice, uuid4()), (alice, None)):
        with pytest.raises(SluiceError, match="request_not_found"):
            service.canceller().cancel(key_hash, wanted)
    assert seen(service, alice, request_id)["status"] == "queued"


def test_a_concurrent_cancel_and_answer_end_the_request_once(service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(20)]
    service.claim(*ids)
    workers, submitters = ([service.database(role) for _ in range(4)] for role in ("worker", "submit"))

    def answer(n: int) -> None:
        workers[n % 4].call("request_settle", outcomes=Jsonb([completed(ids[n])]), actor="worker")

    def cancel(n: int) -> None:
        with suppress(SluiceError):  # it had been answered
            service.canceller(submitters[n % 4]).cancel(alice, ids[n])

    def run_every_fourth(act: Callable[[int], None], first: int) -> None:
        for n in range(first, 20, 4):
            act(n)

    # A database is one connection, so its calls stay in one thread.
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(run_every_fourth, act, first) for first in range(4) for act in (answer, cancel)]
        for done in running:
            done.result()

    ended = {row["status"] for row in service.rows("SELECT status FROM requests")}
    assert ended <= {"completed", "cancelled"}
    assert service.value("SELECT count(*) FROM inflight") == 0
    assert_books_balance(service)


@pytest.mark.parametrize(
    ("claims_first", "code", "said"),
    [(False, 200, "cancelled"), (True, 202, "processing")],
    ids=["queued", "processing"],
)
def test_cancelling_over_http(
    service: Service, alice: bytes, deploy: Callable[..., Any], claims_first: bool, code: int, said: str
) -> None:
    request_id = service.submit(alice)
    if claims_first:
        service.claim(request_id)
    deploy("submit")

    answer = over_http(str(request_id))

    assert (answer["statusCode"], json.loads(answer["body"])) == (
        code,
        {"request_id": str(request_id), "status": said, "cancel_requested": True},
    )


@pytest.mark.parametrize("wrong", ["12; DROP TABLE requests", "019ab4c8-5e40-7c3a-9f21-3d5b8a7c6e10"])
def test_cancelling_requests_of_other_users_is_404(alice: bytes, deploy: Callable[..., Any], wrong: str) -> None:
    deploy("submit")
    answer = over_http(wrong)
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (404, "request_not_found")


def over_http(request_id: str) -> dict[str, Any]:
    http = event("cancel")
    path = f"/requests/{request_id}/cancel"
    http["requestContext"]["http"]["path"] = http["rawPath"] = path
    answer: dict[str, Any] = load("submit.app").handler(http | {"headers": KEYED}, Context())
    return answer


# Lifetimes --------------------------------------------------------------------------------------------------------


def test_a_request_expires_when_it_asks_to(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, NOON)
    short = service.submit(alice, ttl_seconds=5)
    until = service.submit(alice, expires_at="2031-01-30T12:10:00Z")
    usual = service.submit(alice)  # 3600 s
    ends = {row["request_id"]: row["expires_at"] for row in service.rows("SELECT request_id, expires_at FROM inflight")}
    assert ends[until] == NOON + timedelta(minutes=10)
    assert [ends[i] - NOON for i in (short, usual)] == [timedelta(seconds=5), timedelta(hours=1)]

    set_clock(service.owner, NOON + timedelta(seconds=6))
    assert service.claim(short) == [], "it is not started after its lifetime"
    assert recover.run(service.tasks())["expired"] == 1

    assert seen(service, alice, short)["status"] == "expired"
    assert service.value("SELECT tokens_used FROM quotas WHERE quota_period = 'daily'") == 0
    assert_books_balance(service)


def test_a_request_does_not_start_before_not_before(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, NOON)
    request_id = service.submit(alice, not_before="2031-01-30T12:30:00Z", ttl_seconds=60)

    assert service.queue.take() == []
    assert service.claim(request_id) == []
    queue = seen(service, alice, request_id)["queue"]
    assert (queue["waits_for"], queue["until"], queue["position"]) == ("not_before", "2031-01-30T12:30:00.000Z", None)
    assert queue["expires_at"] == "2031-01-30T12:31:00.000Z", "its lifetime starts there"
    assert recover.run(service.tasks())["dispatched"] == 0

    set_clock(service.owner, NOON + timedelta(minutes=30))
    assert recover.run(service.tasks())["dispatched"] == 1
    assert service.queue.take() == [request_id]
    assert len(service.claim(request_id)) == 1


def test_a_delayed_request_takes_no_slot_of_the_dispatch_window(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=1)
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat(timespec="seconds")
    service.submit(alice, not_before=later)
    now = service.submit(alice)
    assert service.queue.take() == [now]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"expires_at": "2031-01-30T11:59:00Z"}, "in the future"),
        ({"expires_at": "2031-01-30T12:00:00Z"}, "in the future"),
        ({"expires_at": "2031-01-30T14:00:00Z"}, "3600 s at most"),
        ({"ttl_seconds": 3601}, "3600 s at most"),
        ({"not_before": "2031-01-30T13:00:01Z"}, "at most 3600 s ahead"),
        ({"not_before": "2031-01-30T12:30:00Z", "expires_at": "2031-01-30T12:20:00Z"}, "after not_before"),
        ({"not_before": "2031-01-30T12:30:00Z", "expires_at": "2031-01-30T13:30:01Z"}, "3600 s at most"),
    ],
    ids=str,
)
def test_an_impossible_lifetime_is_refused_and_writes_nothing(
    service: Service, alice: bytes, given: dict[str, Any], says: str
) -> None:
    stop_the_clock(service.owner, NOON)
    with pytest.raises(SluiceError, match=says) as refused:
        service.submit(alice, **given)
    assert (refused.value.code, status_of(refused.value)) == ("lifetime_invalid", 422)
    assert service.value("SELECT count(*) FROM requests") == 0
    assert counters(service) == [(0, 0, 0)]


def test_a_not_before_in_the_past_means_now(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice, not_before="2001-01-01T00:00:00Z")
    assert service.queue.take() == [request_id]
