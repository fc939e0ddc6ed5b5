"""Administration of batches: sluice batches."""

from typing import Any

import pytest

from sluice.domain.batches import batch_name
from tests.support.batches import BatchBench, line
from tests.support.functions import administer
from tests.support.ledger import assert_books_balance


@pytest.fixture(autouse=True)
def admin(deploy: Any, bench: BatchBench) -> None:
    deploy("admin")


def test_an_operator_sees_the_batches_of_all_users(bench: BatchBench, alice: bytes) -> None:
    bob = bench.service.add_user("bob", "sluice_" + "b" * 43)
    ended = bench.create(alice, [line("a")])
    bench.finish(ended)
    theirs = bench.create(bob, b"", input_file_id=bench.upload(b"x", "bob"))
    listed = administer("batch.list")["result"]
    assert [each["batch_id"] for each in listed] == [batch_name(theirs), batch_name(ended)]
    for arguments, found in (
        ({"user_id": "bob"}, [theirs]),
        ({"status": "completed"}, [ended]),
        ({"limit": 1}, [theirs]),
        ({"user_id": "bob", "status": "completed"}, []),
    ):
        result = administer("batch.list", **arguments)["result"]
        assert [each["batch_id"] for each in result] == [batch_name(each) for each in found]
    shown = administer("batch.show", batch_id=batch_name(ended))["result"]
    assert shown == listed[1]
    assert (shown["user_id"], shown["status"], shown["total"], shown["completed"]) == ("alice", "completed", 1, 1)


def test_an_operator_cancels_a_batch(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, [line(str(n)) for n in range(3)])
    bench.run()
    cancelled = administer("batch.cancel", batch_id=batch_name(batch_id))["result"]
    assert (cancelled["batch_id"], cancelled["status"]) == (batch_name(batch_id), "cancelling")
    rows = bench.service.rows(
        "SELECT actor, user_id FROM audit_log WHERE action = 'batch.cancel_requested' ORDER BY audit_id"
    )
    assert [(row["actor"], row["user_id"]) for row in rows] == [("admin", "alice")]
    assert bench.finish(batch_id)["status"] == "cancelled"
    assert_books_balance(bench.service)
    again = administer("batch.cancel", batch_id=batch_name(batch_id))["result"]
    assert again["status"] == "cancelled"


def test_a_batch_that_has_ended_cannot_be_cancelled(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, [line("a")])
    bench.finish(batch_id)
    refused = administer("batch.cancel", batch_id=batch_name(batch_id))
    assert (refused["ok"], refused["problem"]["code"]) == (False, "batch_finished")
