"""A batch from message to settlement on real PostgreSQL, with scripted models."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from sluice.backends.protocol import Backend, ModelError
from sluice.db.ledger import Ledger
from sluice.domain.documents import Output, OutputEmbedding, ToolCall
from sluice.domain.errors import SluiceError
from sluice.domain.requests import Claim, Completion
from sluice.messaging import Delivery
from sluice.services.process import BatchReport, Worker, WorkerSettings
from tests.support.service import Service

SETTINGS = WorkerSettings(max_result_bytes=1000, flush_seconds=0.05, retry_base_seconds=4, lease_margin_seconds=30)


class ScriptedModel:
    """Answers each prompt as scripted: with a text, an output, an error, or the result of a call."""

    def __init__(self, script: dict[str, Any] | None = None) -> None:
        self.script = script or {}
        self.claims: list[Claim] = []

    def complete(self, claim: Claim, timeout: float) -> Completion:
        self.claims.append(claim)
        answer = self.script.get(claim.input.messages[0].text, f"answer to {claim.input.messages[0].text}")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Output):
            return Completion(answer, 7, 3)
        return Completion.of_text(answer(timeout) if callable(answer) else answer, 7, 3)


def deliver(*ids: UUID) -> list[Delivery]:
    return [Delivery(f"message-{position}", json.dumps({"request_id": str(i)})) for position, i in enumerate(ids)]


def work(service: Service, model: ScriptedModel, deliveries: list[Delivery], seconds: float = 30) -> BatchReport:
    ends = time.monotonic() + seconds
    return new_worker(service, {"bedrock": model}, lambda: ends - time.monotonic()).work(deliveries)


def new_worker(
    service: Service,
    backends: Mapping[str, Backend],
    remaining_seconds: Callable[[], float] = lambda: 30.0,
    ledger: Ledger | None = None,
    settings: WorkerSettings = SETTINGS,
) -> Worker:
    return Worker(
        ledger=ledger or service.ledger("worker"),
        queue=service.queue,
        backends=backends,
        settings=settings,
        remaining_seconds=remaining_seconds,
    )


def outcome(service: Service, request_id: UUID) -> dict[str, Any]:
    (row,) = service.rows(
        "SELECT r.status, r.error_code, r.total_tokens, s.content FROM requests r LEFT JOIN results s"
        " USING (result_id) WHERE r.request_id = %s",
        request_id,
    )
    return row


def test_a_batch_is_answered(service: Service, alice: bytes) -> None:
    ids = [service.submit(alice, f"prompt {n}") for n in range(10)]

    report = work(service, ScriptedModel(), deliver(*ids))

    assert (report.failed_message_ids, report.counts) == ([], {"completed": 10})
    for n, request_id in enumerate(ids):
        assert outcome(service, request_id) == {
            "status": "completed",
            "error_code": None,
            "total_tokens": 10,
            "content": f"answer to prompt {n}",
        }


def test_models_are_called_concurrently(service: Service, alice: bytes) -> None:
    from threading import Barrier

    # Each call waits until all others have started: sequential calls would never end.
    barrier = Barrier(10, timeout=20)
    ids = [service.submit(alice, f"prompt {n}") for n in range(10)]
    script = {f"prompt {n}": lambda _: str(barrier.wait()) for n in range(10)}

    assert work(service, ScriptedModel(script), deliver(*ids)).counts == {"completed": 10}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelError("model_rejected"), "failed", "model_rejected"),
        (ModelError("context_length_exceeded"), "failed", "context_length_exceeded"),
        (ModelError("model_usage_missing"), "failed", "model_usage_missing"),
        (ModelError("model_unavailable"), "queued", None),
        (ModelError("model_throttled", retry_after=20), "queued", None),
        (ModelError("model_bad_response"), "queued", None),
        (RuntimeError("the prompt was zebra"), "queued", None),
    ],
)
def test_a_failing_model_fails_or_requeues_the_request(
    service: Service, alice: bytes, error: Exception, status: str, code: str | None
) -> None:
    good, bad = service.submit(alice, "good"), service.submit(alice, "bad")
    service.queue.take()

    report = work(service, ScriptedModel({"bad": error}), deliver(good, bad))

    assert report.failed_message_ids == [], "the message is not delivered again"
    assert outcome(service, good)["status"] == "completed"
    assert (outcome(service, bad)["status"], outcome(service, bad)["error_code"]) == (status, code)
    if status == "queued":
        (message,) = service.queue.messages
        least = 20 if isinstance(error, ModelError) and error.retry_after else 2  # half of the base, with jitter
        assert message.request_id == bad
        assert least <= message.delay_seconds <= max(least, 4) + 1
    else:
        assert service.queue.messages == []


def test_the_models_own_error_text_is_not_stored(service: Service, alice: bytes, caplog: Any) -> None:
    request_id = service.submit(alice, "bad")
    for attempt in range(3):
        service.owner.execute("UPDATE inflight SET not_before = NULL")
        work(service, ScriptedModel({"bad": RuntimeError("the prompt was zebra")}), deliver(request_id))
        assert service.value("SELECT attempts FROM requests") == attempt + 1

    (row,) = service.rows("SELECT status, error_code, error_message FROM requests")
    assert (row["status"], row["error_code"]) == ("failed", "worker_error")
    assert "zebra" not in row["error_message"]
    assert "zebra" not in caplog.text
    assert "zebra" not in json.dumps(service.rows("SELECT before, after FROM audit_log"))


def test_a_result_too_large_fails_and_its_tokens_count(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice, "long")

    work(service, ScriptedModel({"long": "é" * 501}), deliver(request_id))

    assert outcome(service, request_id) == {
        "status": "failed",
        "error_code": "result_too_large",
        "total_tokens": 10,
        "content": None,
    }
    assert service.value("SELECT tokens_used FROM quotas WHERE quota_period = 'daily'") == 10


def test_a_result_too_large_for_a_response_fails(service: Service, alice: bytes) -> None:
    """Lambda's response escapes the text twice: two million newlines, allowed by the limit here, exceed 6 MB."""
    request_id = service.submit(alice, "long")
    settings = WorkerSettings(
        max_result_bytes=2_500_000, flush_seconds=0, retry_base_seconds=1, lease_margin_seconds=30
    )
    model = ScriptedModel({"long": "\n" * 2_000_001})

    new_worker(service, {"bedrock": model}, settings=settings).work(deliver(request_id))

    assert outcome(service, request_id)["error_code"] == "result_too_large"


