"""Requests as an operator lists and cancels them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tests.support.ledger import assert_books_balance
from tests.support.redrive import counters, fail, statuses
from tests.support.service import Service, completed, failed


def test_requests_are_listed_newest_first_with_filters(
    admin: Callable[..., Any], service: Service, alice: bytes
) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    rejected, done, lost, of_bob, waiting = (service.submit(key) for key in (alice, alice, alice, bob, alice))
    fail(service, rejected, prompt_tokens=5)
    service.claim(done)
    service.settle(completed(done))
    fail(service, lost, error_code="worker_lost")
    service.claim(waiting)
    service.settle(failed(waiting, outcome="retry", error_code="model_timeout", retry_after=600))

    def listed(**filters: Any) -> list[UUID]:
        return [UUID(each["request_id"]) for each in admin("request.list", **filters)["requests"]]

    assert listed() == [waiting, of_bob, lost, done, rejected]
    assert listed(user_id="bob") == [of_bob]
    assert listed(status="failed") == [lost, rejected]
    assert listed(status="failed", error_code="worker_lost", user_id="alice") == [lost]
    assert listed(status="expired") == []
    assert listed(user_id="nobody") == []
    (middle,) = (each["created_at"] for each in admin("request.list", user_id="bob")["requests"])
    middle = datetime.fromisoformat(middle).isoformat()
    assert listed(start=middle, end=middle) == []
    assert set(listed(start=middle)) | set(listed(end=middle)) == set(listed())
    assert of_bob in listed(start=middle)
    assert of_bob not in listed(end=middle)

    paged, cursor = [], None
    while True:
        page = admin("request.list", limit=2, **({"before": cursor} if cursor else {}))
        paged += page["requests"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == admin("request.list")["requests"]
    shown = {UUID(each["request_id"]): each for each in paged}
    assert (shown[rejected]["error_code"], shown[rejected]["error_message"]) == ("model_rejected", "no")
    assert (shown[rejected]["prompt_tokens"], shown[rejected]["attempts"]) == (5, 1)
    assert (shown[waiting]["status"], shown[waiting]["last_error"]) == ("queued", "model_timeout")
    assert shown[waiting]["waits_for"] == "retry"
    assert datetime.fromisoformat(shown[waiting]["waits_until"]) > datetime.now(UTC)
    assert shown[done]["waits_for"] is None
    assert all("prompt" not in each and "content" not in each for each in paged)


def test_an_operator_cancels_a_request(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    queued, begun = service.submit(alice), service.submit(alice)
    service.claim(begun)

    for _ in range(2):
        answer = admin("request.cancel", request_id=str(queued))
        assert answer == {"request_id": str(queued), "user_id": "alice", "status": "cancelled"}
        assert admin("request.cancel", request_id=str(begun))["status"] == "processing"
    service.settle(completed(begun))

    assert set(statuses(service).values()) == {"cancelled"}
    assert counters(service) == [(2, 10, 0)]
    audited = service.rows("SELECT request_id, action FROM audit_log WHERE actor = 'admin' AND request_id IS NOT NULL")
    assert {(row["request_id"], row["action"]) for row in audited} == {
        (queued, "request.cancelled"),
        (begun, "request.cancel_requested"),
    }
    assert len(audited) == 2, "a repeated cancellation is not audited"
    assert_books_balance(service)
