"""Answering while the client waits: the request is claimed as it is accepted, and run in another function.

The run is another function's, and not this one's, so that it goes on when the client, this function or its time is
gone: no model is called twice because somebody did not wait long enough. A repeat of the call finds the same request.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

from sluice.db.ledger import Ledger
from sluice.domain.documents import Output
from sluice.domain.errors import SluiceError
from sluice.domain.fields import time_of
from sluice.domain.requests import Outcome, RequestDetail, RequestLimits, Submission
from sluice.domain.states import Status
from sluice.handover import BrokenOffError, NotStartedError
from sluice.messaging import Message, Sender
from sluice.services.dispatch import send_or_undispatch
from sluice.services.inputs import InputKeeper
from sluice.services.read import Reader
from sluice.services.submit import Accepted, accepted_or_refused, check_submission
from sluice.services.wait import wait_until_ended

logger = logging.getLogger(__name__)

# Before another attempt at a request whose run broke off.
_BROKEN_RETRY_SECONDS: Final = 1.0


class Runner(Protocol):
    """Runs a claimed request elsewhere: sluice.handover.LambdaRunner."""

    def __call__(self, claim: Mapping[str, Any]) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class Answered:
    """An answered request, or one that ended otherwise.

    Attributes:
        accepted: what became of the submission; of a repeat, the earlier call's request.
    """

    detail: RequestDetail
    accepted: Accepted


@dataclass(frozen=True)
class Foreground:
    """Answers requests while their clients wait.

    Attributes:
        lease_seconds: for how long a run is believed to be alive.
        wait_seconds: the longest that a client waits.
        inputs: keeps large ones; None: the database keeps all.
    """

    ledger: Ledger
    queue: Sender
    limits: RequestLimits
    runner: Runner
    lease_seconds: float
    wait_seconds: float
    inputs: InputKeeper | None = None

    def answer(self, key_hash: bytes, submission: Submission) -> Answered:
        """Accept a request and wait for its end.

        Raises:
            SluiceError: it was refused, and nothing was written; answer_pending, with the request's id: it is not done
                in time, and goes on; database_unavailable.
        """
        deadline = time.monotonic() + self.wait_seconds
        check_submission(submission, self.limits)
        stored = self.inputs.keep(self.ledger, key_hash, submission, self.limits) if self.inputs else None
        run = self.ledger.run(key_hash, submission, self.limits, self.lease_seconds, stored)
        accepted = accepted_or_refused(run, submission)
        send_or_undispatch(self.ledger, self.queue, [Message(one, accepted.user_id) for one in run.send])
        if run.claim is not None and (detail := self._run(accepted, submission, run.claim)) is not None:
            return Answered(detail, accepted)
        if not wait_until_ended(self.ledger, accepted.request_id, deadline):
            raise answer_pending(accepted.request_id)
        return Answered(Reader(self.ledger, inputs=self.inputs).detail(key_hash, accepted.request_id), accepted)

    def _run(self, accepted: Accepted, submission: Submission, claim: Mapping[str, Any]) -> RequestDetail | None:
        """Have a claimed request run; None if it is not done."""
        request_id, attempt = accepted.request_id, int(claim["attempt"])
        try:
            done = self.runner(claim)
        except NotStartedError:
            self._give_back(Outcome(request_id, attempt, "released"))
            return None
        except BrokenOffError:
            # A fence: if the run is alive after all, its answer is superseded.
            self._give_back(
                Outcome(
                    request_id,
                    attempt,
                    "retry",
                    error_code="worker_lost",
                    error_message="The function that ran the request broke off.",
                    retry_after=_BROKEN_RETRY_SECONDS,
                )
            )
            return None
        if done is None or done.get("kind") != "settled":
            return None
        return detail_of(accepted, submission, Status(done["status"]), done["outcome"])

    def _give_back(self, outcome: Outcome) -> None:
        """Let a request go through the queue. If that fails, its lease runs out, and the recovery task does it."""
        logger.warning("run given back", extra={"request_id": str(outcome.request_id), "outcome": outcome.outcome})
        try:
            settled = self.ledger.settle([outcome], "openai")
        except SluiceError:
            return
        send_or_undispatch(
            self.ledger,
            self.queue,
            [
                Message(one.request_id, str(one.user_id), one.delay_seconds)
                for one in settled
                if one.delay_seconds is not None
            ],
        )


def detail_of(
    accepted: Accepted, submission: Submission, status: Status = Status.QUEUED, outcome: Mapping[str, Any] | None = None
) -> RequestDetail:
    """A request as its client sees it, from what was submitted and what its run answered."""
    done, final = outcome or {}, status.is_final
    answered = status is Status.COMPLETED
    output = Output.model_validate(done["output"]) if answered else None
    prompt, completion = done.get("prompt_tokens"), done.get("completion_tokens")
    failed = status is Status.FAILED
    return RequestDetail(
        outcome="ok",
        request_id=accepted.request_id,
        model_id=answered_by(done) or str(accepted.model_id),
        status=status,
        output=output,
        error_code=done.get("error_code") if failed else None,
        error_message=done.get("error_message") if failed else None,
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=None if prompt is None or completion is None else prompt + completion,
        created_at=time_of(accepted.request_id),
        started_at=None,
        completed_at=datetime.now(UTC) if final else None,
        finish_reason=None if output is None else output.finish_reason,
        metadata=submission.metadata,
        input=submission.input,
        parameters=submission.parameters,
        surface=submission.surface,
        cached_tokens=done.get("cached_tokens"),
        reasoning_tokens=done.get("reasoning_tokens"),
    )


def answered_by(outcome: Mapping[str, Any]) -> str | None:
    """The model that answered, where that is not simply the one that was asked for: the last one that was called."""
    calls = outcome.get("calls")
    return str(calls[-1]["model_id"]) if calls and outcome.get("outcome") == "completed" else None


def answer_pending(request_id: UUID) -> SluiceError:
    """The error of a client that has waited long enough for now."""
    return SluiceError(
        "answer_pending",
        "The answer takes longer than a connection is held. Send the same call again to go on waiting for the same "
        "request, or ask for it by its id.",
        retry_after=1,
        request_id=request_id,
    )
