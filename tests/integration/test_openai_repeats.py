"""Calls that a client's library sends again: the same request, run and billed once."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import pytest

from sluice.domain.keys import digest
from sluice.handover import BrokenOffError, NotStartedError
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.openai_api import MINIMAL, MP3, Api, Reply, keyed
from tests.support.recovery import NOON, run_recovery
from tests.support.service import Service, completed

AGAIN = {"x-stainless-retry-count": "1"}
OTHER_KEY = "sluice_" + "o" * 43


def requests(service: Service) -> int:
    return int(service.value("SELECT count(*) FROM requests"))


def lost(_: Any) -> None:
    """The caller's time is up before the run answers."""


@pytest.fixture
def unfinished(api: Api, service: Service, alice: bytes) -> Reply:
    """A call at noon whose request is still being run."""
    stop_the_clock(service.owner, NOON)
    api.runner = lost
    reply = api.chat()
    assert (reply.status, reply.error["code"]) == (503, "answer_pending")
    return reply


def finish(service: Service, reply: Reply, seconds: float) -> None:
    set_clock(service.owner, NOON + timedelta(seconds=seconds))
    service.settle(completed(reply.request_id))


def test_a_retry_waits_for_the_same_request(api: Api, service: Service, unfinished: Reply) -> None:
    again = api.chat(headers=AGAIN)
    assert (again.status, again.request_id) == (503, unfinished.request_id)
    finish(service, unfinished, 5)
    third = api.chat(headers={"x-stainless-retry-count": "2"})
    assert (third.status, third.request_id) == (200, unfinished.request_id)
    assert third.body["choices"][0]["message"]["content"] == "an answer"
    assert (len(api.runs), requests(service)) == (1, 1)
    assert_books_balance(service)


@pytest.mark.parametrize(("seconds", "is_same"), [(149, True), (151, False)])
def test_an_answer_is_there_for_a_while(
    api: Api, service: Service, unfinished: Reply, seconds: int, is_same: bool
) -> None:
    finish(service, unfinished, 5)
    set_clock(service.owner, NOON + timedelta(seconds=5 + seconds))
    api.runner = api.run
    again = api.chat(headers=AGAIN)
    assert again.status == 200
    assert (again.request_id == unfinished.request_id) == is_same
    assert requests(service) == (1 if is_same else 2)


@pytest.mark.parametrize("count", ["0", "", "no number", "-1", "00", "\u0661"])
def test_an_equal_call_is_another_one_while_the_first_may_still_wait(
    api: Api, service: Service, unfinished: Reply, count: str
) -> None:
    again = api.chat(headers={"x-stainless-retry-count": count})
    assert again.request_id != unfinished.request_id
    assert requests(service) == 2


def test_an_equal_call_is_a_repeat_when_the_first_must_have_been_sent_away(
    api: Api, service: Service, unfinished: Reply
) -> None:
    """Of a client that does not say that it tries again: after 25 s, less a second."""
    set_clock(service.owner, NOON + timedelta(seconds=23.9))
    early = api.chat()
    assert early.request_id != unfinished.request_id
    # The newest of equal ones is what a repeat finds.
    set_clock(service.owner, NOON + timedelta(seconds=23.9 + 24))
    late = api.chat()
    assert late.request_id == early.request_id
    finish(service, early, 60)
    assert api.chat().status == 200
    assert requests(service) == 2


def test_a_retry_in_the_background_is_the_same_request(api: Api, service: Service, alice: bytes) -> None:
    stop_the_clock(service.owner, NOON)
    first = api.respond(background=True)
    again = api.respond(background=True, headers=AGAIN)
    assert (first.status, again.status, again.body["id"]) == (200, 200, first.body["id"])
    # A client that does not say so wants another one, however late it asks.
    set_clock(service.owner, NOON + timedelta(seconds=60))
    assert api.respond(background=True).body["id"] != first.body["id"]
    assert requests(service) == 2


def test_an_answer_that_came_in_time_is_not_given_to_another_call(api: Api, service: Service, alice: bytes) -> None:
    """However late the other one comes: the first client has its answer."""
    stop_the_clock(service.owner, NOON)
    first = api.chat()
    set_clock(service.owner, NOON + timedelta(seconds=60))
    assert api.chat().request_id != first.request_id
    assert api.chat(headers=AGAIN).request_id != first.request_id


def test_two_parallel_calls_are_two_requests(api: Api, service: Service, alice: bytes) -> None:
    """Each environment has one call at a time: the second one comes while the first one's model answers."""
    inner: list[Reply] = []

    def run(claim: Mapping[str, Any]) -> Any:
        if not inner:
            inner.append(Reply(0, {}, ""))
            inner[0] = api.chat()
        return api.run(claim)

    api.runner = run
    outer = api.chat()
    assert (outer.status, inner[0].status) == (200, 200)
    assert outer.request_id != inner[0].request_id
    assert len(api.model.claims) == 2


def test_a_retry_that_overtakes_its_run(api: Api, service: Service, alice: bytes) -> None:
    """It comes from another environment while the first one's run goes on: one call of the model."""
    begun, go_on = Event(), Event()

    def slow(claim: Mapping[str, Any]) -> Any:
        begun.set()
        assert go_on.wait(20)
        return api.run(claim)

    with ThreadPoolExecutor(1) as pool:
        api.runner = slow
        first = pool.submit(api.chat)
        assert begun.wait(20)
        (row,) = service.rows("SELECT count(*) AS n, max(status) AS status FROM requests")
        assert row == {"n": 1, "status": "processing"}
        go_on.set()
        done = first.result(20)
    again = api.chat(headers=AGAIN)
    assert (again.status, again.request_id, len(api.model.claims)) == (200, done.request_id, 1)


