"""Batches and crashes: whatever stops a worker, and however many work at once, each line is submitted exactly once."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from sluice.api.openai.batch_lines import OpenAiLines
from sluice.db.batches import Batches
from sluice.db.ledger import Ledger
from sluice.domain.batches import WrittenFiles
from sluice.domain.documents import Output, OutputFile
from sluice.domain.errors import SluiceError
from sluice.domain.objects import Version
from sluice.domain.requests import Submission
from sluice.services.batch_work import BatchWorker
from tests.support.batches import BatchBench, line
from tests.support.ledger import assert_books_balance
from tests.support.service import FakeQueue, completed

LINES = 130


class Killed(BaseException):
    """The environment is gone."""


class Fragile:
    """Lets calls of another object through until it is to fail: before the call, or after it, with the answer lost."""

    def __init__(self, real: Any, fails: Callable[[], BaseException | None], chance: random.Random) -> None:
        self._real, self._fails, self._chance = real, fails, chance

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        def call(*arguments: Any, **named: Any) -> Any:
            error = self._fails()
            if error is not None and self._chance.random() < 0.5:
                raise error
            answer = method(*arguments, **named)
            if error is not None:
                raise error
            return answer

        return call


def lines() -> list[dict[str, Any]]:
    return [line(f"line {n}", {"oops": 1} if n % 40 == 7 else None) for n in range(LINES)]


def assert_each_once(bench: BatchBench, batch: Any) -> None:
    assert (batch["status"], batch["total"]) == ("completed", LINES)
    output = [each["custom_id"] for each in bench.file(batch["output_file_id"])]
    errors = [each["custom_id"] for each in bench.file(batch["error_file_id"])]
    expected = [f"line {n}" for n in range(LINES)]
    assert output == [each for n, each in enumerate(expected) if n % 40 != 7]
    assert errors == [each for n, each in enumerate(expected) if n % 40 == 7]
    asked = Counter(each["prompt"] for each in bench.service.rows("SELECT prompt FROM prompts"))
    assert asked == Counter(f"the question of {each}" for each in output)
    assert bench.service.value("SELECT count(*) FROM files WHERE purpose = 'batch_output'") == 2
    assert_books_balance(bench.service)


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_is_killed_anywhere_is_followed_by_another(
    bench: BatchBench, alice: bytes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("sluice.services.batch_work._SCAN_LINES", 20)
    monkeypatch.setattr("sluice.services.batch_work.FEED_LINES", 9)
    monkeypatch.setattr("sluice.services.batch_answers._RESULT_LINES", 11)
    bench.service.act("quota.set", user_id="alice", max_unfinished=60, dispatch_window=10)
    chance = random.Random(seed)
    kills = 0

    def killed() -> BaseException | None:
        return Killed() if kills < 25 and chance.random() < 0.2 else None

    batch_id = bench.create(alice, lines())
    for _ in range(500):
        worker = fragile(bench, killed, chance)
        try:
            worker.run()
        except Killed:
            kills += 1
            # Nobody hears of it; its lease ends.
            bench.service.owner.execute("UPDATE batches SET leased_until = clock_now() WHERE leased_until IS NOT NULL")
        if bench.batch(batch_id)["ended_at"] is not None:
            break
        # Messages that were lost are sent again.
        bench.service.queue.take()
        bench.redispatch()
        bench.answer(most=chance.randrange(1, 30))
    assert kills == 25
    assert_each_once(bench, bench.batch(batch_id))


def fragile(bench: BatchBench, fails: Callable[[], BaseException | None], chance: random.Random) -> BatchWorker:
    worker = bench.worker()
    storage = Fragile(bench.storage, fails, chance)
    return BatchWorker(
        batches=Fragile(worker.batches, fails, chance),  # type: ignore[arg-type]
        ledger=worker.ledger,
        queue=worker.queue,
        storage=lambda: storage,  # type: ignore[arg-type, return-value]
        inputs=worker.inputs,
        api=worker.api,
        limits=worker.limits,
        remaining_seconds=worker.remaining_seconds,
    )


@pytest.mark.parametrize("code", ["storage_unavailable", "database_unavailable"])
def test_what_cannot_be_reached_is_waited_for(bench: BatchBench, alice: bytes, code: str) -> None:
    chance = random.Random(7)

    def fails() -> BaseException | None:
        return SluiceError(code, "not now") if chance.random() < 0.15 else None

    batch_id = bench.create(alice, lines())
    for _ in range(300):
        fragile(bench, fails, chance).run()
        if bench.batch(batch_id)["ended_at"] is not None:
            break
        bench.service.owner.execute(
            "UPDATE batches SET leased_until = NULL, next_at = clock_now() WHERE next_at IS NOT NULL"
        )
        bench.redispatch()
        bench.answer()
    assert_each_once(bench, bench.batch(batch_id))


def test_a_worker_that_comes_back_after_its_lease_changes_nothing(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, lines())
    late = Batches(bench.service.database("batches"))
    claim = late.claim(60)
    assert claim is not None
    bench.service.owner.execute("UPDATE batches SET leased_until = clock_now()")
    bench.finish(batch_id)
    assert late.scan(claim, [], [], 10**6, 10**6, is_end=True).outcome == "superseded"
    assert late.feed(claim, [{"line": 1, "submission": {}}]).outcome == "superseded"
    assert late.cancel_waiting(claim, 10).outcome == "superseded"
    assert late.finalize(claim).outcome == "superseded"
    assert late.results(claim, 0, 10, 1000) == []
    assert late.finish(claim, WrittenFiles(0, 0, {}, None, None)).outcome == "superseded"
    assert late.put_back(claim, "in_progress", 1, -1) is None
    assert late.unreadable(claim).outcome == "superseded"
    assert_each_once(bench, bench.batch(batch_id))


def test_many_workers_at_once_have_a_batch_each(bench: BatchBench, alice: bytes) -> None:
    ids = [bench.create(alice, lines()[:30]) for _ in range(6)]
    queues = [FakeQueue() for _ in range(4)]

    def work(queue: FakeQueue) -> None:
        database = bench.service.database("batches")
        worker = bench.worker()
        BatchWorker(
            batches=Batches(database),
            ledger=Ledger(database),
            queue=queue,
            storage=worker.storage,
            inputs=worker.inputs,
            api=worker.api,
            limits=worker.limits,
            remaining_seconds=worker.remaining_seconds,
        ).run()

    for _ in range(10):
        with ThreadPoolExecutor(len(queues)) as pool:
            list(pool.map(work, queues))
        for queue in queues:
            bench.service.queue.messages += queue.messages
            queue.messages = []
        bench.answer()
    assert {(each["status"], each["completed"]) for each in map(bench.batch, ids)} == {("completed", 29)}
    assert bench.service.value("SELECT count(*) FROM requests") == 6 * 29
    assert_books_balance(bench.service)


def test_a_line_that_cannot_be_stored_or_read_holds_up_no_other(
    bench: BatchBench, alice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A value that a check of ours let through, and that the database cannot take; and a body that breaks our code.
    real = OpenAiLines.submission

    def submission(self: OpenAiLines, endpoint: str, body: Mapping[str, Any], user_id: str) -> Submission:
        if "breaks" in str(body):
            raise AttributeError("a mistake of ours")
        made = real(self, endpoint, body, user_id)
        return replace(made, metadata={"a": "\x00"}) if "unstorable" in str(body) else made

    monkeypatch.setattr(OpenAiLines, "submission", submission)
    names = ["good", "breaks", "unstorable", "good too", "unstorable too"]
    batch = bench.finish(bench.create(alice, [line(name) for name in names]))
    assert [each["custom_id"] for each in bench.file(batch["output_file_id"])] == ["good", "good too"]
    errors = bench.file(batch["error_file_id"])
    assert [each["custom_id"] for each in errors] == ["breaks", "unstorable", "unstorable too"]
    assert {each["response"]["status_code"] for each in errors} == {500}
    assert_books_balance(bench.service)


def test_an_answer_that_is_gone_is_waited_for_until_the_window_ends(bench: BatchBench, alice: bytes) -> None:
    def answer(claim: Mapping[str, Any]) -> dict[str, Any]:
        output = Output(items=(OutputFile.of(b"long", "text/plain; charset=utf-8"),))
        stored = bench.keep("results", b"long", "text/plain; charset=utf-8")
        bench.storage.delete([Version(stored.key, stored.version_id)])
        return completed(claim["request_id"], claim["attempt"], output=output.to_json(), stored=stored.to_row())

    batch_id = bench.create(alice, [line("one")])
    bench.run()
    bench.answer(answer)
    bench.run()
    assert bench.batch(batch_id)["status"] == "finalizing"
    bench.service.owner.execute("UPDATE batches SET expires_at = clock_now(), next_at = clock_now()")
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["completed"], batch["failed"]) == ("completed", 0, 1)
    (error,) = bench.file(batch["error_file_id"])
    assert error["error"]["code"] == "response_unavailable"
