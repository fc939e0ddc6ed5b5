"""Verification finds batches that do not count their lines as they are: one error at a time is injected."""

from collections.abc import Mapping

from tests.support.batches import BatchBench, line
from tests.support.files import OTHER_KEY
from tests.support.ledger import violations

RUNNING = "WHERE batch_id = '%(running)s'"
ENDED = "WHERE batch_id = '%(ended)s'"
# What injects the error, the user of each violation, and what of it an incremental check finds.
WRONGS: Mapping[str, tuple[str, list[str], int]] = {
    "a line is gone": (f"DELETE FROM batch_lines {RUNNING} AND line = 1", ["alice"], 1),
    "a line too many": (
        "INSERT INTO batch_lines (batch_id, line, custom_id, position, length) VALUES ('%(running)s', 9, 'nine', 900, 1)",
        ["alice"],
        1,
    ),
    "a line was submitted and is not counted": (f"UPDATE batches SET fed = fed - 1 {RUNNING}", ["alice"], 1),
    "an answer is counted twice": (f"UPDATE batches SET completed = completed + 1 {RUNNING}", ["alice"], 1),
    "the request of a line is another user's": (
        f"UPDATE requests SET user_id = 'bob' WHERE request_id = (SELECT request_id FROM batch_lines {RUNNING} AND line = 1)",
        ["alice"],
        1,
    ),
    "an unfinished request is a line of no batch": (
        f"UPDATE batch_lines SET request_id = NULL, error = '{{}}' {RUNNING} AND line = 2",
        ["alice", "alice"],
        2,
    ),
    "an unfinished request is another batch's line": (
        "UPDATE inflight SET batch_id = '%(ended)s' WHERE batch_id = '%(running)s'",
        ["alice", "alice"],
        2,
    ),
    "an ended batch counts a line too few": (f"UPDATE batches SET completed = completed - 1 {ENDED}", ["alice"], 0),
    "the answers are in no file": (f"UPDATE batches SET output_file_id = uuidv7() {ENDED}", ["alice"], 0),
    "the answers are in another user's file": (
        f"UPDATE files SET user_id = 'bob' WHERE file_id = (SELECT output_file_id FROM batches {ENDED})",
        ["alice"],
        0,
    ),
}


def test_each_injected_violation_is_found(bench: BatchBench, alice: bytes) -> None:
    bench.service.add_user("bob", OTHER_KEY)
    ended = bench.create(alice, [line("a"), line("b")])
    bench.finish(ended)
    running = bench.create(alice, [line(name) for name in "cde"])
    bench.run()
    bench.answer(most=1)
    assert violations(bench.service) == []
    for case, (sql, users, incremental) in WRONGS.items():
        with bench.service.owner.transaction(force_rollback=True):
            bench.service.owner.execute((sql % {"running": running, "ended": ended}).encode())
            for every, count in ((True, len(users)), (False, incremental)):
                found = [
                    each for each in violations(bench.service, every=every) if each["invariant"] == "batch_adds_up"
                ]
                assert [each["user_id"] for each in found] == users[:count], (case, every)
