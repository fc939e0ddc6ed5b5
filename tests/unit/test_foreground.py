"""Answering while the client waits: what becomes of a request whose run did not end as it should."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from sluice.domain.documents import Input, Output
from sluice.domain.errors import SluiceError
from sluice.domain.requests import Outcome, RequestDetail, RequestLimits, Run, Settled, Submission
from sluice.domain.states import Status
from sluice.handover import BrokenOffError, NotStartedError
from sluice.services.foreground import Answered, Foreground
from tests.support.openai_views import DETAIL, REQUEST_ID, completed
from tests.support.service import FakeQueue

SUBMISSION = Submission(input=Input.of_prompt("hello"), metadata={"a": "b"}, surface={"api": "chat"})
CLAIM = {"request_id": str(REQUEST_ID), "attempt": 3}
OTHER = UUID(int=9)
STORED = completed(Output.of_text("from the database", "stop"))
DONE = {
    "kind": "settled",
    "status": "completed",
    "outcome": {"output": Output.of_text("from the run", "stop").to_json(), "prompt_tokens": 2, "completion_tokens": 1},
}


@dataclass
class FakeLedger:
    """A ledger with one request, which ends after so many looks."""

    looks: int = 0
    claim: Mapping[str, Any] | None = field(default_factory=lambda: CLAIM)
    outcome: str = "accepted"
    send: Sequence[UUID] = ()
    away: bool = False
    settled: list[tuple[Outcome, str]] = field(default_factory=list)
    looked: int = 0
    read: int = 0

    def run(self, *_: Any) -> Run:
        return Run(self.outcome, REQUEST_ID, "alice", "m", self.send, {"quotas": []}, self.claim)

    def ended(self, request_id: UUID) -> bool:
        assert request_id == REQUEST_ID
        self.looked += 1
        return self.looked > self.looks

    def detail(self, key_hash: bytes, request_id: UUID) -> RequestDetail:
        self.read += 1
        return STORED

    def settle(self, outcomes: Sequence[Outcome], actor: str) -> list[Settled]:
        if self.away:
            raise SluiceError("database_unavailable", "away")
        self.settled += [(outcome, actor) for outcome in outcomes]
        return [
            Settled("requeued", REQUEST_ID, "alice", "queued", None),
            Settled("dispatch", REQUEST_ID, "alice", "queued", 0),
        ]


def answer(ledger: FakeLedger, runner: Any, queue: FakeQueue | None = None, wait_seconds: float = 0.0) -> Answered:
    foreground = Foreground(
        ledger=ledger,  # type: ignore[arg-type]
        queue=queue or FakeQueue(),
        limits=RequestLimits(max_prompt_bytes=1000, longest_seconds=60, max_attempts=3),
        runner=runner if callable(runner) else lambda _: runner,
        lease_seconds=60,
        wait_seconds=wait_seconds,
    )
    return foreground.answer(b"key", SUBMISSION)


def raising(error: Exception) -> Any:
    def run(_: Any) -> Any:
        raise error

    return run


def test_an_answer_is_taken_from_the_run() -> None:
    ledger = FakeLedger()
    detail = answer(ledger, DONE).detail
    assert (ledger.looked, ledger.read, ledger.settled) == (0, 0, [])
    assert (detail.status, detail.output) == (Status.COMPLETED, Output.of_text("from the run", "stop"))
    assert (detail.prompt_tokens, detail.completion_tokens, detail.total_tokens) == (2, 1, 3)
    assert (detail.created_at, detail.finish_reason) == (DETAIL.created_at, "stop")
    assert (detail.metadata, detail.surface, detail.input) == ({"a": "b"}, {"api": "chat"}, SUBMISSION.input)


def test_a_run_that_failed_has_an_error_and_its_tokens() -> None:
    outcome = {"error_code": "model_rejected", "error_message": "no", "prompt_tokens": 2, "completion_tokens": 0}
    detail = answer(FakeLedger(), {"kind": "settled", "status": "failed", "outcome": outcome}).detail
    assert (detail.status, detail.error_code, detail.error_message) == (Status.FAILED, "model_rejected", "no")
    assert (detail.total_tokens, detail.output) == (2, None)


def test_the_answer_of_a_cancelled_run_is_dropped() -> None:
    """The user cancelled it while the model was answering: its tokens count, its text is not shown."""
    detail = answer(FakeLedger(), DONE | {"status": "cancelled"}).detail
    assert (detail.status, detail.output, detail.finish_reason) == (Status.CANCELLED, None, None)
    assert (detail.total_tokens, detail.error_code) == (3, None)


@pytest.mark.parametrize(
    "done",
    [
        None,
        {},
        {"kind": "requeued", "status": "queued", "outcome": {"error_code": "model_throttled"}},
        DONE | {"kind": "superseded"},
    ],
)
def test_what_a_run_did_not_end_is_looked_for(done: Any) -> None:
    ledger = FakeLedger()
    assert answer(ledger, done).detail is STORED
    assert (ledger.looked, ledger.settled) == (1, []), "a claim that may be alive is not given back"


@pytest.mark.parametrize(("error", "outcome"), [(NotStartedError(), "released"), (BrokenOffError(), "retry")])
def test_a_run_that_did_not_happen_is_given_back(error: Exception, outcome: str) -> None:
    ledger, queue = FakeLedger(), FakeQueue()
    assert answer(ledger, raising(error), queue).detail is STORED
    ((given, actor),) = ledger.settled
    assert (given.request_id, given.attempt, given.outcome, actor) == (REQUEST_ID, 3, outcome, "openai")
    assert (given.error_code, given.retry_after) == (("worker_lost", 1.0) if outcome == "retry" else (None, None))
    assert given.output is None
    assert queue.take() == [REQUEST_ID], "it goes on through the queue"


def test_what_cannot_be_given_back_is_left_to_its_lease() -> None:
    ledger, queue = FakeLedger(away=True), FakeQueue()
    assert answer(ledger, raising(NotStartedError()), queue).detail is STORED
    assert queue.messages == []


def test_without_a_claim_nothing_is_run() -> None:
    queue = FakeQueue()
    ledger = FakeLedger(claim=None, send=(REQUEST_ID, OTHER))
    assert answer(ledger, raising(AssertionError("run")), queue).detail is STORED
    assert queue.take() == [REQUEST_ID, OTHER]


def test_whoever_has_waited_long_enough_is_told_which_request_it_is() -> None:
    ledger = FakeLedger(looks=1000)
    with pytest.raises(SluiceError) as caught:
        answer(ledger, None, wait_seconds=0.6)
    assert (caught.value.code, caught.value.extra) == ("answer_pending", {"request_id": REQUEST_ID})
    # One for each quarter of a second, and the last one when the time is up.
    assert 3 <= ledger.looked <= 4


def test_an_answer_that_comes_while_it_is_waited_for() -> None:
    ledger = FakeLedger(looks=2)
    assert answer(ledger, None, wait_seconds=30).detail is STORED
    assert ledger.looked == 3


def test_a_refusal_runs_nothing() -> None:
    ledger = FakeLedger(outcome="scope_missing", claim=None)
    with pytest.raises(SluiceError) as caught:
        answer(ledger, raising(AssertionError("run")))
    assert caught.value.code == "scope_missing"
