"""What a request waits for, its position in the queue, and the estimate."""

from uuid import UUID

from tests.support.service import Service, completed, retry


def test_status_shows_what_a_request_waits_for_and_its_position(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=2)
    running, dispatched, *waiting = (service.submit(alice) for _ in range(5))
    service.claim(running)

    def waits_for(request_id: UUID) -> tuple[str, int | None]:
        queue = service.status(alice, str(request_id))["queue"]
        return queue["waits_for"], queue["position"]

    assert waits_for(running) == ("model", None)
    assert waits_for(dispatched) == ("worker", 1)
    assert [waits_for(i) for i in waiting] == [("window", 2), ("window", 3), ("window", 4)]

    service.queue.down = True
    service.settle(retry(running, after=600, error_code="model_throttled"))
    assert waits_for(running) == ("retry", None)
    queue = service.status(alice, str(running))["queue"]
    assert (queue["last_error"], queue["failed_attempts"], queue["max_attempts"]) == ("model_throttled", 1, 3)


def test_an_estimate_always_has_a_basis(service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=1)
    ids = [service.submit(alice) for _ in range(6)]
    queue = service.status(alice, str(ids[-1]))["queue"]
    assert (queue["estimated_wait_seconds"], queue["estimate_basis"]) == (None, None)
    # As if they had been queued a minute ago and two had been answered since.
    service.owner.execute("ALTER TABLE requests DROP CONSTRAINT requests_created_at_is_the_ids")
    service.owner.execute("UPDATE requests SET created_at = created_at - interval '60 s'")
    for request_id in ids[:2]:
        service.claim(request_id)
        service.settle(completed(request_id))

    queue = service.status(alice, str(ids[-1]))["queue"]

    assert queue["position"] == 4
    assert queue["estimate_basis"]["answered"] == 2
    assert 60 <= queue["estimate_basis"]["seconds"] <= 90
    assert 120 <= queue["estimated_wait_seconds"] <= 180
