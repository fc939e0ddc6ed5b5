"""Batches and limits: lines are submitted as far as the user's limits have room, and the others wait."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sluice.domain.errors import SluiceError
from sluice.services.tasks import recover
from tests.support.batches import BatchBench, line
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.service import failed, retry

START = datetime(2031, 1, 30, 9, 0, 10, tzinfo=UTC)


def lines(count: int) -> list[dict[str, Any]]:
    return [line(f"line {n}") for n in range(count)]


def unfinished(bench: BatchBench) -> int:
    return int(bench.service.value("SELECT count(*) FROM inflight"))


def plan(bench: BatchBench, **limits: int) -> None:
    bench.service.act("quota.set", user_id="alice", **limits)


def test_half_of_what_may_be_unfinished_is_left_to_other_requests(bench: BatchBench, alice: bytes) -> None:
    plan(bench, max_unfinished=20, dispatch_window=4)
    batch_id = bench.create(alice, lines(45))
    bench.run()
    assert unfinished(bench) == 10
    for _ in range(10):
        bench.service.submit(alice, "another")
    with pytest.raises(SluiceError, match="unfinished_exceeded"):
        bench.service.submit(alice, "one too many")
    # Nor is there room for a line.
    assert bench.batch(batch_id)["fed"] == 10
    batch = bench.finish(batch_id)
    assert (batch["status"], batch["completed"]) == ("completed", 45)
    assert_books_balance(bench.service)


def test_whoever_works_on_batches_is_woken_up_once_when_half_of_the_requests_have_ended(
    bench: BatchBench, alice: bytes
) -> None:
    plan(bench, max_unfinished=40, dispatch_window=1)
    batch_id = bench.create(alice, lines(60))
    bench.run()
    assert (unfinished(bench), bench.batch(batch_id)["refill_at"]) == (20, 10)
    assert bench.run().counts == {}
    bench.answer(most=9)
    assert (bench.wakes, unfinished(bench)) == (0, 11)
    bench.answer(most=1)
    assert (bench.wakes, unfinished(bench)) == (1, 10)
    bench.answer(most=2)
    assert bench.wakes == 1
    bench.run()
    assert unfinished(bench) == 20
    assert bench.batch(batch_id)["fed"] == 32


def test_the_last_request_of_a_batch_wakes_up_too(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(3))
    bench.run()
    bench.answer()
    assert bench.wakes == 1
    bench.run()
    assert bench.batch(batch_id)["status"] == "completed"


def test_a_used_up_quota_is_waited_for(bench: BatchBench, alice: bytes) -> None:
    stop_the_clock(bench.service.owner, START)
    bench.service.act("quota.set", user_id="alice", limits={"minute": {"max_requests": 5, "max_tokens": None}})
    batch_id = bench.create(alice, lines(12))
    report = bench.run()
    batch = bench.batch(batch_id)
    assert (batch["fed"], batch["waits_for"], batch["refill_at"]) == (5, "quota_exceeded", -1)
    assert report.next_seconds == 50
    bench.answer()
    bench.run()
    assert bench.batch(batch_id)["fed"] == 5
    for minute in (1, 2):
        set_clock(bench.service.owner, START + timedelta(minutes=minute))
        bench.run()
        bench.answer()
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["completed"], batch["waits_for"]) == ("completed", 12, None)
    assert_books_balance(bench.service)


def test_reserved_tokens_are_waited_for_until_requests_end(bench: BatchBench, alice: bytes) -> None:
    bench.service.act("quota.set", user_id="alice", limits={"daily": {"max_requests": None, "max_tokens": 2000}})
    asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 300}
    batch_id = bench.create(alice, [line(f"line {n}", asked) for n in range(9)])
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["fed"], batch["waits_for"], batch["refill_at"]) == (5, "quota_reserved", 2)
    batch = bench.finish(batch_id)
    assert (batch["status"], batch["completed"]) == ("completed", 9)
    assert_books_balance(bench.service)


def test_a_line_that_could_never_fit_is_refused(bench: BatchBench, alice: bytes) -> None:
    bench.service.act("quota.set", user_id="alice", limits={"daily": {"max_requests": None, "max_tokens": 2000}})
    large = {"messages": [{"role": "user", "content": "x" * 3000}]}
    batch = bench.finish(
        bench.create(
            alice,
            [
                line("large", large),
                line("small", {**large, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}),
            ],
        )
    )
    assert (batch["completed"], batch["failed"]) == (1, 1)
    (error,) = bench.file(batch["error_file_id"])
    assert error["response"]["status_code"] == 429
    assert error["response"]["body"]["error"]["sluice_code"] == "quota_too_small"


@pytest.mark.parametrize("why", ["key_revoked", "user_inactive"])
def test_who_may_no_longer_submit_has_the_batch_cancelled(bench: BatchBench, alice: bytes, why: str) -> None:
    plan(bench, max_unfinished=4)
    batch_id = bench.create(alice, lines(5))
    bench.run()
    if why == "key_revoked":
        bench.service.act("key.revoke", key_id=str(bench.batch(batch_id)["key_id"]))
    else:
        bench.service.act("user.update", user_id="alice", is_active=False)
    batch = bench.finish(batch_id)
    assert (batch["status"], batch["cancel_reason"]) == ("cancelled", why)
    assert batch["completed"] == 2
    errors = bench.file(batch["error_file_id"])
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert_books_balance(bench.service)


def test_a_key_that_expires_meanwhile_goes_on(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(2))
    bench.service.owner.execute("UPDATE api_keys SET expires_at = clock_now() - interval '1 minute'")
    assert bench.finish(batch_id)["completed"] == 2


def test_a_key_for_some_models_is_for_these_only(bench: BatchBench, alice: bytes) -> None:
    bench.service.owner.execute("UPDATE api_keys SET models = '{embedder}'")
    batch = bench.finish(bench.create(alice, lines(1)))
    (error,) = bench.file(batch["error_file_id"])
    assert error["response"]["body"]["error"]["sluice_code"] == "model_not_allowed"


def test_a_line_that_is_tried_again_stays_a_line(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(2))
    bench.run()
    bench.answer(lambda claim: retry(claim["request_id"], claim["attempt"], after=60))
    assert unfinished(bench) == 2
    bench.service.owner.execute("UPDATE inflight SET not_before = NULL")
    recover.run(bench.service.tasks())
    batch = bench.finish(batch_id)
    assert (batch["status"], batch["completed"]) == ("completed", 2)


def test_a_redriven_line_counts_again_while_its_batch_goes_on(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(2))
    bench.run()
    first: list[UUID] = []

    def one_fails(claim: Any) -> dict[str, Any]:
        first.append(claim["request_id"])
        return failed(claim["request_id"], claim["attempt"])

    ids = bench.service.queue.take()
    (claim, _) = bench.service.claim(*ids)
    bench.service.settle(one_fails(claim))
    assert bench.batch(batch_id)["failed"] == 1
    bench.service.act("request.redrive", request_id=str(first[0]), ttl_seconds=600, max_attempts=3)
    assert bench.batch(batch_id)["failed"] == 0
    assert_books_balance(bench.service)
