"""Delivering webhooks: what an answer makes of an event and of its endpoint, by a clock that only moves when set."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sluice.db.webhooks import Webhooks
from sluice.domain.documents import Input
from sluice.domain.requests import Submission
from sluice.domain.webhooks import WebhookOutcome, signature
from sluice.services.deliver import Deliverer
from sluice.services.tasks.run import run_tasks
from tests.support.deliveries import add_endpoint, deliver
from tests.support.ledger import set_clock, stop_the_clock, violations
from tests.support.receiver import Answer, Receiver, receiving
from tests.support.service import LIMITS, Service, completed

START = datetime(2031, 1, 15, 12, tzinfo=UTC)
LOOPBACK = replace(LIMITS, webhook_loopback=True)
PAUSES = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def endpoint(service: Service, alice: bytes, receiver: Receiver) -> dict[str, Any]:
    stop_the_clock(service.owner, START)
    return add_endpoint(service, alice, f"{receiver.url}/hooks")


def end(service: Service, key: bytes, count: int = 1) -> None:
    """So many requests complete."""
    ids = [service.submit(key) for _ in range(count)]
    assert len(service.claim(*ids)) == count
    service.settle(*map(completed, ids))


def now(service: Service) -> datetime:
    at: datetime = service.value("SELECT clock_now()")
    return at


def advance(service: Service, seconds: float) -> None:
    set_clock(service.owner, now(service) + timedelta(seconds=seconds))


def event(service: Service) -> dict[str, Any]:
    (row,) = service.rows("SELECT * FROM webhook_events")
    return row


def deliveries(service: Service) -> list[dict[str, Any]]:
    return service.rows("SELECT * FROM webhook_deliveries ORDER BY event_id, attempt")


def endpoint_row(service: Service) -> dict[str, Any]:
    (row,) = service.rows("SELECT * FROM webhook_endpoints")
    return row


def test_an_event_is_signed_and_says_what_happened_and_nothing_else(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    end(service, alice)
    assert deliver(service).counts == {"delivered": 1}
    (call,) = receiver.received
    headers = call.headers
    assert set(call.event) == {"id", "object", "created_at", "type", "data"}
    assert (call.event["object"], call.event["type"]) == ("event", "response.completed")
    assert call.event["id"] == headers["webhook-id"] == f"evt_{event(service)['event_id'].hex}"
    assert set(call.event["data"]) == {"id"}
    assert headers["webhook-timestamp"] == str(int(START.timestamp())) == str(call.event["created_at"])
    assert headers["webhook-signature"] == signature(
        endpoint["secret"], headers["webhook-id"], int(headers["webhook-timestamp"]), call.body
    )
    assert headers["content-type"] == "application/json"
    (row,) = deliveries(service)
    assert (row["attempt"], row["status_code"], row["cause"]) == (1, 200, None)
    assert deliver(service).counts == {}


def test_attempts_follow_the_schedule_with_one_id_and_then_the_event_is_dead(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.answers(500)
    end(service, alice)
    for attempt, pause in enumerate(PAUSES, 1):
        assert deliver(service).counts == {"pending": 1}
        left = (event(service)["next_attempt_at"] - now(service)).total_seconds()
        assert pause <= left <= pause * 1.1, attempt
        advance(service, pause - 1)
        assert deliver(service).counts == {}, attempt
        advance(service, pause * 0.1 + 2)
    assert deliver(service).counts == {"dead": 1}
    assert len(receiver.received) == len(PAUSES) + 1
    assert len(set(receiver.ids())) == 1
    assert len({call.headers["webhook-timestamp"] for call in receiver.received}) == len(PAUSES) + 1
    assert len({call.body for call in receiver.received}) == 1
    assert (event(service)["state"], event(service)["last_cause"]) == ("dead", "status")
    assert [row["status_code"] for row in deliveries(service)] == [500] * (len(PAUSES) + 1)


@pytest.mark.parametrize(
    ("answer", "status", "cause"),
    [
        (Answer(302, {"location": "http://127.0.0.1:1/"}), 302, "redirect"),
        (Answer(404), 404, "status"),
        (Answer(503), 503, "status"),
        (Answer(None), None, "timeout"),
    ],
)
def test_what_is_no_success_is_tried_again(
    service: Service,
    alice: bytes,
    receiver: Receiver,
    endpoint: dict[str, Any],
    answer: Answer,
    status: int | None,
    cause: str,
) -> None:
    receiver.rule = lambda call: answer
    end(service, alice)
    assert deliver(service).counts == {"pending": 1}
    (row,) = deliveries(service)
    assert (row["status_code"], row["cause"]) == (status, cause)
    # A redirect is not followed.
    assert len(receiver.received) == 1
    receiver.rule = lambda call: Answer(204)
    advance(service, 6)
    assert deliver(service).counts == {"delivered": 1}


def test_a_receiver_that_is_not_there_is_tried_again(service: Service, alice: bytes) -> None:
    with receiving() as gone:
        url = gone.url
    add_endpoint(service, alice, url)
    end(service, alice)
    assert deliver(service).counts == {"pending": 1}
    assert deliveries(service)[0]["cause"] == "unreachable"


def test_retry_after_is_respected_for_the_event_and_its_endpoint(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.rule = lambda call: Answer(429, {"retry-after": "120"})
    end(service, alice)
    deliver(service)
    assert event(service)["next_attempt_at"] == START + timedelta(seconds=120)
    end(service, alice)
    advance(service, 119)
    assert deliver(service).counts == {}
    receiver.rule = lambda call: Answer()
    advance(service, 1)
    assert deliver(service).counts == {"delivered": 2}


def test_410_disables_the_endpoint_and_what_was_to_be_sent_is_dead(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    service.owner.execute("UPDATE webhook_endpoints SET max_concurrency = 1")
    receiver.answers(410)
    end(service, alice, 3)
    assert deliver(service).counts == {"dead": 1}
    assert len(receiver.received) == 1
    assert endpoint_row(service)["disabled_reason"] == "gone"
    states = service.rows("SELECT state, last_cause FROM webhook_events ORDER BY last_cause")
    assert [(row["state"], row["last_cause"]) for row in states] == [("dead", "disabled")] * 2 + [("dead", "gone")]
    audited = service.value("SELECT after FROM audit_log WHERE action = 'webhook.disabled'")
    assert audited == {"endpoint_id": endpoint["endpoint_id"], "reason": "gone"}
    # Nothing more is noted for it.
    end(service, alice)
    assert service.value("SELECT count(*) FROM webhook_events") == 3
    assert violations(service) == []


def test_410_of_an_url_that_a_request_named_disables_nothing(
    service: Service, alice: bytes, receiver: Receiver
) -> None:
    receiver.answers(410)
    for _ in range(2):
        one = (
            service.submitter(limits=LOOPBACK)
            .submit(alice, Submission(input=Input.of_prompt("hello"), webhook=receiver.url))
            .request_id
        )
        service.claim(one)
        service.settle(completed(one))
    assert deliver(service).counts == {"dead": 2}
    assert endpoint_row(service)["disabled_at"] is None


def test_no_more_are_sent_to_an_endpoint_at_once_than_it_takes(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.rule = lambda call: Answer(200, seconds=0.02)
    service.owner.execute("UPDATE webhook_endpoints SET max_concurrency = 2")
    end(service, alice, 12)
    assert deliver(service).counts == {"delivered": 12}
    assert receiver.most_at_once["/hooks"] <= 2
    assert len(set(receiver.ids())) == 12


def test_an_endpoint_that_keeps_failing_is_tried_by_one_event_at_a_time(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.answers(500)
    end(service, alice, 30)
    deliver(service)
    # Ten failures open its circuit; others were under way then.
    assert 10 <= len(receiver.received) <= 14
    assert endpoint_row(service)["paused_until"] > START
    before = len(receiver.received)
    advance(service, 61)
    deliver(service)
    assert len(receiver.received) == before + 1
    # One success, and everything goes again.
    receiver.answers(200)
    advance(service, 61)
    deliver(service)
    assert endpoint_row(service)["failures"] == 0
    advance(service, 600)
    deliver(service)
    assert service.value("SELECT count(*) FROM webhook_events WHERE state = 'delivered'") == 30


def test_no_more_are_sent_for_a_user_at_once_than_leaves_room_for_others(
    service: Service, alice: bytes, endpoint: dict[str, Any]
) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    for number in range(3):
        add_endpoint(service, alice, f"https://example.com/{number}")
    add_endpoint(service, bob, "https://example.com/bob")
    end(service, alice, 10)
    advance(service, 1)
    end(service, bob)
    claimed = claims(service).claim(100, 60)
    owners = Counter(
        service.value("SELECT user_id FROM webhook_events WHERE event_id = %s", each.event_id) for each in claimed
    )
    assert owners == {"alice": 10, "bob": 1}
    assert max(Counter(each.endpoint_id for each in claimed).values()) <= 5
    assert claims(service).claim(100, 60) == []


def test_an_invocation_without_time_begins_nothing_and_says_so(
    service: Service, alice: bytes, endpoint: dict[str, Any]
) -> None:
    end(service, alice)
    report = Deliverer(claims(service), lambda webhook: None, lambda: 29.0).run()
    assert (report.is_more, report.counts) == (True, {})
    assert event(service)["attempts"] == 0


def test_what_is_not_answered_in_time_is_a_timeout(service: Service, alice: bytes, endpoint: dict[str, Any]) -> None:
    end(service, alice)
    report = Deliverer(claims(service), lambda webhook: None, lambda: 1000.0).run()
    assert report.counts == {"pending": 1}
    assert report.next_seconds is not None
    assert 5 <= report.next_seconds <= 5.5
    assert deliveries(service)[0]["cause"] == "timeout"


def test_one_endpoint_that_fails_delays_no_other(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    add_endpoint(service, alice, f"{receiver.url}/other")
    receiver.rule = lambda call: Answer(500 if call.path == "/hooks" else 200)
    end(service, alice, 20)
    assert deliver(service).counts["delivered"] == 20


# Claims ---------------------------------------------------------------------------------------------------------------


def claims(service: Service) -> Webhooks:
    return Webhooks(service.kept("webhooks"))


def test_a_claimer_whose_lease_ended_records_nothing_over_a_newer_attempt(
    service: Service, alice: bytes, endpoint: dict[str, Any]
) -> None:
    end(service, alice)
    webhooks = claims(service)
    (first,) = webhooks.claim(10, 60)
    assert webhooks.claim(10, 60) == []
    advance(service, 61)
    (second,) = webhooks.claim(10, 60)
    assert (second.event_id, second.attempt) == (first.event_id, 2)
    late = WebhookOutcome(first.event_id, first.attempt, 410, "gone", 5)
    assert [each.state for each in webhooks.settle([late])] == ["superseded"]
    assert endpoint_row(service)["disabled_at"] is None
    assert [each.state for each in webhooks.settle([WebhookOutcome(second.event_id, 2, 200, None, 5)])] == ["delivered"]
    assert [each.state for each in webhooks.settle([WebhookOutcome(second.event_id, 2, 500, "status", 5)])] == [
        "superseded"
    ]
    assert [(row["attempt"], row["cause"]) for row in deliveries(service)] == [(1, "lost"), (2, None)]


def test_an_event_whose_last_claimer_is_lost_is_dead(service: Service, alice: bytes, endpoint: dict[str, Any]) -> None:
    end(service, alice)
    service.owner.execute("UPDATE webhook_events SET max_attempts = 1")
    claims(service).claim(10, 60)
    advance(service, 59)
    assert service.maintenance().recover_webhooks(10).dead == 0
    advance(service, 2)
    found = service.maintenance().recover_webhooks(10)
    assert (found.due, found.dead) == (0, 1)
    assert [(row["attempt"], row["cause"]) for row in deliveries(service)] == [(1, "lost")]


def test_what_could_not_be_handed_over_is_no_attempt(service: Service, alice: bytes, endpoint: dict[str, Any]) -> None:
    end(service, alice)
    webhooks = claims(service)
    for _ in range(30):
        (claim,) = webhooks.claim(10, 60)
        webhooks.settle([WebhookOutcome(claim.event_id, claim.attempt, cause="released", retry_after=5)])
        advance(service, 5)
    assert deliveries(service) == []
    assert deliver(service).counts == {"delivered": 1}


def test_an_event_of_an_endpoint_that_went_away_meanwhile_is_dead(
    service: Service, alice: bytes, endpoint: dict[str, Any]
) -> None:
    end(service, alice)
    service.owner.execute("DELETE FROM webhook_endpoints")
    assert deliver(service).counts == {}
    assert service.maintenance().recover_webhooks(10).dead == 1


def test_what_is_due_wakes_up_who_delivers(service: Service, alice: bytes, endpoint: dict[str, Any]) -> None:
    assert run_tasks(service.tasks(), ["recover"])["recover"]["webhooks_due"] == 0
    end(service, alice)
    assert run_tasks(service.tasks(), ["recover"])["recover"]["webhooks_due"] == 1
    assert service.webhook_queue.wakes == 1


def test_events_are_kept_for_thirty_days_after_they_ended(
    service: Service, alice: bytes, endpoint: dict[str, Any]
) -> None:
    end(service, alice, 3)
    deliver(service)
    advance(service, 29 * 86_400)
    assert service.maintenance().expire_webhooks(10) == 0
    advance(service, 86_401)
    assert service.maintenance().expire_webhooks(2) == 2
    assert service.maintenance().expire_webhooks(2) == 1
    assert deliveries(service) == []


# Users ----------------------------------------------------------------------------------------------------------------


def test_both_secrets_sign_for_a_day_after_a_rotation(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    manager = Webhooks(service.kept("openai"))
    new = manager.manage(alice, "rotate", endpoint_id=endpoint["endpoint_id"], keep_old=True).value["secret"]
    assert new != endpoint["secret"]
    end(service, alice)
    deliver(service)
    advance(service, 86_400)
    end(service, alice)
    deliver(service)
    signed = [
        [
            signature(secret, call.headers["webhook-id"], int(call.headers["webhook-timestamp"]), call.body)
            for secret in (new, endpoint["secret"])
        ]
        for call in receiver.received
    ]
    given = [call.headers["webhook-signature"].split() for call in receiver.received]
    assert given == [signed[0], signed[1][:1]]
    service.maintenance().expire_webhooks(10)
    assert endpoint_row(service)["old_secret"] is None


def test_redelivering_begins_the_schedule_again(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    manager = Webhooks(service.kept("openai"))
    end(service, alice)
    deliver(service)
    event_id = str(event(service)["event_id"])
    receiver.answers(500)
    assert manager.manage(alice, "redeliver", event_id=event_id).outcome == "ok"
    assert deliver(service).counts == {"pending": 1}
    left = (event(service)["next_attempt_at"] - now(service)).total_seconds()
    assert 5 <= left <= 5.5
    receiver.answers(200)
    advance(service, 6)
    assert deliver(service).counts == {"delivered": 1}
    assert len(set(receiver.ids())) == 1
    assert [row["attempt"] for row in deliveries(service)] == [1, 2, 3]


def test_no_secret_is_in_the_audit_log_or_in_a_listing(
    service: Service, alice: bytes, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    manager = Webhooks(service.kept("openai"))
    wanted = endpoint["endpoint_id"]
    rotated = manager.manage(alice, "rotate", endpoint_id=wanted, keep_old=True).value["secret"]
    own = manager.manage(alice, "secret", keep_old=False).value["secret"]
    end(service, alice)
    deliver(service)
    seen = [
        manager.manage(alice, "show", endpoint_id=wanted).value,
        manager.manage(alice, "list", limit=10).value,
        manager.manage(alice, "events", limit=10).value,
        manager.manage(alice, "disable", endpoint_id=wanted).value,
        service.rows("SELECT * FROM audit_log"),
        [service.kept("admin").value("webhook_list", user_id="alice")],
    ]
    for secret in (endpoint["secret"], rotated, own):
        assert secret.removeprefix("whsec_")[:20] not in str(seen)
    assert receiver.url not in str(service.rows("SELECT * FROM audit_log"))
    actions = {row["action"] for row in service.rows("SELECT action FROM audit_log")}
    assert {"webhook.created", "webhook.secret_rotated", "webhook.disabled"} <= actions


def test_another_users_endpoint_and_event_are_not_found(
    service: Service, alice: bytes, endpoint: dict[str, Any]
) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    end(service, alice)
    manager = Webhooks(service.kept("openai"))
    event_id = str(event(service)["event_id"])
    before = service.rows("SELECT * FROM webhook_endpoints"), service.rows("SELECT * FROM webhook_events")
    for act in ("show", "update", "enable", "disable", "delete", "rotate"):
        found = manager.manage(bob, act, endpoint_id=endpoint["endpoint_id"], name="mine", keep_old=False)
        assert (found.outcome, found.value) == ("webhook_endpoint_not_found", None), act
    for act in ("event", "redeliver"):
        assert manager.manage(bob, act, event_id=event_id).outcome == "webhook_event_not_found", act
    assert manager.test(bob, UUID(endpoint["endpoint_id"]), "response.completed", 60).outcome == (
        "webhook_endpoint_not_found"
    )
    assert manager.manage(bob, "list", limit=10).value == manager.manage(bob, "events", limit=10).value == []
    assert (service.rows("SELECT * FROM webhook_endpoints"), service.rows("SELECT * FROM webhook_events")) == before
