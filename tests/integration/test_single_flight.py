"""Single flight: equal requests that come while one is unfinished share its call of a model."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast
from uuid import UUID

import pytest

from sluice.api.native.bodies import GenerateRequest
from sluice.backends.protocol import ModelError
from sluice.messaging import Delivery, Message
from tests.support.ledger import assert_books_balance, run_concurrently, set_clock, stop_the_clock
from tests.support.models import Models, add_models, work, worker_of
from tests.support.service import LIMITS, Service, completed

QUESTION = {"parameters": {"temperature": 0}, "cache": {"max_age": 3600}}
NOON = datetime(2031, 1, 10, 12, tzinfo=UTC)


@pytest.fixture
def models(service: Service) -> Models:
    add_models(service, "only", "other")
    return Models()


def ask(service: Service, key: bytes, **body: Any) -> UUID:
    return service.submit(key, "hello", **QUESTION | body)


def statuses(service: Service, ids: Sequence[UUID]) -> list[str]:
    rows = {row["request_id"]: row["status"] for row in service.rows("SELECT request_id, status FROM requests")}
    return [rows[each] for each in ids]


def promoted(service: Service) -> list[UUID]:
    rows = service.rows("SELECT request_id FROM audit_log WHERE action = 'request.promoted' ORDER BY audit_id")
    return [row["request_id"] for row in rows]


def test_followers_wait_and_get_the_answer(service: Service, alice: bytes, models: Models) -> None:
    leader, *followers = [ask(service, alice) for _ in range(4)]
    assert service.queue.take() == [leader]
    assert {service.status(alice, each)["queue"]["waits_for"] for each in followers} == {"equal_request"}
    assert_books_balance(service)

    work(service, models, leader)

    assert len(models.called()) == 1
    for each in followers:
        shown = service.status(alice, each)
        assert (shown["status"], shown["result"], shown["cached_from"]) == ("completed", "only: hello", str(leader))
        assert shown["usage"]["total_tokens"] == 0
    assert service.value("SELECT sum(tokens_reserved) FROM quotas") == 0
    assert service.queue.take() == []
    assert_books_balance(service)


def test_the_message_of_a_follower_does_not_start_it(service: Service, alice: bytes, models: Models) -> None:
    _, follower = ask(service, alice), ask(service, alice)
    assert service.claim(follower) == []
    assert service.ledger("rollup").dispatch(100) == []


def test_others_are_dispatched_past_the_followers(service: Service, alice: bytes, models: Models) -> None:
    leader, _ = ask(service, alice), ask(service, alice)
    different = service.submit(alice, "something else")
    assert service.queue.take() == [leader, different]


def test_who_does_not_want_the_cache_follows_nobody(service: Service, alice: bytes, models: Models) -> None:
    ids = [ask(service, alice), ask(service, alice, cache=False), ask(service, alice, cache={"refresh": True})]
    assert service.queue.take() == ids
    # From now on, equal ones follow the one that asks anew.
    follower = ask(service, alice)
    work(service, models, ids[0])
    assert statuses(service, [ids[0], follower]) == ["completed", "queued"]
    work(service, models, ids[2])
    assert statuses(service, [follower]) == ["completed"]
    assert_books_balance(service)


@pytest.mark.parametrize("how", ["failed", "cancelled", "expired"])
def test_the_oldest_follower_asks_if_the_leader_ends_otherwise(
    service: Service, alice: bytes, models: Models, how: str
) -> None:
    stop_the_clock(service.owner, NOON)
    leader = ask(service, alice, ttl_seconds=10)
    first, second = ask(service, alice), ask(service, alice)
    service.queue.take()
    if how == "failed":
        models.script("only", ModelError("model_rejected"))
        work(service, models, leader)
    elif how == "cancelled":
        service.canceller().cancel(alice, leader)
    else:
        set_clock(service.owner, NOON + timedelta(seconds=11))
        service.database("rollup").call_row("request_recover", limit=100)
        service.queue.messages += [_message(row) for row in service.ledger("rollup").dispatch(100)]
    assert statuses(service, [leader, first, second]) == [how, "queued", "queued"]
    assert promoted(service) == [first]
    assert service.queue.take() == [first]
    assert_books_balance(service)

    work(service, models, first)
    assert statuses(service, [first, second]) == ["completed", "completed"]
    assert service.status(alice, second)["cached_from"] == str(first)
    assert_books_balance(service)


def _message(row: Any) -> Any:
    return Message(row.request_id, row.user_id)


def test_a_leader_that_was_lost_is_tried_again(service: Service, alice: bytes, models: Models) -> None:
    stop_the_clock(service.owner, NOON)
    leader, follower = ask(service, alice), ask(service, alice)
    service.queue.take()
    service.claim(leader, lease_seconds=60)
    set_clock(service.owner, NOON + timedelta(seconds=61))
    service.database("rollup").call_row("request_recover", limit=100)
    assert [row.request_id for row in service.ledger("rollup").dispatch(100)] == [leader]
    work(service, models, leader)
    assert statuses(service, [leader, follower]) == ["completed", "completed"]
    assert_books_balance(service)


def test_a_leader_that_is_lost_for_good_is_replaced(service: Service, alice: bytes, models: Models) -> None:
    stop_the_clock(service.owner, NOON)
    leader, follower = ask(service, alice), ask(service, alice)
    service.queue.take()
    for n in range(1, LIMITS.max_attempts + 1):
        service.owner.execute("UPDATE inflight SET dispatched_at = clock_now() WHERE request_id = %s", (leader,))
        assert len(service.claim(leader, lease_seconds=60)) == 1
        set_clock(service.owner, NOON + timedelta(seconds=61 * n))
        service.database("rollup").call_row("request_recover", limit=100)
    assert statuses(service, [leader, follower]) == ["failed", "queued"]
    work(service, models, follower)
    assert statuses(service, [follower]) == ["completed"]
    assert [each["cause"] for each in service.status(alice, leader)["attempts"]] == ["worker_lost"] * 3
    assert_books_balance(service)


def test_a_follower_has_a_life_of_its_own(service: Service, alice: bytes, models: Models) -> None:
    stop_the_clock(service.owner, NOON)
    leader, cancelled, expired, last = (
        ask(service, alice),
        ask(service, alice),
        ask(service, alice, ttl_seconds=5),
        ask(service, alice),
    )
    service.queue.take()
    assert service.canceller().cancel(alice, cancelled) == "cancelled"
    set_clock(service.owner, NOON + timedelta(seconds=6))
    service.database("rollup").call_row("request_recover", limit=100)
    assert statuses(service, [leader, cancelled, expired, last]) == ["queued", "cancelled", "expired", "queued"]
    work(service, models, leader)
    assert statuses(service, [leader, cancelled, expired, last]) == ["completed", "cancelled", "expired", "completed"]
    assert promoted(service) == []
    assert_books_balance(service)


def test_the_answer_of_a_fallback_is_for_those_who_allow_it(service: Service, alice: bytes, models: Models) -> None:
    service.act("model.fallback", model_id="only", fallbacks=["other"])
    models.script("only", ModelError("model_unavailable"))
    leader, allows, forbids = ask(service, alice), ask(service, alice), ask(service, alice, models=[], model="only")
    service.queue.take()
    work(service, models, leader)
    assert statuses(service, [leader, allows, forbids]) == ["completed", "completed", "queued"]
    assert promoted(service) == [forbids]
    assert service.status(alice, allows)["result"] == "other: hello"
    work(service, models, forbids)
    assert service.status(alice, forbids)["result"] == "only: hello"
    assert_books_balance(service)


def test_a_flush_that_is_sent_twice_serves_them_once(service: Service, alice: bytes, models: Models) -> None:
    leader, follower = ask(service, alice), ask(service, alice)
    (claim,) = service.claim(leader)
    outcome = completed(leader, claim["attempt"])
    first, second = service.settle(outcome), service.settle(outcome)
    assert [row["request_id"] for row in first] == [leader, follower]
    assert [row["kind"] for row in second] == ["settled"]
    assert_books_balance(service)


def test_a_thousand_at_once_make_one_call(service: Service, models: Models) -> None:
    key = service.add_user("carol", "sluice_" + "c" * 43)
    service.act(
        "quota.set",
        user_id="carol",
        max_unfinished=2000,
        limits={period: {"max_requests": None, "max_tokens": None} for period in ("minute", "daily", "monthly")},
    )
    submitters = [service.submitter() for _ in range(20)]
    body = GenerateRequest.model_validate({"prompt": "hello", **QUESTION}).submission()
    worker = worker_of(service, models)
    made: list[Any] = []

    def many(submitter: Any) -> list[UUID]:
        return [submitter.submit(key, body).request_id for _ in range(50)]

    def lose_the_first() -> list[UUID]:
        # In the midst of them, a worker takes the leader and is lost with it.
        ids = service.queue.take()
        if ids:
            service.claim(*ids, lease_seconds=-1)
        return []

    tasks: list[Callable[[], list[UUID]]] = [partial(many, each) for each in submitters]
    for answer in run_concurrently([*tasks, lose_the_first]):
        made += cast("list[UUID]", answer)
    assert len(made) == 1000
    service.database("rollup").call_row("request_recover", limit=2000)
    for _ in range(5):
        ids = [row.request_id for row in service.ledger("rollup").dispatch(2000)] + service.queue.take()
        if not ids:
            break
        worker.work([Delivery("message", json.dumps({"request_id": str(each)})) for each in ids])
    assert len(models.called()) == 1
    assert service.rows("SELECT status, count(*) FROM requests GROUP BY 1") == [{"status": "completed", "count": 1000}]
    assert service.value("SELECT count(*) FROM results") == 1
    assert_books_balance(service)
