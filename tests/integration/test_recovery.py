"""The recovery task: lost claims, lost messages, expired requests."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

from sluice.messaging import Message
from tests.support.ledger import set_clock, stop_the_clock
from tests.support.recovery import NOON, run_recovery, state
from tests.support.service import Service, completed, retry


def test_recovery_without_work_changes_nothing(service: Service, alice: bytes) -> None:
    service.submit(alice)

    assert set(run_recovery(service).values()) == {0}


def test_a_lost_claim_goes_back_to_the_queue(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.queue.take()
    service.claim(request_id, lease_seconds=-1)

    assert run_recovery(service)["requeued"] == 1

    assert service.queue.take() == [request_id]
    assert state(service, request_id) == ("queued", None)
    (claim,) = service.claim(request_id)
    assert claim["attempt"] == 2


def test_a_claim_within_its_lease_is_left_alone(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)

    assert run_recovery(service)["requeued"] == 0
    assert state(service, request_id) == ("processing", None)


def test_a_request_that_kills_its_workers_fails_finally(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)  # max_attempts is 3
    for _ in range(2):
        service.claim(request_id, lease_seconds=-1)
        run_recovery(service)
    service.claim(request_id, lease_seconds=-1)

    assert run_recovery(service)["failed"] == 1

    assert state(service, request_id) == ("failed", "worker_lost")
    assert service.value("SELECT sum(tokens_reserved) FROM quotas") == 0


def test_a_request_never_begun_expires_without_tokens(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.owner.execute("UPDATE inflight SET expires_at = now()")

    assert run_recovery(service)["expired"] == 1

    assert state(service, request_id) == ("expired", None) or state(service, request_id)[0] == "expired"
    assert service.rows("SELECT DISTINCT requests_used, tokens_used, tokens_reserved FROM quotas") == [
        {"requests_used": 1, "tokens_used": 0, "tokens_reserved": 0}
    ]
    assert service.value("SELECT count(*) FROM inflight") == 0


def test_a_request_that_expires_between_attempts_fails(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(retry(request_id, after=1))
    service.owner.execute("UPDATE inflight SET expires_at = now()")

    assert run_recovery(service)["failed"] == 1
    assert state(service, request_id) == ("failed", "request_expired")


def test_requests_without_a_message_are_sent_within_the_dispatch_window(service: Service, alice: bytes) -> None:
    service.queue.down = True
    ids = [service.submit(alice) for _ in range(4)]
    service.queue.down = False
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 3")

    assert run_recovery(service)["dispatched"] == 3
    assert service.queue.take() == ids[:3]


def test_an_unavailable_queue_leaves_sending_to_the_next_recovery(service: Service, alice: bytes) -> None:
    service.queue.down = True
    request_id = service.submit(alice)

    assert run_recovery(service)["dispatched"] == 0
    service.queue.down = False
    assert run_recovery(service)["dispatched"] == 1
    assert service.queue.take() == [request_id]


def test_delayed_requests_are_sent_when_they_are_due(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(retry(request_id, after=1000))
    service.queue.take()

    assert run_recovery(service)["dispatched"] == 0
    service.owner.execute("UPDATE inflight SET not_before = now()")
    assert run_recovery(service)["dispatched"] == 1
    assert service.queue.take() == [request_id]


def test_lost_messages_are_sent_again_once(service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(3)]
    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '5 minutes'")
    service.queue.messages.pop(0)

    assert run_recovery(service)["redispatched"] == 1
    assert len(service.queue.messages) == 3
    assert run_recovery(service)["redispatched"] == 0
    assert set(service.queue.take()) <= set(ids)


def test_recent_messages_are_not_sent_again(service: Service, alice: bytes) -> None:
    service.submit(alice)
    service.queue.take()

    assert run_recovery(service)["redispatched"] == 0, "just sent: the queue's count may lag behind"


def test_recovery_does_not_touch_settled_requests(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(completed(request_id))
    service.queue.take()

    assert set(run_recovery(service).values()) == {0}
    assert state(service, request_id) == ("completed", None)


def test_recovery_with_a_backlog_sends_nothing_twice(service: Service) -> None:
    """5,000 requests of 500 users, forty runs, no worker: messages in the queue are not sent again."""
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

    for minute in range(40):  # from the fifteenth minute on, messages count as very old
        set_clock(service.owner, NOON + timedelta(minutes=minute))
        run_recovery(service)

    assert 5000 <= len(service.queue.messages) <= 5000 * 1.05
    assert {message.request_id for message in service.queue.messages} == {
        row["request_id"] for row in service.rows("SELECT request_id FROM inflight")
    }


def test_concurrent_recoveries_resend_a_lost_message_once(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=50)
    for _ in range(40):
        service.submit(alice)
    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '5 minutes'")
    databases = [service.database("rollup") for _ in range(4)]
    lost = {"queue_depth": 10, "grace_seconds": 60, "long_seconds": 900, "limit": 5000}

    with ThreadPoolExecutor(4) as pool:
        sent = [
            row["request_id"]
            for rows in pool.map(lambda d: d.call("request_redispatch", **lost), databases)
            for row in rows
        ]

    assert len(sent) == len(set(sent)) == 30


def test_a_users_backlog_does_not_delay_other_users(service: Service, alice: bytes) -> None:
    """10,000 requests of one user, then one of another: it is among the first messages."""
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    service.act("quota.set", user_id="alice", max_unfinished=20_000, dispatch_window=10)
    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at)"
        " SELECT uuidv7(), 'alice', 3, now() + interval '1 day' FROM generate_series(1, 10000)"
    )
    run_recovery(service)
    his = service.submit(bob)
    run_recovery(service)

    waiting = service.queue.take()

    assert len(waiting) == 11
    assert his in waiting


def test_unknown_messages_do_not_hide_a_loss_permanently(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.queue.messages = [Message(uuid4(), "unknown") for _ in range(5)]
    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '5 minutes'")
    assert run_recovery(service)["redispatched"] == 0, "by the count, no message is missing"

    service.owner.execute("UPDATE inflight SET dispatched_at = now() - interval '16 minutes'")
    assert run_recovery(service)["redispatched"] == 1
    assert request_id in service.queue.take()
    assert run_recovery(service)["redispatched"] == 0


def test_concurrent_recoveries_keep_to_the_dispatch_window(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 10")
    service.queue.down = True
    for _ in range(30):
        service.submit(alice)
    databases = [service.database("rollup") for _ in range(6)]

    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(lambda d: len(d.call("request_dispatch", limit=5000)), databases))

    assert sum(sent) == 10
    assert service.value("SELECT count(*) FROM inflight WHERE dispatched_at IS NOT NULL") == 10


def test_recovery_never_deadlocks_with_submit_and_settle(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    before = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"

    def work(number: int) -> None:
        ids = [service.submit(alice if (number + n) % 2 else bob) for n in range(4)]
        service.claim(*ids[:2], lease_seconds=-1)
        service.database("rollup").call("request_recover", limit=100)
        service.claim(*ids)
        service.settle(*[completed(i, attempt) for i in ids for attempt in (1, 2)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))

    assert service.value(before) == 0
    assert service.value("SELECT bool_and(tokens_reserved >= 0) FROM quotas")