@pytest.mark.parametrize(
    "output",
    [
        Output.of_text("x", reasoning="x" * 1000),
        Output.of_text("x", refusal="é" * 500),
        Output.of_text("x", tool_calls=(ToolCall(id="1", name="f", arguments="x" * 1000),)),
        Output.of_text("x", tool_calls=tuple(ToolCall(id=str(n), name="f" * 50, arguments="") for n in range(20))),
    ],
)
def test_everything_that_was_written_counts(service: Service, alice: bytes, output: Output) -> None:
    request_id = service.submit(alice, "long")
    work(service, ScriptedModel({"long": output}), deliver(request_id))
    assert outcome(service, request_id)["error_code"] == "result_too_large"


def test_vectors_are_no_text_but_must_fit_an_answer(service: Service, alice: bytes) -> None:
    for size, status in ((100_000, "completed"), (6_000_000, "failed")):
        request_id = service.submit(alice, "embed")
        vectors = Output(items=(OutputEmbedding(vector="A" * size),))
        work(service, ScriptedModel({"embed": vectors}), deliver(request_id))
        assert outcome(service, request_id)["status"] == status


def test_characters_that_cannot_be_stored_are_replaced(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice, "odd")

    work(service, ScriptedModel({"odd": "a\x00b\ud800c\U0001f600"}), deliver(request_id))

    assert outcome(service, request_id)["content"] == "a\ufffdb\ufffdc\U0001f600"


@pytest.mark.parametrize("body", ["", "not json", "[]", "{}", '{"request_id": "12"}', '{"request_id": null}'])
def test_an_unreadable_message_is_kept_and_does_not_block_others(service: Service, alice: bytes, body: str) -> None:
    request_id = service.submit(alice)

    report = work(service, ScriptedModel(), [Delivery("odd", body), *deliver(request_id)])

    assert report.failed_message_ids == ["odd"]
    assert outcome(service, request_id)["status"] == "completed"


