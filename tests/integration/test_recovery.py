"""The minute's sweep: lost claims, lost messages, requests out of time."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

from sluice.queue import Message
from sluice.services.rollup import recover
from tests.support.service import Service, completed, retry


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
