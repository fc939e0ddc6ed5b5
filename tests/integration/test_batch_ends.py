"""Batches that end before all of their lines are answered: cancelled by their users, or because their window is over."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.domain.errors import SluiceError
from sluice.services.tasks import expire, recover
from tests.support.batches import BatchBench, line
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.service import retry

START = datetime(2031, 1, 30, 9, tzinfo=UTC)


def lines(count: int) -> list[dict[str, Any]]:
    return [line(f"line {n}") for n in range(count)]


def codes(bench: BatchBench, batch: Any) -> list[str]:
    return [each["error"]["code"] for each in bench.file(batch["error_file_id"])]


def test_a_cancelled_batch_has_the_answers_that_there_are(bench: BatchBench, alice: bytes) -> None:
    bench.service.act("quota.set", user_id="alice", max_unfinished=20, dispatch_window=4)
    batch_id = bench.create(alice, lines(30))
    bench.run()
    bench.answer(most=4)
    at_a_worker = bench.service.claim(*bench.service.queue.take()[:2])
    assert bench.manager.cancel(alice, batch_id)["status"] == "cancelling"
    assert bench.manager.cancel(alice, batch_id)["status"] == "cancelling", "again is the same"
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["completed"]) == ("cancelling", 4), "two are at a worker"
    bench.settle(at_a_worker)
    assert bench.wakes == 1
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["cancel_reason"], batch["completed"], batch["failed"]) == (
        "cancelled",
        "user",
        6,
        24,
    )
    assert [each["custom_id"] for each in bench.file(batch["output_file_id"])] == [f"line {n}" for n in range(6)]
    assert codes(bench, batch) == ["batch_cancelled"] * 24
    assert bench.manager.cancel(alice, batch_id)["status"] == "cancelled"
    assert bench.service.value("SELECT count(*) FROM requests WHERE status = 'cancelled'") == 4
    assert_books_balance(bench.service)


def test_what_is_to_be_tried_again_of_a_cancelled_batch_is_not(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(1))
    bench.run()
    at_a_worker = bench.service.claim(*bench.service.queue.take())
    bench.manager.cancel(alice, batch_id)
    bench.run()
    bench.settle(at_a_worker, lambda claim: retry(claim["request_id"], claim["attempt"], after=300))
    bench.service.owner.execute("UPDATE batches SET next_at = clock_now()")
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], codes(bench, batch)) == ("cancelled", ["batch_cancelled"])
    assert_books_balance(bench.service)


def test_a_batch_can_be_cancelled_before_it_was_looked_at(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(3))
    bench.manager.cancel(alice, batch_id)
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["total"]) == ("cancelled", 0)
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)
    assert_books_balance(bench.service)


def test_a_batch_that_has_ended_cannot_be_cancelled(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(1))
    bench.finish(batch_id)
    with pytest.raises(SluiceError, match="batch_finished"):
        bench.manager.cancel(alice, batch_id)


def test_when_the_window_ends_the_files_have_what_there_is(bench: BatchBench, alice: bytes) -> None:
    stop_the_clock(bench.service.owner, START)
    bench.service.act("quota.set", user_id="alice", max_unfinished=20, dispatch_window=4)
    batch_id = bench.create(alice, lines(30), completion_window="2h")
    bench.run()
    bench.answer(most=5)
    set_clock(bench.service.owner, START + timedelta(hours=2, seconds=1))
    bench.run()
    batch = bench.batch(batch_id)
    assert batch["status"] == "in_progress", "some of its requests have not ended yet"
    recover.run(bench.service.tasks())
    bench.run()
    batch = bench.batch(batch_id)
    assert batch["status"] == "expired"
    assert batch["completed"] + batch["failed"] == 30
    assert codes(bench, batch) == ["batch_expired"] * batch["failed"]
    assert batch["completed"] == len(bench.file(batch["output_file_id"])) > 4
    assert_books_balance(bench.service)


def test_a_file_that_is_looked_through_too_late_expires(bench: BatchBench, alice: bytes) -> None:
    stop_the_clock(bench.service.owner, START)
    batch_id = bench.create(alice, lines(2))
    set_clock(bench.service.owner, START + timedelta(hours=25))
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], codes(bench, batch)) == ("expired", ["batch_expired"] * 2)
    assert bench.service.value("SELECT count(*) FROM requests") == 0


def test_a_request_of_a_batch_lives_as_long_as_the_batch(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines(1))
    bench.run()
    batch = bench.batch(batch_id)
    assert bench.service.value("SELECT expires_at FROM inflight") == batch["expires_at"]
    assert batch["expires_at"] - batch["created_at"] == timedelta(hours=24)


def test_files_are_kept_for_as_long_as_was_asked(bench: BatchBench, alice: bytes) -> None:
    batch = bench.finish(bench.create(alice, [line("a"), line("b", {})], output_expires_seconds=3600))
    rows = bench.service.rows("SELECT * FROM files WHERE batch_id = %s ORDER BY filename", batch["batch_id"])
    assert [each["filename"] for each in rows] == [
        f"batch_{batch['batch_id'].hex}_errors.jsonl",
        f"batch_{batch['batch_id'].hex}_output.jsonl",
    ]
    assert {(each["purpose"], each["expires_at"]) for each in rows} == {
        ("batch_output", batch["ended_at"] + timedelta(hours=1))
    }


def test_lines_are_forgotten_after_a_month(bench: BatchBench, alice: bytes) -> None:
    stop_the_clock(bench.service.owner, START)
    bench.finish(bench.create(alice, lines(3)))
    set_clock(bench.service.owner, START + timedelta(days=29))
    assert expire.run(bench.service.tasks())["batch_lines"] == 0
    set_clock(bench.service.owner, START + timedelta(days=31))
    assert expire.run(bench.service.tasks())["batch_lines"] == 3
    assert bench.service.value("SELECT count(*) FROM batches") == 1
    assert_books_balance(bench.service)


def test_the_recovery_task_wakes_up_who_works_on_batches(bench: BatchBench, alice: bytes) -> None:
    assert recover.run(bench.service.tasks())["batches_due"] == 0
    bench.create(alice, lines(1))
    tasks = bench.service.tasks(batch_queue=bench.service.webhook_queue)
    assert recover.run(tasks)["batches_due"] == 1
    assert bench.service.webhook_queue.wakes == 1
    bench.run()
    assert recover.run(tasks)["batches_due"] == 0
