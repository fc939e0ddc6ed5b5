"""Retries: when they are due, how they count, and the slots that they leave to others."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from sluice.config import Settings
from sluice.domain.documents import Input
from sluice.domain.requests import Submission
from sluice.services.process import MAX_BACKOFF_SECONDS, backoff
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.recovery import NOON, run_recovery, state
from tests.support.service import LIMITS, Service, completed, failed, retry


def test_a_due_retry_is_started_by_its_message(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, NOON)
    request_id = service.submit(alice)
    service.claim(request_id)

    (row,) = service.settle(retry(request_id, after=7.2))

    assert (row["kind"], row["delay_seconds"]) == ("requeued", 8)
    set_clock(service.owner, NOON + timedelta(seconds=7))
    assert service.claim(request_id) == []
    set_clock(service.owner, NOON + timedelta(seconds=8))
    assert [claim["attempt"] for claim in service.claim(request_id)] == [2]


def test_simultaneous_retries_keep_to_the_dispatch_window(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, NOON)
    service.act("quota.set", user_id="alice", dispatch_window=3)
    ids = [service.submit(alice) for _ in range(9)]
    for _ in range(3):
        service.claim(*ids)
        running = [
            row["request_id"] for row in service.rows("SELECT request_id FROM inflight WHERE status = 'processing'")
        ]
        service.settle(*[retry(i, after=60) for i in running])
    assert service.value("SELECT count(*) FROM inflight WHERE failed_attempts = 1") == 9
    set_clock(service.owner, NOON + timedelta(seconds=61))
    workers = [service.database("worker") for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        parameters = [{"ids": ids[n::3], "lease_seconds": 60} for n in range(3)]
        claimed = [
            row for rows in pool.map(lambda w, p: w.call("request_claim", **p), workers, parameters) for row in rows
        ]

    assert len(claimed) == 3
    assert service.value("SELECT count(*) FROM inflight WHERE dispatched_at IS NOT NULL") == 3
    (row,) = [r for r in service.settle(completed(claimed[0]["request_id"], 2)) if r["kind"] == "dispatch"]
    assert row["request_id"] in ids, "its slot goes to a waiting retry"


def test_a_model_outage_of_an_hour_fails_nothing(service: Service, alice: bytes) -> None:
    """With the default delays of the worker and the default attempts."""
    stop_the_clock(service.owner, NOON)
    shipped = replace(LIMITS, longest_seconds=86_400, max_attempts=Settings().max_attempts)
    submitter = service.submitter(limits=shipped)
    ids = [submitter.submit(alice, Submission(Input.of_prompt("x"))).request_id for _ in range(5)]
    due = dict.fromkeys(ids, NOON)
    attempts: Counter[UUID] = Counter()
    over = NOON + timedelta(hours=1)
    while (at := min(due.values())) < over:
        set_clock(service.owner, at)
        for claim in service.claim(*[i for i in ids if due[i] <= at]):
            request_id = claim["request_id"]
            attempts[request_id] += 1
            pause = backoff(claim["attempt"], Settings().retry_base_seconds)
            service.settle(retry(request_id, claim["attempt"], after=pause, error_code="model_unavailable"))
            due[request_id] = at + timedelta(seconds=pause + 1)
        run_recovery(service)

    assert service.rows("SELECT DISTINCT status FROM requests") == [{"status": "queued"}]
    assert max(attempts.values()) < Settings().max_attempts
    set_clock(service.owner, max(due.values()))
    claims = service.claim(*ids)
    service.settle(*[completed(claim["request_id"], claim["attempt"]) for claim in claims])
    assert service.rows("SELECT DISTINCT status FROM requests") == [{"status": "completed"}]
    assert_books_balance(service)


def test_default_attempts_span_more_than_an_hour_with_any_jitter() -> None:
    settings = Settings()
    least = sum(
        min(MAX_BACKOFF_SECONDS, settings.retry_base_seconds * 2.0**n) / 2 for n in range(settings.max_attempts - 1)
    )
    assert least > 5400


def test_the_error_says_whether_attempts_or_time_ran_out(service: Service, alice: bytes) -> None:
    tried, late = service.submit(alice), service.submit(alice)
    for attempt in (1, 2, 3):
        service.claim(tried)
        service.settle(retry(tried, attempt, error_code="model_throttled", error_message="Too much."))
    service.claim(late)
    service.settle(retry(late, after=7200, error_code="model_unavailable", error_message="Away."))

    found = {
        row["request_id"]: row for row in service.rows("SELECT request_id, error_code, error_message FROM requests")
    }
    assert found[tried]["error_message"] == "Too much. It was tried 3 times."
    assert found[late]["error_message"] == "Away. Its lifetime would have ended before the next attempt."
    assert found[late]["error_code"] == "model_unavailable"


def test_releasing_a_request_uses_no_attempt(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    for attempt in range(1, 8):  # max_attempts is 3
        (claim,) = service.claim(request_id)
        assert claim["attempt"] == attempt
        rows = service.settle({"request_id": str(request_id), "attempt": attempt, "outcome": "released"})
        assert ("dispatch", request_id) in {(row["kind"], row["request_id"]) for row in rows}
    service.claim(request_id)
    service.settle(completed(request_id, 8))
    assert state(service, request_id) == ("completed", None)
    assert_books_balance(service)


def test_a_repeated_flush_of_retries_counts_one_attempt(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    for _ in range(3):
        service.settle(retry(request_id, after=60))
    assert service.value("SELECT failed_attempts FROM inflight") == 1
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.requeued'") == 1


def test_a_flush_with_a_request_twice_settles_it_once(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id, lease_seconds=-1)
    service.claim(request_id)

    rows = service.settle(
        completed(request_id, 1), completed(request_id, 2), completed(request_id, 2), failed(request_id, 2)
    )

    assert sorted(row["kind"] for row in rows) == ["settled", "settled", "superseded", "superseded"]
    assert service.value("SELECT count(*) FROM results") == 1
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.superseded'") == 2
    assert_books_balance(service)


def test_a_request_lost_twice_is_retried_alone(service: Service, alice: bytes) -> None:
    poison, *innocent = (service.submit(alice) for _ in range(4))
    service.owner.execute(
        "UPDATE inflight SET failed_attempts = 2, lost_attempts = 2, attempt = 2 WHERE request_id = %s", (poison,)
    )
    service.owner.execute("UPDATE inflight SET max_attempts = 5")

    assert [claim["request_id"] for claim in service.claim(poison, *innocent)] == [poison]

    service.queue.take()
    assert run_recovery(service)["dispatched"] == 3
    assert sorted(service.queue.take()) == sorted(innocent)
    assert len(service.claim(*innocent)) == 3


@pytest.mark.parametrize("late", [failed, completed, retry], ids=["failed", "completed", "to be tried again"])
def test_an_answer_from_before_a_redrive_is_ignored(service: Service, alice: bytes, late: Callable[..., Any]) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(failed(request_id))
    service.act("request.redrive", request_id=str(request_id), ttl_seconds=3600, max_attempts=3)

    (row, *_) = service.settle(late(request_id))

    assert row["kind"] == "superseded"
    assert state(service, request_id) == ("queued", None)
    run_recovery(service)
    (claim,) = service.claim(request_id)
    service.settle(completed(request_id, claim["attempt"]))
    assert state(service, request_id) == ("completed", None)
    assert_books_balance(service)


def test_waiting_retries_take_no_slot_of_the_dispatch_window(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 2")
    paused = [service.submit(alice) for _ in range(2)]
    service.claim(*paused)
    service.settle(*[retry(i, after=600) for i in paused])
    service.queue.take()

    following = service.submit(alice)

    assert service.queue.take() == [following]


def test_a_waiting_retry_gives_its_slot_to_the_next_request(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 1")
    first, second = service.submit(alice), service.submit(alice)
    service.claim(first)

    rows = service.settle(retry(first, after=600))

    assert {(row["kind"], row["request_id"]) for row in rows} == {("requeued", first), ("dispatch", second)}
