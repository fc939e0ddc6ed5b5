"""Events of webhooks: each request that ends has one for each endpoint that wants it, whatever way it ends."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from sluice.domain.documents import Input
from sluice.domain.requests import Submission
from tests.support.deliveries import add_endpoint, deliver
from tests.support.ledger import set_clock, stop_the_clock, violations
from tests.support.receiver import Receiver, receiving
from tests.support.service import LIMITS, Service, completed, failed

START = datetime(2031, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def events(service: Service) -> list[dict[str, Any]]:
    return service.rows("SELECT * FROM webhook_events ORDER BY event_id")


def told(service: Service) -> list[tuple[UUID, str]]:
    return [(row["request_id"], row["event_type"]) for row in events(service)]


def claimed(service: Service, *ids: UUID) -> None:
    assert len(service.claim(*ids)) == len(ids)


def test_a_completed_request_has_an_event(service: Service, alice: bytes) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    one, other = service.submit(alice), service.submit(alice)
    claimed(service, one, other)
    settled = service.settle(completed(one), completed(other))
    assert sorted(told(service)) == sorted([(one, "response.completed"), (other, "response.completed")])
    assert [row["is_told"] for row in settled if row["kind"] == "settled"] == [True, True]
    # The same flush again: no second event.
    service.settle(completed(one), completed(other))
    assert len(events(service)) == 2
    assert violations(service) == []


def test_an_answer_that_was_cut_off_is_incomplete(service: Service, alice: bytes) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    one = service.submit(alice)
    claimed(service, one)
    outcome = completed(one)
    outcome["output"] = outcome["output"] | {"finish_reason": "length"}
    service.settle(outcome)
    assert told(service) == [(one, "response.incomplete")]


def test_a_failed_request_has_an_event_when_it_fails_and_not_when_it_is_tried_again(
    service: Service, alice: bytes
) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    one = service.submit(alice)
    for attempt in (1, 2, 3):
        assert told(service) == []
        service.owner.execute("UPDATE inflight SET not_before = NULL, dispatched_at = clock_now()")
        claimed(service, one)
        failure = {"request_id": str(one), "attempt": attempt, "outcome": "retry", "error_code": "model_timeout"}
        service.settle(failure | {"error_message": "slow", "retry_after": 0})
    assert told(service) == [(one, "response.failed")]


def test_a_request_that_is_cancelled_has_an_event(service: Service, alice: bytes) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    one = service.submit(alice)
    service.canceller().cancel(alice, one)
    assert told(service) == [(one, "response.cancelled")]


def test_a_request_that_expires_has_an_event_that_says_it_failed(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, START)
    add_endpoint(service, alice, "https://example.com/hooks")
    one = service.submit(alice, ttl_seconds=10)
    set_clock(service.owner, START + timedelta(seconds=11))
    assert service.maintenance().recover(100).expired == 1
    assert told(service) == [(one, "response.failed")]


def test_a_request_whose_workers_are_lost_has_an_event(service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, START)
    add_endpoint(service, alice, "https://example.com/hooks")
    one = service.submit(alice)
    for minute in range(3):
        service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
        claimed(service, one)
        set_clock(service.owner, START + timedelta(minutes=2 * (minute + 1)))
        service.maintenance().recover(100)
    assert told(service) == [(one, "response.failed")]


def test_an_answer_from_the_cache_has_an_event_and_so_have_followers(service: Service, alice: bytes) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    asked: dict[str, Any] = {"cache": {"max_age": 60}, "parameters": {"temperature": 0}}
    leader, follower = (service.submit(alice, **asked) for _ in range(2))
    claimed(service, leader)
    service.settle(completed(leader))
    again = service.submit(alice, **asked)
    assert {request_id for request_id, _ in told(service)} == {leader, follower, again}
    assert {kind for _, kind in told(service)} == {"response.completed"}


def test_a_request_that_is_erased_while_it_runs_is_told_by_the_id_that_its_client_knows(
    service: Service, alice: bytes
) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    submission = Submission(input=Input.of_prompt("hello"), surface={"api": "responses", "echo": {"user": "u"}})
    one = service.ledger("openai").submit(alice, submission, LIMITS).request_id
    assert one is not None
    claimed(service, one)
    assert service.ledger("openai").erase(alice, one).outcome == "ok"
    assert told(service) == []
    service.settle(completed(one))
    (event,) = events(service)
    assert (event["event_type"], event["data_id"]) == ("response.cancelled", f"resp_{one.hex}")
    assert "hello" not in str(event)


@pytest.mark.parametrize(
    ("surface", "prefix"), [(None, ""), ({"api": "responses"}, "resp_"), ({"api": "chat"}, "chatcmpl-")]
)
def test_an_event_names_the_request_as_its_client_does(
    service: Service, alice: bytes, surface: dict[str, Any] | None, prefix: str
) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    one = (
        service.ledger("submit")
        .submit(alice, Submission(input=Input.of_prompt("hello"), surface=surface), LIMITS)
        .request_id
    )
    assert one is not None
    claimed(service, one)
    service.settle(completed(one))
    assert events(service)[0]["data_id"] == prefix + (one.hex if prefix else str(one))


def test_endpoints_are_told_what_they_asked_for(service: Service, alice: bytes) -> None:
    failures = add_endpoint(service, alice, "https://example.com/failures", ["response.failed"])
    service.add_user("bob", "sluice_" + "b" * 43)
    every = [add_endpoint(service, alice, "https://example.com/hooks") for _ in range(2)]
    none = add_endpoint(service, alice, "https://example.com/nothing", [])
    one = service.submit(alice)
    claimed(service, one)
    service.settle(completed(one))
    assert {str(row["endpoint_id"]) for row in events(service)} == {each["endpoint_id"] for each in every}
    assert failures["endpoint_id"] != none["endpoint_id"]


def test_nobody_elses_requests_are_told(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    add_endpoint(service, alice, "https://example.com/hooks")
    one = service.submit(bob)
    claimed(service, one)
    service.settle(completed(one))
    assert events(service) == []


def test_a_request_may_name_an_url_itself(service: Service, alice: bytes, receiver: Receiver) -> None:
    asked = Submission(input=Input.of_prompt("hello"), webhook=f"{receiver.url}/mine")
    one = service.ledger("submit").submit(alice, asked, LIMITS).request_id
    other = service.submit(alice)
    assert one is not None
    claimed(service, one, other)
    service.settle(completed(one), completed(other))
    assert told(service) == [(one, "response.completed")]
    assert deliver(service).counts == {"delivered": 1}
    (call,) = receiver.received
    assert (call.path, call.event["data"]) == ("/mine", {"id": str(one)})


def test_a_redriven_request_is_told_again(service: Service, alice: bytes) -> None:
    asked = Submission(input=Input.of_prompt("hello"), webhook="https://example.com/mine")
    one = service.ledger("submit").submit(alice, asked, LIMITS).request_id
    assert one is not None
    claimed(service, one)
    service.settle(failed(one))
    service.act("request.redrive", request_id=str(one), ttl_seconds=60, max_attempts=2, dry_run=False)
    service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    claimed(service, one)
    service.settle(completed(one, attempt=3))
    assert told(service) == [(one, "response.failed"), (one, "response.completed")]


def test_a_request_whose_commit_fails_has_no_event(service: Service, alice: bytes) -> None:
    add_endpoint(service, alice, "https://example.com/hooks")
    one = service.submit(alice)
    claimed(service, one)
    with service.owner.transaction(force_rollback=True):
        service.owner.execute("SELECT * FROM request_settle(%s, 'worker')", (Jsonb([completed(one)]),))
        assert len(events(service)) == 1
    assert events(service) == []
