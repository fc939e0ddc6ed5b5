"""A worker's batch: claimed in one call, its models called in parallel, settled as they finish."""

import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from sluice.backends.protocol import Backend, ModelError
from sluice.db.ledger import Ledger
from sluice.domain.calls import tokens_of
from sluice.domain.errors import DatabaseError, SluiceError
from sluice.domain.failures import FAILURES
from sluice.domain.fingerprint import question_fingerprint
from sluice.domain.requests import Claim, Completion, Outcome, Settled, UsageFlag
from sluice.domain.sizes import MAX_FILE_BYTES
from sluice.messaging import Delivery, Message, Sender, Waker, requested_id
from sluice.services.answering import Answerer, Trail
from sluice.services.dispatch import send_or_undispatch
from sluice.services.forms import CheckForm, check_form
from sluice.services.keeping import NOWHERE, Keeper, output_fits_an_answer

logger = logging.getLogger(__name__)

# Kept free at the end of an invocation, to settle what was cut off and to send what follows.
RESERVE_SECONDS: Final = 5.0
MAX_BACKOFF_SECONDS: Final = 900.0
# While the operator has something to repair: the pauses are so many times longer, and an hour at most. With the
# defaults, the 19 pauses of 20 attempts are up to 15 hours.
REPAIR_FACTOR: Final = 12.0
MAX_REPAIR_BACKOFF_SECONDS: Final = 3600.0
# A model may ask for a longer pause than ours; more than an hour is not believed.
MAX_RETRY_AFTER_SECONDS: Final = 3600.0
_SETTLE_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True)
class WorkerSettings:
    """How the worker works: set by the deployment.

    Attributes:
        flush_seconds: longest that a finished answer waits for others to be settled with.
        retry_base_seconds: pause before the second attempt; it doubles from there.
        lease_margin_seconds: how much longer than its invocation a lease lasts, so that a worker's last settlement
            finds its claim still its own.
    """

    max_result_bytes: int
    flush_seconds: float
    retry_base_seconds: float
    lease_margin_seconds: float


@dataclass
class BatchReport:
    """What became of a batch.

    Attributes:
        failed_message_ids: messages that the queue is to keep: unreadable ones, and those whose outcome could not be
            stored.
        counts: requests by what became of them: completed, failed, cancelled, queued (to be tried again), superseded.
        finish_reasons: completed requests by why their models stopped; unknown: the model did not say.
        doubts: token reports that were doubted, by what was wrong.
        repairs: attempts that failed for a reason that the operator has to repair, by model and error code.
        settled: outcomes, without the bytes of files, with what the database made of them, by request.
    """

    failed_message_ids: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    doubts: Counter[UsageFlag] = field(default_factory=Counter)
    repairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    settled: dict[UUID, tuple[Outcome, Settled]] = field(default_factory=dict)


