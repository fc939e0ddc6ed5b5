"""Batches whose file has a fault: they fail as a whole, with the line of each, and nothing is submitted."""

from typing import Any

import pytest

from sluice.domain.errors import SluiceError
from sluice.services import batch_work
from tests.support.batches import BatchBench, jsonl, line
from tests.support.ledger import assert_books_balance

Found = list[tuple[str, int | None]]


def failed(bench: BatchBench, alice: bytes, content: Any) -> Found:
    """The faults of a batch that failed."""
    batch_id = bench.create(alice, content)
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["total"], batch["next_at"]) == ("failed", 0, None)
    assert batch["ended_at"] is not None
    assert bench.service.value("SELECT count(*) FROM batch_lines") == 0
    assert bench.service.value("SELECT count(*) FROM requests") == 0
    assert_books_balance(bench.service)
    return [(each["code"], each["line"]) for each in batch["faults"]]


def test_each_fault_is_listed_with_its_line(bench: BatchBench, alice: bytes) -> None:
    content = [
        line("a"),
        b"no json",
        b"",
        line("b", url="/v1/embeddings"),
        line("a"),
        {"custom_id": "c"},
        b"\xff\xfe",
        line("b"),
        line("a"),
    ]
    assert failed(bench, alice, content) == [
        ("invalid_json_line", 2),
        ("mismatched_url", 4),
        ("duplicate_custom_id", 5),
        ("missing_required_parameter", 6),
        ("invalid_encoding", 7),
        ("duplicate_custom_id", 9),
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", [("empty_file", None)]),
        (b"\n\r\n  \n", [("empty_file", None)]),
        (b"\xef\xbb\xbf", [("empty_file", None)]),
        (jsonl([line("a")]).decode().encode("utf-16"), [("invalid_encoding", 1)]),
        (b"PK\x03\x04\x00\xff" * 3, [("invalid_encoding", 1)]),
    ],
)
def test_a_file_of_something_else_fails(bench: BatchBench, alice: bytes, content: bytes, found: Found) -> None:
    assert failed(bench, alice, content)[: len(found)] == found


def test_a_byte_order_mark_and_windows_line_ends_are_taken(bench: BatchBench, alice: bytes) -> None:
    content = b"\xef\xbb\xbf" + jsonl([line("a"), line("b")]).replace(b"\n", b"\r\n\r\n").removesuffix(b"\r\n")
    batch = bench.finish(bench.create(alice, content))
    assert (batch["status"], batch["completed"]) == ("completed", 2)
    assert bench.service.rows("SELECT line FROM batch_lines ORDER BY 1") == [{"line": 1}, {"line": 3}]


def test_a_line_of_ten_megabytes_is_a_fault_and_the_others_are_looked_at(bench: BatchBench, alice: bytes) -> None:
    content = jsonl([line("a")]) + b'{"custom_id": "' + b"x" * 10_000_000 + b'"}\n' + jsonl([line("a")])
    assert failed(bench, alice, content) == [("line_too_large", 2), ("duplicate_custom_id", 3)]


def test_only_the_first_hundred_faults_are_listed(bench: BatchBench, alice: bytes) -> None:
    found = failed(bench, alice, b"x\n" * 5000)
    assert found == [("invalid_json_line", number) for number in range(1, 101)]


def test_a_batch_has_fifty_thousand_lines_at_most(bench: BatchBench, alice: bytes) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    content = jsonl(line(str(number), body) for number in range(50_001))
    assert failed(bench, alice, content)[0] == ("too_many_lines", None)


def test_a_long_file_is_looked_through_in_turns(
    bench: BatchBench, alice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_work, "TURN_SECONDS", -1.0)
    monkeypatch.setattr(batch_work, "_READ_BYTES", 1000)
    batch_id = bench.create(alice, [line(f"line {n}") for n in range(2500)])
    # Each turn looks through a thousand lines, or submits those of one piece of the file.
    assert bench.run().counts["turns"] > 3 + 10
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["total"], batch["scanned_lines"]) == ("in_progress", 2500, 2500)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"purpose": "vision"}, "batch_file_unfit"),
        ({"user_id": "bob"}, "file_not_found"),
    ],
)
def test_a_file_that_cannot_be_a_batch_is_refused(bench: BatchBench, alice: bytes, given: Any, code: str) -> None:
    bench.service.add_user("bob", "sluice_" + "b" * 43)
    with pytest.raises(SluiceError) as refused:
        bench.create(alice, b"", input_file_id=bench.upload(b"x", **given))
    assert refused.value.code == code
    with pytest.raises(SluiceError, match="file_not_found"):
        bench.create(alice, b"", input_file_id=None)
    assert bench.service.value("SELECT count(*) FROM batches") == 0


def test_a_file_that_is_too_large_is_refused(bench: BatchBench, alice: bytes) -> None:
    file_id = bench.upload(b"x")
    bench.service.owner.execute("UPDATE files SET byte_length = 209715201")
    with pytest.raises(SluiceError, match="batch_file_too_large"):
        bench.create(alice, b"", input_file_id=file_id)


def test_a_user_has_so_many_batches_at_a_time(bench: BatchBench, alice: bytes) -> None:
    file_id = bench.upload(b"x")
    for _ in range(50):
        bench.create(alice, b"", input_file_id=file_id)
    with pytest.raises(SluiceError, match="batches_exceeded"):
        bench.create(alice, b"", input_file_id=file_id)
    bench.run()
    bench.create(alice, b"", input_file_id=file_id)
