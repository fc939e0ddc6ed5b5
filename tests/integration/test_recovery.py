"""The minute's sweep: lost claims, lost messages, requests out of time."""

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from sluice.config import Settings
from sluice.models import GenerateRequest
from sluice.queue import Delivery, Message
from sluice.services.rollup import recover
from sluice.services.status import status
from sluice.services.submit import submit
from sluice.services.work import MAX_BACKOFF_SECONDS, backoff
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.service import LIMITS, Service, completed, failed, retry

NOON = datetime(2031, 1, 30, 12, tzinfo=UTC)


def sweep(service: Service) -> dict[str, Any]:
    return recover(service.rollup())


def state(service: Service, request_id: UUID) -> tuple[str, str | None]:
    (row,) = service.rows("SELECT status, error_code FROM requests WHERE request_id = %s", request_id)
    return row["status"], row["error_code"]


def test_nothing_to_do_is_nothing_done(service: Service, alice: bytes) -> None:
    service.submit(alice)

    assert set(sweep(service).values()) == {0}


def test_a_lost_claim_goes_back_to_the_queue(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.queue.take()
    service.claim(request_id, lease_seconds=-1)

    assert sweep(service)["requeued"] == 1

    assert service.queue.take() == [request_id]
    assert state(service, request_id) == ("queued", None)
    (claim,) = service.claim(request_id)
    assert claim["attempt"] == 2


def test_a_claim_within_its_lease_is_left_alone(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)

    assert sweep(service)["requeued"] == 0
    assert state(service, request_id) == ("processing", None)


def test_a_request_that_kills_its_workers_fails_in_the_end(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)  # max_attempts is 3
    for _ in range(2):
        service.claim(request_id, lease_seconds=-1)
        sweep(service)
    service.claim(request_id, lease_seconds=-1)

    assert sweep(service)["failed"] == 1

    assert state(service, request_id) == ("failed", "worker_lost")
    assert service.value("SELECT sum(tokens_reserved) FROM quotas") == 0


def test_a_request_never_begun_expires_free_of_tokens(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.owner.execute("UPDATE inflight SET expires_at = now()")

    assert sweep(service)["expired"] == 1

    assert state(service, request_id) == ("expired", None) or state(service, request_id)[0] == "expired"
    assert service.rows("SELECT DISTINCT requests_used, tokens_used, tokens_reserved FROM quotas") == [
        {"requests_used": 1, "tokens_used": 0, "tokens_reserved": 0}
    ]
    assert service.value("SELECT count(*) FROM inflight") == 0


def test_a_request_out_of_time_between_attempts_fails(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(retry(request_id, after=1))
    service.owner.execute("UPDATE inflight SET expires_at = now()")

    assert sweep(service)["failed"] == 1
    assert state(service, request_id) == ("failed", "request_expired")


def test_what_has_no_message_is_sent_within_the_window(service: Service, alice: bytes) -> None:
    service.queue.down = True
    ids = [service.submit(alice) for _ in range(4)]
    service.queue.down = False
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 3")

    assert sweep(service)["dispatched"] == 3
    assert service.queue.take() == ids[:3]


def test_a_queue_that_is_still_away_leaves_them_to_the_next_sweep(service: Service, alice: bytes) -> None:
    service.queue.down = True
    request_id = service.submit(alice)

    assert sweep(service)["dispatched"] == 0
    service.queue.down = False
    assert sweep(service)["dispatched"] == 1
    assert service.queue.take() == [request_id]


def test_what_waits_for_its_time_is_sent_when_it_comes(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(retry(request_id, after=1000))
    service.queue.take()

    assert sweep(service)["dispatched"] == 0
    service.owner.execute("UPDATE inflight SET not_before = now()")
    assert sweep(service)["dispatched"] == 1
    assert service.queue.take() == [request_id]


def test_messages_that_the_queue_lost_are_sent_again_once(service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(3)]
    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '5 minutes'")
    service.queue.messages.pop(0)

    assert sweep(service)["redispatched"] == 1
    assert len(service.queue.messages) == 3
    assert sweep(service)["redispatched"] == 0
    assert set(service.queue.take()) <= set(ids)


def test_messages_on_their_way_are_not_sent_again(service: Service, alice: bytes) -> None:
    service.submit(alice)
    service.queue.take()

    assert sweep(service)["redispatched"] == 0, "sent just now, the queue's count may lag behind"


def test_sweeping_does_not_touch_what_is_settled(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(completed(request_id))
    service.queue.take()

    assert set(sweep(service).values()) == {0}
    assert state(service, request_id) == ("completed", None)


def test_sweeps_over_a_backlog_send_nothing_twice(service: Service) -> None:
    """5,000 requests of 500 users, ten minutes of sweeps, nobody works: what is in the queue is not sent again."""
    service.owner.execute(
        "INSERT INTO users (user_id) SELECT 'u' || n FROM generate_series(1, 500) AS n;"
        "INSERT INTO quota_plans (user_id, tier, reset_frequency, max_unfinished, dispatch_window)"
        " SELECT user_id, 'premium', 'monthly', 100, 10 FROM users;"
    )
    stop_the_clock(service.owner, NOON)
    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at)"
        " SELECT uuidv7(), 'u' || (1 + n / 10), 3, clock_now() + interval '1 day' FROM generate_series(0, 4999) AS n"
    )

    for minute in range(40):  # from the fifteenth on, they have been out for very long
        set_clock(service.owner, NOON + timedelta(minutes=minute))
        sweep(service)

    assert 5000 <= len(service.queue.messages) <= 5000 * 1.05
    assert {message.request_id for message in service.queue.messages} == {
        row["request_id"] for row in service.rows("SELECT request_id FROM inflight")
    }


def test_two_sweeps_at_once_send_a_loss_once(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=50)
    for _ in range(40):
        service.submit(alice)
    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '5 minutes'")
    databases = [service.database("rollup") for _ in range(4)]
    lost = {"queue_depth": 10, "grace_seconds": 60, "long_seconds": 900, "at_most": 5000}

    with ThreadPoolExecutor(4) as pool:
        sent = [
            row["request_id"]
            for rows in pool.map(lambda d: d.rows("request_redispatch", lost), databases)
            for row in rows
        ]

    assert len(sent) == len(set(sent)) == 30


def test_one_users_many_do_not_keep_anothers_one_waiting(service: Service, alice: bytes) -> None:
    """10,000 of one user, then one of another: it is among the first messages that a worker finds."""
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    service.act("quota.set", user_id="alice", max_unfinished=20_000, dispatch_window=10)
    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at)"
        " SELECT uuidv7(), 'alice', 3, now() + interval '1 day' FROM generate_series(1, 10000)"
    )
    sweep(service)
    his = service.submit(bob)
    sweep(service)

    waiting = service.queue.take()

    assert len(waiting) == 11
    assert his in waiting


# Retries ----------------------------------------------------------------------------------------------------------


def test_a_retry_is_woken_by_its_message_when_its_time_has_come(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, NOON)
    request_id = service.submit(alice)
    service.claim(request_id)

    (row,) = service.settle(retry(request_id, after=7.2))

    assert (row["kind"], row["delay_seconds"]) == ("requeued", 8)
    set_clock(service.owner, NOON + timedelta(seconds=7))
    assert service.claim(request_id) == []
    set_clock(service.owner, NOON + timedelta(seconds=8))
    assert [claim["attempt"] for claim in service.claim(request_id)] == [2]


def test_retries_that_wake_all_at_once_keep_to_the_window(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, NOON)
    service.act("quota.set", user_id="alice", dispatch_window=3)
    ids = [service.submit(alice) for _ in range(9)]
    for _ in range(3):
        service.claim(*ids)
        running = [
            row["request_id"] for row in service.rows("SELECT request_id FROM inflight WHERE status = 'processing'")
        ]
        service.settle(*[retry(i, after=60) for i in running])
    assert service.value("SELECT count(*) FROM inflight WHERE failures = 1") == 9
    set_clock(service.owner, NOON + timedelta(seconds=61))
    workers = [service.database("worker") for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        parameters = [{"ids": ids[n::3], "lease_seconds": 60} for n in range(3)]
        claimed = [
            row for rows in pool.map(lambda w, p: w.rows("request_claim", p), workers, parameters) for row in rows
        ]

    assert len(claimed) == 3
    assert service.value("SELECT count(*) FROM inflight WHERE dispatched_at IS NOT NULL") == 3
    (row,) = [r for r in service.settle(completed(claimed[0]["request_id"], 2)) if r["kind"] == "dispatch"]
    assert row["request_id"] in ids, "its place goes to one that was turned away"


def test_an_hours_outage_of_the_model_fails_nothing(service: Service, alice: bytes) -> None:
    """With the pauses that the worker makes as shipped, and the attempts that are shipped."""
    stop_the_clock(service.owner, NOON)
    shipped = replace(LIMITS, ttl_seconds=86_400, max_attempts=Settings().max_attempts)
    ids = [
        submit(service.database("submit"), service.queue, alice, GenerateRequest(prompt="x"), shipped).request_id
        for _ in range(5)
    ]
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
        sweep(service)

    assert service.rows("SELECT DISTINCT status FROM requests") == [{"status": "queued"}]
    assert max(attempts.values()) < Settings().max_attempts
    set_clock(service.owner, max(due.values()))
    claims = service.claim(*ids)
    service.settle(*[completed(claim["request_id"], claim["attempt"]) for claim in claims])
    assert service.rows("SELECT DISTINCT status FROM requests") == [{"status": "completed"}]
    assert_books_balance(service)


def test_the_shipped_attempts_span_more_than_an_hour_whatever_the_jitter() -> None:
    settings = Settings()
    least = sum(
        min(MAX_BACKOFF_SECONDS, settings.retry_base_seconds * 2.0**n) / 2 for n in range(settings.max_attempts - 1)
    )
    assert least > 5400


def test_the_reason_tells_that_attempts_or_time_were_used_up(service: Service, alice: bytes) -> None:
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


def test_what_is_handed_back_has_lost_no_attempt(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    for attempt in range(1, 8):  # max_attempts is 3
        (claim,) = service.claim(request_id)
        assert claim["attempt"] == attempt
        rows = service.settle({"request_id": str(request_id), "attempt": attempt, "outcome": "handed_back"})
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
    assert service.value("SELECT failures FROM inflight") == 1
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.requeued'") == 1


def test_a_flush_that_names_a_request_twice_settles_it_once(service: Service, alice: bytes) -> None:
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


def test_what_was_lost_with_its_worker_twice_is_tried_alone(service: Service, alice: bytes) -> None:
    poison, *innocent = (service.submit(alice) for _ in range(4))
    service.owner.execute("UPDATE inflight SET failures = 2, lost = 2, attempt = 2 WHERE request_id = %s", (poison,))
    service.owner.execute("UPDATE inflight SET max_attempts = 5")

    assert [claim["request_id"] for claim in service.claim(poison, *innocent)] == [poison]

    service.queue.take()
    assert sweep(service)["dispatched"] == 3
    assert sorted(service.queue.take()) == sorted(innocent)
    assert len(service.claim(*innocent)) == 3


@pytest.mark.parametrize("late", [failed, completed, retry], ids=["failed", "completed", "to be tried again"])
def test_an_answer_of_before_a_redrive_answers_nothing(
    service: Service, alice: bytes, late: Callable[..., Any]
) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(failed(request_id))
    service.act("request.redrive", request_id=str(request_id), ttl_seconds=3600, max_attempts=3)

    (row, *_) = service.settle(late(request_id))

    assert row["kind"] == "superseded"
    assert state(service, request_id) == ("queued", None)
    sweep(service)
    (claim,) = service.claim(request_id)
    service.settle(completed(request_id, claim["attempt"]))
    assert state(service, request_id) == ("completed", None)
    assert_books_balance(service)


# Dead letters -----------------------------------------------------------------------------------------------------


def letter(request_id: UUID | str) -> Delivery:
    body = request_id if isinstance(request_id, str) else json.dumps({"request_id": str(request_id)})
    return Delivery(str(uuid4()), body, str(uuid4()))


def test_dead_letters_are_sent_again_while_their_requests_wait_for_them(service: Service, alice: bytes) -> None:
    waiting, running, ended = (service.submit(alice) for _ in range(3))
    service.claim(running, ended)
    service.settle(completed(ended))
    service.queue.take()
    service.dead_letters.letters = [
        letter(about) for _ in range(4) for about in (waiting, running, ended, uuid4(), "nonsense", waiting)
    ]

    figures = sweep(service)

    assert figures["unreadable"] == 4
    assert service.queue.take() == [waiting] * figures["revived"]
    assert {each.body for each in service.dead_letters.letters} == {"nonsense"}, "a person is to see it"


def test_a_dead_letter_of_a_request_without_attempts_fails_it_with_a_reason(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    for _ in range(3):
        service.claim(request_id, lease_seconds=-1)
    service.dead_letters.letters = [letter(request_id)]

    figures = sweep(service)

    assert (figures["failed"], figures["revived"]) == (1, 0)
    assert state(service, request_id) == ("failed", "worker_lost")
    assert service.dead_letters.letters == []


# Places in the queue ------------------------------------------------------------------------------------------------


def test_status_tells_what_a_request_waits_for_and_its_place(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=2)
    running, out, *line = (service.submit(alice) for _ in range(5))
    service.claim(running)

    def place(request_id: UUID) -> tuple[str, int | None]:
        queue = status(service.database("status"), alice, str(request_id))["queue"]
        return queue["waits_for"], queue["position"]

    assert place(running) == ("model", None)
    assert place(out) == ("worker", 1)
    assert [place(i) for i in line] == [("window", 2), ("window", 3), ("window", 4)]

    service.queue.down = True
    service.settle(retry(running, after=600, error_code="model_throttled"))
    assert place(running) == ("retry", None)
    queue = status(service.database("status"), alice, str(running))["queue"]
    assert (queue["last_error"], queue["failed_attempts"], queue["max_attempts"]) == ("model_throttled", 1, 3)


def test_an_estimate_comes_with_its_basis_or_not_at_all(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=1)
    ids = [service.submit(alice) for _ in range(6)]
    queue = status(service.database("status"), alice, str(ids[-1]))["queue"]
    assert (queue["estimated_wait_seconds"], queue["estimate_basis"]) == (None, None)
    # As if they had been queued a minute ago, and two answered since.
    service.owner.execute("ALTER TABLE requests DROP CONSTRAINT requests_created_at_is_the_ids")
    service.owner.execute("UPDATE requests SET created_at = created_at - interval '60 s'")
    for request_id in ids[:2]:
        service.claim(request_id)
        service.settle(completed(request_id))

    queue = status(service.database("status"), alice, str(ids[-1]))["queue"]

    assert queue["position"] == 4
    assert queue["estimate_basis"]["answered"] == 2
    assert 60 <= queue["estimate_basis"]["seconds"] <= 90
    assert 120 <= queue["estimated_wait_seconds"] <= 180


def test_messages_of_nobody_do_not_hide_a_loss_for_ever(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.queue.messages = [Message(uuid4(), "nobody") for _ in range(5)]
    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '5 minutes'")
    assert sweep(service)["redispatched"] == 0, "by the counts nothing is missing"

    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '16 minutes'")
    assert sweep(service)["redispatched"] == 1
    assert request_id in service.queue.take()
    assert sweep(service)["redispatched"] == 0


def test_sweeps_at_once_keep_to_the_window(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 10")
    service.queue.down = True
    for _ in range(30):
        service.submit(alice)
    databases = [service.database("rollup") for _ in range(6)]

    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(lambda d: len(d.rows("request_dispatch", {"at_most": 5000})), databases))

    assert sum(sent) == 10
    assert service.value("SELECT count(*) FROM inflight WHERE dispatched_at IS NOT NULL") == 10


def test_retries_that_pause_leave_the_window_to_others(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 2")
    paused = [service.submit(alice) for _ in range(2)]
    service.claim(*paused)
    service.settle(*[retry(i, after=600) for i in paused])
    service.queue.take()

    following = service.submit(alice)

    assert service.queue.take() == [following]


def test_a_retry_that_pauses_gives_its_place_to_the_next(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 1")
    first, second = service.submit(alice), service.submit(alice)
    service.claim(first)

    rows = service.settle(retry(first, after=600))

    assert {(row["kind"], row["request_id"]) for row in rows} == {("requeued", first), ("dispatch", second)}


def test_sweeping_while_others_submit_and_settle_never_deadlocks(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    before = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"

    def work(number: int) -> None:
        ids = [service.submit(alice if (number + n) % 2 else bob) for n in range(4)]
        service.claim(*ids[:2], lease_seconds=-1)
        service.database("rollup").rows("request_sweep", {"at_most": 100})
        service.claim(*ids)
        service.settle(*[completed(i, attempt) for i in ids for attempt in (1, 2)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))

    assert service.value(before) == 0
    assert service.value("SELECT bool_and(tokens_reserved >= 0) FROM quotas")