class Worker:
    """Works on the batches of one invocation.

    Args:
        backends: by name.
        check_form: looks at answers whose form was asked for.
        keeper: keeps answers that are too large for the database.
        webhooks: is woken up when there are some to be sent.
        batches: is woken up when more lines of one are to be submitted.
        remaining_seconds: how long this invocation still has.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        queue: Sender,
        backends: Mapping[str, Backend],
        check_form: CheckForm = check_form,
        keeper: Keeper = NOWHERE,
        webhooks: Waker | None = None,
        settings: WorkerSettings,
        remaining_seconds: Callable[[], float],
        batches: Waker | None = None,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._webhooks = webhooks
        self._batches = batches
        self._answerer = Answerer(backends, check_form, keeper, lambda: remaining_seconds() - RESERVE_SECONDS)
        self._settings = settings
        self._remaining = remaining_seconds
        self._full_seconds = remaining_seconds() - RESERVE_SECONDS

    def work(self, deliveries: Sequence[Delivery]) -> BatchReport:
        """Work on a batch until all of it is settled or the time is up; raises nothing, whatever the batch holds."""
        report = BatchReport()
        message_ids: dict[UUID, list[str]] = defaultdict(list)
        for delivery in deliveries:
            request_id = requested_id(delivery)
            if request_id is not None:
                message_ids[request_id].append(delivery.message_id)
            else:
                # It stays in the queue until SQS moves it to the dead-letter queue, where a person can see it.
                logger.error("unreadable message", extra={"message_id": delivery.message_id})
                report.failed_message_ids.append(delivery.message_id)
        if not message_ids:
            return report
        try:
            lease = self._remaining() + self._settings.lease_margin_seconds
            claims = self._ledger.claim(list(message_ids), lease)
        except SluiceError:
            report.failed_message_ids += [m for ids in message_ids.values() for m in ids]
            return report
        for request_id in self._answer(claims, report):
            report.failed_message_ids += message_ids[request_id]
        return report

    def run(self, claim: Claim) -> BatchReport:
        """Work on one request that was claimed for this invocation; raises nothing.

        If it could not be settled, its lease runs out, and the recovery task takes over.
        """
        report = BatchReport()
        self._answer([claim], report)
        return report

    def _answer(self, claims: Sequence[Claim], report: BatchReport) -> list[UUID]:
        """Call the models and settle; returns the ids of requests that could not be settled."""
        started = [claim for claim in claims if self._has_time_for(claim)]
        finished = [Outcome(claim.request_id, claim.attempt, "released") for claim in claims if claim not in started]
        executor = ThreadPoolExecutor(max_workers=max(1, len(started)), thread_name_prefix="model")
        trails = [(claim, Trail(claim)) for claim in started]
        pending = {executor.submit(self._answerer.answer, claim, trail): (claim, trail) for claim, trail in trails}
        flush_at = time.monotonic() if finished else float("inf")
        while pending and (left := self._remaining() - RESERVE_SECONDS) > 0:
            until_flush = max(0.0, flush_at - time.monotonic())
            done, _ = wait(pending, timeout=min(left, until_flush), return_when=FIRST_COMPLETED)
            finished += [self._outcome(*pending.pop(future), future, report) for future in done]
            if done and flush_at == float("inf"):
                flush_at = time.monotonic() + self._settings.flush_seconds
            if finished and time.monotonic() >= flush_at and pending:
                finished = self._settle(finished, report)
                flush_at = float("inf") if not finished else time.monotonic() + _SETTLE_PAUSE_SECONDS
        # Out of time: the threads cannot be stopped, but what they still return is ignored.
        executor.shutdown(wait=False, cancel_futures=True)
        finished += [self._cut_off(*waiting, report) for waiting in pending.values()]
        while (finished := self._settle(finished, report)) and self._remaining() > _SETTLE_PAUSE_SECONDS * 2:
            time.sleep(_SETTLE_PAUSE_SECONDS)
        return [outcome.request_id for outcome in finished]

    def _has_time_for(self, claim: Claim) -> bool:
        """Return True if there is time to wait for its model, or not much more in a new invocation."""
        return self._remaining() - RESERVE_SECONDS >= min(claim.timeout_seconds, self._full_seconds / 2)

    def _outcome(self, claim: Claim, trail: Trail, future: Future[Completion], report: BatchReport) -> Outcome:
        try:
            completion = future.result()
        except ModelError as error:
            return self._failure(claim, trail, error, report)
        except Exception as error:  # noqa: BLE001  (a defect of one backend must not cost the others' answers)
            # Only its type: a traceback's last line may quote what was sent.
            logger.error("backend failed", extra={"error": type(error).__name__, "backend": claim.backend})
            return self._failure(claim, trail, ModelError("worker_error"), report)
        output, content = completion.output, completion.content
        # What is on the disk still was too large for the bucket.
        is_file_too_large = content is not None and (not isinstance(content, bytes) or len(content) > MAX_FILE_BYTES)
        if content is not None and not isinstance(content, bytes):
            content.close()
        if (
            is_file_too_large
            or output.byte_length > self._settings.max_result_bytes
            or not output_fits_an_answer(output)
        ):
            trail.reject("result_too_large")
            return self._failure(claim, trail, ModelError("result_too_large"), report)
        return self._with_calls(
            Outcome(
                claim.request_id,
                claim.attempt,
                "completed",
                output=output,
                fingerprint=question_fingerprint(trail.asked),
                content=content if isinstance(content, bytes) else None,
                stored=completion.stored,
            ),
            claim,
            trail,
            report,
        )

    def _cut_off(self, claim: Claim, trail: Trail, report: BatchReport) -> Outcome:
        """What becomes of a claim for which there is no more time."""
        if not trail.is_storing:
            return self._failure(claim, trail, ModelError("model_timeout"), report)
        trail.waste("storage_unavailable")
        return self._failure(claim, trail, ModelError("storage_unavailable"), report)

    def _failure(self, claim: Claim, trail: Trail, error: ModelError, report: BatchReport) -> Outcome:
        trail.failed(error)
        needs_repair = FAILURES[error.code].needs_repair
        will_retry = error.is_transient and not _is_paid_in_vain(claim, error)
        if not will_retry:
            trail.charge_last()
        return self._with_calls(
            Outcome(
                claim.request_id,
                claim.attempt,
                "retry" if will_retry else "failed",
                error_code=error.code,
                error_message=error.message,
                retry_after=backoff(
                    claim.attempt, self._settings.retry_base_seconds, error.retry_after, needs_repair=needs_repair
                ),
            ),
            claim,
            trail,
            report,
        )

    @staticmethod
    def _with_calls(outcome: Outcome, claim: Claim, trail: Trail, report: BatchReport) -> Outcome:
        """The outcome with what was called and used for it. Logs and counts what went wrong."""
        calls, doubts = list(trail.calls), list(trail.doubts)
        named = {"request_id": str(claim.request_id), "attempt": claim.attempt}
        for call in calls:
            if call.cause is None:
                continue
            logger.warning("model call failed", extra={**named, "model": call.model_id, "code": call.cause})
            if FAILURES[call.cause].needs_repair:
                report.repairs[call.model_id, call.cause] += 1
        for doubt in doubts:
            report.doubts[doubt.flag] += 1
            logger.warning("token report doubted", extra={**named, "model": claim.model_id, **doubt.to_json()})
        is_plain = len(calls) == 1 and (calls[0].model_id, calls[0].cause) == (claim.model_id, None)
        failing = claim.plan.failing if claim.plan else ()
        return replace(
            outcome,
            # Should the database make the last retry a failure, nothing is charged for what was lost here.
            **tokens_of(calls, charged_only=outcome.outcome != "retry" or outcome.error_code == "storage_unavailable"),
            usage_doubt=doubts[-1].to_json() if doubts else None,
            calls=None if is_plain or not calls else calls,
            recovered=next((call.model_id for call in calls if call.is_answer and call.model_id in failing), None),
        )

    def _settle(self, outcomes: list[Outcome], report: BatchReport) -> list[Outcome]:
        """Settle in one call, and each file in one of its own; returns what could not be stored."""
        # Some megabytes take a while, for which the users of all outcomes of a call are locked.
        files = [[outcome] for outcome in outcomes if outcome.content is not None]
        unsettled: list[Outcome] = []
        for flush in ([outcome for outcome in outcomes if outcome.content is None], *files):
            # The database may be away: the others are not tried before the next time.
            unsettled += flush if unsettled else self._settle_flush(flush, report)
        return unsettled

    def _settle_flush(self, outcomes: list[Outcome], report: BatchReport) -> list[Outcome]:
        if not outcomes:
            return []
        try:
            self._settle_call(outcomes, report)
            return []
        except SluiceError:
            return outcomes
        except DatabaseError as error:
            logger.error("flush refused", extra={"sqlstate": error.sqlstate, "constraint": error.constraint})
        # One of them is at fault: alone, each of the others gets through.
        return [unsettled for outcome in outcomes for unsettled in self._settle_alone(outcome, report)]

    def _settle_alone(self, outcome: Outcome, report: BatchReport) -> list[Outcome]:
        fallback = Outcome(
            outcome.request_id,
            outcome.attempt,
            "failed",
            error_code="worker_error",
            error_message="The answer could not be stored.",
        )
        for attempt in (outcome, fallback):
            try:
                self._settle_call([attempt], report)
                return []
            except SluiceError:
                return [attempt]
            except DatabaseError as error:
                logger.error(
                    "settlement refused",
                    extra={
                        "request_id": outcome.request_id,
                        "sqlstate": error.sqlstate,
                        "constraint": error.constraint,
                    },
                )
        return [fallback]

    def _settle_call(self, outcomes: Sequence[Outcome], report: BatchReport) -> None:
        settled = self._ledger.settle(outcomes)
        by_id = {one.request_id: one for one in settled if one.kind != "dispatch"}
        report.settled |= {
            one.request_id: (replace(one, content=None), by_id[one.request_id])
            for one in outcomes
            if one.request_id in by_id
        }
        answered = {one.request_id for one in settled if (one.kind, one.status) == ("settled", "completed")}
        report.finish_reasons.update(
            one.output.finish_reason or "unknown" for one in outcomes if one.output and one.request_id in answered
        )
        report.counts.update(
            "superseded" if one.kind == "superseded" else str(one.status) for one in settled if one.kind != "dispatch"
        )
        if self._webhooks is not None and any(one.is_told for one in settled):
            self._webhooks.wake()
        if self._batches is not None and any(one.is_batch_due for one in settled):
            self._batches.wake()
        send_or_undispatch(
            self._ledger,
            self._queue,
            [
                Message(one.request_id, str(one.user_id), one.delay_seconds)
                for one in settled
                if one.kind in ("dispatch", "requeued") and one.delay_seconds is not None
            ],
        )


def backoff(attempt: int, base: float, retry_after: float | None = None, *, needs_repair: bool = False) -> float:
    """Seconds to wait after a failed attempt: doubling, with jitter, and no sooner than the model asked for.

    Args:
        attempt: which one failed, from 1.
        base: seconds after the first.
        needs_repair: the operator has to repair something first: the pauses are longer.
    """
    longest, factor = (MAX_REPAIR_BACKOFF_SECONDS, REPAIR_FACTOR) if needs_repair else (MAX_BACKOFF_SECONDS, 1.0)
    exponential = min(longest, base * factor * 2.0 ** min(attempt - 1, 20))
    jittered = exponential * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
    return max(jittered, min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS))


def _is_paid_in_vain(claim: Claim, error: ModelError) -> bool:
    """Return True if another attempt would be paid for, and probably be as useless as this one.

    It is certain that it costs if the model reported tokens; if it did not, one more try is worth it. So it is for an
    answer that the provider broke off, although it reported tokens. What is no answer of the model at all, as a page of
    a proxy or half a document, is an accident and tried again like an outage.
    """
    costs = error.prompt_tokens is not None
    if error.code == "model_bad_response":
        return costs or (error.is_answer and claim.last_error == error.code)
    return costs and claim.last_error == error.code