@pytest.mark.parametrize(
    "more", [{"temperature": 0.1}, {"metadata": {"a": "b"}}, {"max_tokens": 5}, {"model": "nova-micro"}]
)
def test_another_body_is_no_repeat(api: Api, service: Service, unfinished: Reply, more: dict[str, Any]) -> None:
    assert api.chat(headers=AGAIN, **more).request_id != unfinished.request_id


def test_another_api_is_no_repeat(api: Api, service: Service, unfinished: Reply) -> None:
    assert api.respond(headers=AGAIN).request_id != unfinished.request_id


def test_another_form_of_the_answer_is(api: Api, service: Service, unfinished: Reply) -> None:
    finish(service, unfinished, 5)
    streamed = api.chat(headers=AGAIN, stream=True)
    assert (streamed.request_id, streamed.events[-1]) == (unfinished.request_id, "[DONE]")


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_another_key_never_gets_the_answer(api: Api, service: Service, unfinished: Reply, user: str) -> None:
    if user == "bob":
        service.add_user("bob", OTHER_KEY)
    else:
        service.act(
            "key.create",
            user_id="alice",
            key_hash=digest(OTHER_KEY).hex(),
            key_prefix=OTHER_KEY[:13],
            scopes=["submit", "read"],
        )
    for headers in (AGAIN, {}):
        set_clock(service.owner, NOON + timedelta(seconds=30))
        assert api.chat(headers=keyed(OTHER_KEY) | headers).request_id != unfinished.request_id


@pytest.mark.parametrize("path", MINIMAL)
def test_every_route_knows_its_repeats(api: Api, service: Service, alice: bytes, path: str) -> None:
    first = api.post(path, MINIMAL[path])
    again = api.post(path, MINIMAL[path], AGAIN)
    assert (again.status, again.request_id) == (200, first.request_id)
    if path == "/v1/audio/speech":
        assert again.content == first.content == MP3
    else:
        assert again.body | {"completed_at": 0} == first.body | {"completed_at": 0}
    assert len(api.model.claims) == 1


def test_a_run_that_broke_off_is_tried_again_and_fenced(api: Api, service: Service, alice: bytes) -> None:
    """What the dead run still answers is superseded."""
    stop_the_clock(service.owner, NOON)

    def broken(_: Any) -> None:
        raise BrokenOffError

    api.runner = broken
    first = api.chat()
    assert first.status == 503
    assert service.rows("SELECT status, failed_attempts, last_error FROM inflight") == [
        {"status": "queued", "failed_attempts": 1, "last_error": "worker_lost"}
    ]
    set_clock(service.owner, NOON + timedelta(seconds=2))
    (claim,) = service.claim(first.request_id)
    assert [row["kind"] for row in service.settle(completed(first.request_id, 1))] == ["superseded"]
    service.settle(completed(first.request_id, claim["attempt"], content="the second"))
    again = api.chat(headers=AGAIN)
    assert again.body["choices"][0]["message"]["content"] == "the second"
    assert_books_balance(service)


def test_a_run_that_vanished_is_recovered_when_its_lease_is_over(api: Api, service: Service, unfinished: Reply) -> None:
    lease = service.value("SELECT extract(epoch FROM lease_until - %s)::float FROM inflight", NOON)
    assert lease == pytest.approx(25 + 120 + 30)
    set_clock(service.owner, NOON + timedelta(seconds=200))
    run_recovery(service)
    (claim,) = service.claim(unfinished.request_id)
    assert claim["attempt"] == 2
    service.settle(completed(unfinished.request_id, 2))
    assert api.chat(headers=AGAIN).request_id == unfinished.request_id
    assert_books_balance(service)


def test_what_lambda_does_not_start_goes_through_the_queue(api: Api, service: Service, alice: bytes) -> None:
    def not_started(_: Any) -> None:
        raise NotStartedError

    api.runner = not_started
    first = api.chat()
    assert (first.status, api.work()) == (503, 1)
    again = api.chat(headers=AGAIN)
    assert (again.status, again.request_id, len(api.model.claims)) == (200, first.request_id, 1)
    assert service.rows("SELECT status, failed_attempts FROM inflight") == []
    assert_books_balance(service)


def test_what_repeats_are_recognised_by_is_not_kept_for_long(api: Api, service: Service, unfinished: Reply) -> None:
    """Unlike an idempotency key, which counts for a day."""
    api.chat(headers={"idempotency-key": "mine"})
    for minutes, left in ((59, 2), (61, 1)):
        set_clock(service.owner, NOON + timedelta(minutes=minutes))
        service.database("rollup").value("idempotency_expire", limit=100)
        assert service.value("SELECT count(*) FROM idempotency_keys") == left
    assert service.value("SELECT key FROM idempotency_keys") == "mine"


def test_a_repeat_of_what_was_erased_is_a_new_request(api: Api, service: Service, alice: bytes) -> None:
    first = api.respond()
    assert api.call("DELETE", f"/v1/responses/{first.body['id']}").status == 200
    again = api.respond(headers=AGAIN)
    assert (again.status, again.request_id == first.request_id) == (200, False)