def test_messages_without_work_are_acknowledged(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    model = ScriptedModel()
    work(service, model, deliver(request_id))

    report = work(service, model, deliver(request_id, uuid4()))

    assert (report.failed_message_ids, report.counts, len(model.claims)) == ([], {}, 1)


def test_the_same_request_twice_in_a_batch_is_called_once(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    model = ScriptedModel()

    work(service, model, deliver(request_id, request_id))

    assert len(model.claims) == 1


def test_an_invocation_out_of_time_releases_unfinished_requests(service: Service, alice: bytes) -> None:
    from threading import Event

    fast, slow = service.submit(alice, "fast"), service.submit(alice, "slow")
    service.queue.take()
    released = Event()
    try:
        report = work(
            service, ScriptedModel({"slow": lambda _: str(released.wait(20))}), deliver(fast, slow), seconds=5.5
        )
    finally:
        released.set()

    assert report.counts == {"completed": 1, "queued": 1}
    assert outcome(service, fast)["status"] == "completed"
    assert [message.request_id for message in service.queue.messages] == [slow]


def test_requests_without_enough_time_are_released_unbegun(service: Service, alice: bytes) -> None:
    """The claim took most of the invocation, as with a slow database."""
    request_id = service.submit(alice)
    service.queue.take()
    model = ScriptedModel()
    left = iter([30.0])
    worker = new_worker(service, {"bedrock": model}, lambda: next(left, 10.0))

    report = worker.work(deliver(request_id))

    assert (model.claims, report.failed_message_ids, report.counts) == ([], [], {"queued": 1})
    assert service.queue.take() == [request_id], "sent at once for another worker"
    assert service.rows("SELECT status, attempt, failed_attempts, not_before FROM inflight") == [
        {"status": "queued", "attempt": 1, "failed_attempts": 0, "not_before": None}
    ]


def test_a_finished_answer_does_not_wait_for_a_slow_one(service: Service, alice: bytes) -> None:
    fast, slow = service.submit(alice, "fast"), service.submit(alice, "slow")
    seen: list[str] = []

    def wait_for_the_other(_: float) -> str:
        watching = Service(service.dsn)
        for _ in range(200):
            seen.append(outcome(watching, fast)["status"])
            if seen[-1] == "completed":
                watching.close()
                return "slow"
            time.sleep(0.05)
        return "never"

    work(service, ScriptedModel({"slow": wait_for_the_other}), deliver(fast, slow))

    assert seen[-1] == "completed"
    assert outcome(service, slow)["content"] == "slow"


def test_the_next_request_of_the_dispatch_window_is_sent(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 1")
    first, second = service.submit(alice), service.submit(alice)
    service.queue.take()

    work(service, ScriptedModel(), deliver(first))

    assert service.queue.take() == [second]


def test_recovery_sends_the_next_request_if_the_worker_cannot(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 1")
    first, _ = service.submit(alice), service.submit(alice)
    service.queue.down = True

    assert work(service, ScriptedModel(), deliver(first)).failed_message_ids == []
    assert service.rows("SELECT dispatched_at FROM inflight") == [{"dispatched_at": None}]


def test_an_unavailable_database_leaves_messages_in_the_queue(service: Service, alice: bytes) -> None:
    class Away(Ledger):
        def claim(self, *_: Any) -> Any:
            raise SluiceError("database_unavailable", "away")

    request_id = service.submit(alice)
    worker = new_worker(service, {"bedrock": ScriptedModel()}, ledger=Away(service.database("worker")))

    assert worker.work(deliver(request_id)).failed_message_ids == ["message-0"]
    assert outcome(service, request_id)["status"] == "queued"


def test_a_database_back_in_time_loses_nothing(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)

    class Flaky(Ledger):
        refusals = 2

        def settle(self, *given: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise SluiceError("database_unavailable", "away")
            return super().settle(*given)

    worker = new_worker(service, {"bedrock": ScriptedModel()}, ledger=Flaky(service.database("worker")))

    assert worker.work(deliver(request_id)).failed_message_ids == []
    assert outcome(service, request_id)["status"] == "completed"


def test_an_unstorable_answer_does_not_affect_others(service: Service, alice: bytes) -> None:
    good, bad = service.submit(alice, "good"), service.submit(alice, "bad")
    service.owner.execute("ALTER TABLE results ADD CONSTRAINT results_no_bad CHECK (content <> 'unstorable')")

    report = work(service, ScriptedModel({"bad": "unstorable"}), deliver(good, bad))

    assert report.failed_message_ids == []
    assert outcome(service, good)["status"] == "completed"
    assert (outcome(service, bad)["status"], outcome(service, bad)["error_code"]) == ("failed", "worker_error")


def test_an_unknown_backend_fails_the_request(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    worker = new_worker(service, {})

    worker.work(deliver(request_id))

    assert outcome(service, request_id)["error_code"] == "model_backend_unknown"


def test_equal_questions_have_equal_fingerprints(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    ids = [
        service.submit(alice, "same"),
        service.submit(alice, "same"),
        service.submit(alice, "same", parameters={"seed": 1}),
        service.submit(bob, "same"),
    ]
    work(service, ScriptedModel(), deliver(*ids))

    rows = service.rows("SELECT fingerprint FROM results JOIN requests USING (request_id) ORDER BY request_id")
    prints = [row["fingerprint"] for row in rows]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_claim_has_the_bounds_of_its_model(service: Service, alice: bytes) -> None:
    service.act("model.set", model_id="nova-micro", item_tokens=7, image_tokens=765)
    (claim,) = service.ledger("worker").claim([service.submit(alice)], 30)
    assert (claim.kind, claim.overhead_tokens, claim.item_tokens, claim.image_tokens) == ("chat", 64, 7, 765)
