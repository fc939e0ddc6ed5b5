"""Answering a claim: its model is called, asked again where the answer has not the form that it must have, and replaced
by another one where it is out of service."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from sluice.backends.protocol import Backend, ModelError
from sluice.domain.calls import ModelCall, Plan
from sluice.domain.documents import Output
from sluice.domain.failures import FAILURES
from sluice.domain.requests import Claim, Completion, UsageDoubt
from sluice.services.forms import CheckForm
from sluice.services.keeping import Keeper
from sluice.services.repair import repaired_input

# A fallback that has less time than this is not called: the attempt ends, and the next one has all of its time.
_SHORTEST_CALL_SECONDS: Final = 5.0


class Trail:
    """The calls that are made for one claim. The thread that calls writes it; the worker reads it when that thread has
    ended, or is no longer waited for.

    Attributes:
        calls: those that have ended, in order.
        doubts: what was wrong with their token reports.
        asked: the claim with all of its input, once that has been read.
        is_storing: a model has answered, and its answer is being written to the bucket.
    """

    def __init__(self, claim: Claim) -> None:
        self.calls: list[ModelCall] = []
        self.doubts: list[UsageDoubt] = []
        self.asked = claim
        self.is_storing = False
        self._probe = (claim.plan or Plan()).probe
        self._running: tuple[Claim, datetime] | None = None

    def begin(self, claim: Claim) -> None:
        """A model is called."""
        self._running = (claim, datetime.now(UTC))

    def answered(self, completion: Completion) -> None:
        """It answered."""
        self._end(
            doubt=completion.doubt,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            # What is more than its whole is no part of it. Mostly there are none, which need not be sent.
            cached_tokens=min(completion.cached_tokens, completion.prompt_tokens) or None,
            reasoning_tokens=min(completion.reasoning_tokens, completion.completion_tokens) or None,
            is_charged=True,
        )

    def failed(self, error: ModelError) -> None:
        """It failed; nothing is changed if no call is running."""
        self._end(
            doubt=error.doubt,
            cause=error.code,
            http_status=error.http_status,
            prompt_tokens=error.prompt_tokens,
            completion_tokens=error.completion_tokens,
            is_outage=FAILURES[error.code].is_outage,
        )

    def reject(self, cause: str) -> None:
        """The last call answered, and its answer cannot be taken."""
        self.calls[-1] = replace(self.calls[-1], cause=cause)

    def waste(self, cause: str) -> None:
        """The last call answered, and its answer is lost here: nobody is charged for it."""
        self.reject(cause)
        self.calls[-1] = replace(self.calls[-1], is_charged=False)

    def charge_last(self) -> None:
        """The last call failed, and ended the request: what it used is charged all the same."""
        if self.calls and self.calls[-1].prompt_tokens is not None:
            self.calls[-1] = replace(self.calls[-1], is_charged=True)

    def _end(self, *, doubt: UsageDoubt | None, **facts: object) -> None:
        if self._running is None:
            return
        (claim, begun_at), self._running = self._running, None
        if doubt is not None:
            self.doubts.append(doubt)
        is_probe = claim.model_id == self._probe
        call = ModelCall(claim.model_id, claim.backend, begun_at, datetime.now(UTC), is_probe=is_probe)
        self.calls.append(replace(call, **facts))  # type: ignore[arg-type]  # the two callers' names are its fields


class Answerer:
    """Calls models.

    Args:
        backends: by name.
        check_form: looks at answers whose form was asked for.
        keeper: keeps those that are too large for the database.
        remaining_seconds: how much time there is for calls.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        check_form: CheckForm,
        keeper: Keeper,
        remaining_seconds: Callable[[], float],
    ) -> None:
        self._backends = backends
        self._check_form = check_form
        self._keeper = keeper
        self._remaining = remaining_seconds

    def answer(self, claim: Claim, trail: Trail) -> Completion:
        """Have a claim answered by the first of its models that can.

        Args:
            trail: gets the calls.

        Raises:
            ModelError: none can. If one of them may later, that one's error; otherwise the last one's.
        """
        trail.asked = claim = self._keeper.whole(claim)
        errors: list[ModelError] = []
        repairs = claim.plan.repair_attempts if claim.plan else 0
        for candidate in claim.candidates():
            if errors and self._remaining() < min(candidate.timeout_seconds, _SHORTEST_CALL_SECONDS):
                break
            # Each answer that was not taken has used up one.
            left = repairs - sum(call.cause == "schema_mismatch" for call in trail.calls)
            try:
                return self._kept(candidate, trail, self._answer_by(candidate, trail, left))
            except ModelError as error:
                if not FAILURES[error.code].falls_back:
                    raise
                errors.append(error)
        raise next((error for error in errors if error.is_transient), errors[-1])

    def _answer_by(self, claim: Claim, trail: Trail, repairs: int) -> Completion:
        asked, form = claim, claim.input.response_format
        while True:
            completion = self._call(asked, trail)
            if form is None or not _is_answer(completion.output):
                return completion
            output, fault = self._check_form(form, completion.output)
            if fault is None:
                return replace(completion, output=output)
            trail.reject("schema_mismatch")
            # What a filter took away will be missing again.
            if not repairs or completion.output.finish_reason == "content_filter":
                raise ModelError("schema_mismatch", what=f'What it broke: "{fault.keyword}".')
            repairs -= 1
            max_tokens = claim.parameters.get("max_tokens", 0)
            asked = replace(claim, input=repaired_input(claim.input, completion.output, fault.finding, max_tokens))

    def _kept(self, claim: Claim, trail: Trail, completion: Completion) -> Completion:
        trail.is_storing = True
        try:
            return self._keeper.keep(claim, completion)
        except ModelError as error:
            trail.waste(error.code)
            raise
        finally:
            trail.is_storing = False

    def _call(self, claim: Claim, trail: Trail) -> Completion:
        trail.begin(claim)
        try:
            backend = self._backends.get(claim.backend)
            if backend is None:
                raise ModelError("model_backend_unknown")
            completion = backend.complete(claim, min(claim.timeout_seconds, max(1.0, self._remaining())))
        except ModelError as error:
            trail.failed(error)
            raise
        trail.answered(completion)
        return completion


def _is_answer(output: Output) -> bool:
    """Whether the model answered, and did neither call a tool nor decline to answer."""
    return not output.tool_calls and not output.refusal
