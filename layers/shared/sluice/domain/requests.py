"""A request from submission to settlement, as the database and the services exchange it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import IO, Any, Final, Literal, Self
from uuid import UUID

from sluice.domain.calls import ModelCall, Plan
from sluice.domain.documents import Document, FinishReason, Input, Output
from sluice.domain.objects import StoredObject
from sluice.domain.states import Status
from sluice.domain.windows import CompletionWindow

ModelKind = Literal["chat", "embedding", "image", "speech"]
"""What a model does: it answers a conversation, turns texts into vectors, draws what a text describes, or reads a text
aloud. The answers of the last two are files."""

# Submitting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RequestLimits:
    """What a request may be: set by the deployment.

    Attributes:
        max_prompt_bytes: longest input, in bytes of UTF-8.
        longest_seconds: longest lifetime, and the default; not_before may lie as far ahead.
        max_attempts: how many attempts may fail before the request fails.
        webhook_loopback: webhooks may be sent to this machine, as on the local stack.
    """

    max_prompt_bytes: int
    longest_seconds: int
    max_attempts: int
    webhook_loopback: bool = False


@dataclass(frozen=True)
class Repeat:
    """How a call is recognised that its client's library sends again because the answer did not come in time.

    Attributes:
        digest: SHA-256, in hexadecimal, of who asks and what; equal for a repeat.
        is_retry: the client says that it is one.
        after_seconds: from this age of the first one on, an equal call counts as a repeat without the client saying so:
            whoever sent the first one has been sent away by then. None: never.
    """

    digest: str
    is_retry: bool
    after_seconds: float | None


@dataclass(frozen=True)
class Submission:
    """A request to be accepted.

    Attributes:
        model: None: the default model.
        parameters: sampling parameters, in the words of OpenAI's chat completions.
        ttl_seconds, expires_at: how long, or until when, it may wait to be started; not both.
        idempotency_key: a submission with the same key and content is answered with the first one's id for 24 hours.
        surface: the API that it came by, where that was not POST /generate: `api`, its name, and `echo`, what it shows
            again to the client without using it.
        repeat: how a repeat of it is recognised; not together with an idempotency key.
        kind: what its model has to do; None: answer a conversation.
        fallbacks: models that may answer in its place, in order; None: those that the operator has set.
        repair_attempts: how often the model is asked again if its answer has not the form that was asked for; None:
            never.
        cache: CacheChoice as JSON, or False; None: what the key, the model or the tier says.
        max_cost: a decimal number as text, in the currency of the user's price list: a request that may cost more is
            refused.
        webhook: an URL that is told how the request ended.
        window: within which time it is to be answered; None: as soon as possible.
        due_at: when that window ends; None: as long after the request's beginning as the window is.
    """

    input: Input
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] | None = None
    ttl_seconds: int | None = None
    expires_at: datetime | None = None
    not_before: datetime | None = None
    idempotency_key: str | None = None
    surface: Mapping[str, Any] | None = None
    repeat: Repeat | None = None
    kind: ModelKind | None = None
    fallbacks: Sequence[str] | None = None
    repair_attempts: int | None = None
    cache: Mapping[str, Any] | Literal[False] | None = None
    max_cost: str | None = None
    webhook: str | None = None
    window: CompletionWindow | None = None
    due_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field that has a value: what is not given is left out."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: _json(value) for name, value in content.items() if value is not None}


@dataclass(frozen=True)
class Admission:
    """What the database made of a submission.

    Attributes:
        outcome: accepted, replayed, or the code of a refusal.
        send: requests of the user whose messages are to be sent now.
        detail: of an accepted one the quota counters; of a refusal what it is about.
    """

    outcome: str
    request_id: UUID | None
    user_id: str | None
    model_id: str | None
    send: Sequence[UUID]
    detail: Mapping[str, Any] | None


@dataclass(frozen=True)
class Run(Admission):
    """An admission whose request may already be claimed.

    Attributes:
        claim: the row of the claim as the database gives it; None: the request goes through the queue.
    """

    claim: Mapping[str, Any] | None


@dataclass(frozen=True)
class Quotation:
    """What would become of a submission.

    Attributes:
        outcome, detail: as in Admission; accepted: it would be.
        quoted: tokens, cost and times, as quote_make() in the database has them; None: it is refused before they are
            known.
        user_id: whose key it is; None: of no key that may do this.
    """

    outcome: str
    model_id: str | None
    detail: Mapping[str, Any] | None
    quoted: Mapping[str, Any] | None
    user_id: str | None = None


@dataclass(frozen=True)
class QuotaCounter:
    """The state of one period's quota. A limit of None is unlimited; tokens_used includes reserved ones."""

    period: str
    max_requests: int | None
    requests_used: int
    max_tokens: int | None
    tokens_used: int
    reset_seconds: int


@dataclass(frozen=True)
class CachePurging:
    """What became of a purge of the caller's cached answers: outcome ok, or what key_check found."""

    outcome: str
    forgotten: int | None


@dataclass(frozen=True)
class Cancellation:
    """What became of a cancellation: outcome ok, request_not_found, request_finished, or what key_check found."""

    outcome: str
    status: Status | None
    user_id: str | None
    send: Sequence[UUID]


def _json(value: Any) -> Any:
    match value:
        case Document():
            return value.to_json()
        case Repeat():
            return asdict(value)
        case datetime():
            return value.isoformat()
        case Mapping():
            return dict(value)
        case tuple():
            return list(value)
        case _:
            return value


# Processing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A request that this worker has taken, with the model that is to answer it.

    Attributes:
        attempt: the fencing token: settling needs the same number.
        parameters: max_tokens and the other sampling parameters that were given.
        backend: the protocol that the model speaks.
        endpoint: base URL of an OpenAI-compatible API.
        secret_arn: where the endpoint's credentials are, if it wants any.
        timeout_seconds: longest that one call may take.
        overhead_tokens: the most that the model's chat template adds to a prompt.
        last_error: why the attempt before this one failed.
        item_tokens: the most that the template adds for each further message, call and tool.
        image_tokens: the most that an image counts; None: the model takes no images.
        kind: what the model does.
        plan: what may be done beside calling the model; None: nothing.
        mapping: how a server of another form than OpenAI's is asked and read; see sluice.backends.mapping.
        max_tokens_default: what an image counts if the model does not say so.
    """

    request_id: UUID
    attempt: int
    user_id: str
    model_id: str
    input: Input
    parameters: Mapping[str, Any]
    backend: str
    backend_model: str
    endpoint: str | None
    secret_arn: str | None
    timeout_seconds: int
    overhead_tokens: int = 0
    last_error: str | None = None
    item_tokens: int = 0
    image_tokens: int | None = None
    kind: ModelKind = "chat"
    plan: Plan | None = None
    mapping: Mapping[str, Any] | None = None
    max_tokens_default: int = 0

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """The claim that the database gave as JSON; members that are not known here are ignored.

        Raises:
            KeyError, ValueError: it is no claim.
        """
        known = {each.name: row[each.name] for each in fields(cls) if each.name in row}
        known |= {"request_id": UUID(row["request_id"]), "input": Input.model_validate(row["input"])}
        if known.get("plan") is not None:
            known["plan"] = Plan.of_json(known["plan"])
        return cls(**known)

    def candidates(self) -> "Sequence[Claim]":
        """The claim for each model that may be called for it, in order; at least one."""
        if self.plan is None:
            return [self]
        columns = {each.name for each in fields(self)}
        stand_ins = [
            replace(self, **{name: value for name, value in model.items() if name in columns})
            for model in self.plan.fallbacks
        ]
        return [each for each in (self, *stand_ins) if each.model_id not in self.plan.skip] or [self]

    @property
    def prompt_tokens_most(self) -> int:
        """The share of the prompt in the request's reservation."""
        asked = self.input
        return (
            asked.byte_length
            + self.overhead_tokens
            + asked.extra_items * self.item_tokens
            + asked.image_count * (self.image_tokens or 0)
        )


UsageFlag = Literal["inconsistent", "estimated", "implausible"]
"""What was wrong with a model's token report: its figures did not add up; it reported none for a text that is there; or
more than can be true."""


@dataclass(frozen=True)
class UsageDoubt:
    """A token report that did not add up or was not booked as it came.

    Attributes:
        prompt_tokens, completion_tokens: as reported; None: missing or unreadable.
    """

    flag: UsageFlag
    prompt_tokens: int | None
    completion_tokens: int | None

    def to_json(self) -> dict[str, Any]:
        """As it is audited."""
        return {
            "usage_flag": self.flag,
            "reported_prompt_tokens": self.prompt_tokens,
            "reported_completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True)
class Completion:
    """A model's answer, with the tokens to be booked for it: what the model reported, unless that is doubted.

    Attributes:
        cached_tokens: those of prompt_tokens that the model read from its cache.
        reasoning_tokens: those of completion_tokens that it wrote before its answer.
        content: the bytes, where the answer is a file; a file on the disk, where they are many.
        stored: the object that holds the answer; then there is no content.
    """

    output: Output
    prompt_tokens: int
    completion_tokens: int
    doubt: UsageDoubt | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    content: bytes | IO[bytes] | None = field(default=None, repr=False)
    stored: StoredObject | None = None

    @classmethod
    def of_text(
        cls, text: str, prompt_tokens: int, completion_tokens: int, finish_reason: FinishReason | None = None
    ) -> Self:
        """A completion of one text."""
        return cls(Output.of_text(text, finish_reason), prompt_tokens, completion_tokens)


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt, as settle() reports it; see sql/functions/dispatch/settle.sql.

    Attributes:
        outcome: retry: failed, but worth another attempt; released: it was not started.
        fingerprint: SHA-256 in hexadecimal of what was asked.
        retry_after: seconds to wait before the next attempt.
        usage_doubt: UsageDoubt.to_json(), where the token report was doubted.
        cached_tokens, reasoning_tokens: as in Completion; None: none.
        calls: those that were made, unless the request's own model answered the first one. The tokens are then the sums
            of those that are charged; for retry of all.
        recovered: a model that answered although calls of it had failed lately.
        content: the bytes, where the output is a file.
        stored: the object that holds the answer; then there is no content.
    """

    request_id: UUID
    attempt: int
    outcome: Literal["completed", "failed", "retry", "released"]
    output: Output | None = None
    fingerprint: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry_after: float | None = None
    usage_doubt: Mapping[str, Any] | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    calls: Sequence[ModelCall] | None = None
    recovered: str | None = None
    content: bytes | None = field(default=None, repr=False)
    stored: StoredObject | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field that has a value; bytes are in base64."""
        content = {name: value for name, value in vars(self).items() if value is not None}
        if self.content is not None:
            content["content"] = base64.b64encode(self.content).decode()
        if self.stored is not None:
            content["stored"] = self.stored.to_row()
        content["request_id"] = str(self.request_id)
        if self.output is not None:
            content["output"] = self.output.to_json()
        if self.calls is not None:
            content["calls"] = [call.to_json() for call in self.calls]
        return content


@dataclass(frozen=True)
class Settled:
    """What the database made of an outcome, or a next request to be dispatched.

    Attributes:
        kind: superseded: it answered an earlier attempt.
        status: of the request as it is now.
        delay_seconds: send the request's message with this delay; None: send none.
        is_told: there are webhooks about it to be sent.
        is_batch_due: more lines of its batch are to be submitted.
    """

    kind: Literal["settled", "requeued", "superseded", "dispatch"]
    request_id: UUID
    user_id: str | None
    status: str | None
    delay_seconds: int | None
    is_told: bool | None = None
    is_batch_due: bool | None = None


@dataclass(frozen=True)
class DispatchedRequest:
    """A request that was marked as dispatched: its message is to be sent now."""

    request_id: UUID
    user_id: str


# Reading --------------------------------------------------------------------------------------------------------------

TOKEN_PARTS: Final = ("cached_tokens", "reasoning_tokens", "cached_answers")
"""Those of a prompt's tokens that came from a cache, those of a completion from before the answer, and requests that
were answered without a call of a model."""


def token_parts(cached: int | None, reasoning: int | None, answers: int | None = None) -> dict[str, int]:
    """The parts of tokens, by name, as answers show them: only where there are any."""
    return {name: count for name, count in zip(TOKEN_PARTS, (cached, reasoning, answers), strict=True) if count}


@dataclass(frozen=True)
class QueueState:
    """What an unfinished request waits for, where it stands, and what its user's requests have done lately.

    Attributes:
        waits_for: see request_waits in sql/functions/requests/show.sql.
        until: when that ends, where it is known.
        position: rank among the user's requests that wait to be started; 1 is the next.
        ended, seconds: how many of the user's requests ended in how many seconds.
    """

    waits_for: str
    until: datetime | None
    failed_attempts: int
    max_attempts: int
    last_error: str | None
    expires_at: datetime
    cancel_requested_at: datetime | None
    position: int | None
    ended: int | None
    seconds: float | None


@dataclass(frozen=True)
class RequestFacts:
    """What lists and single requests show alike. Unless outcome is ok, nothing else is set.

    Attributes:
        outcome: ok, request_not_found, or what key_check found.
        cached_tokens, reasoning_tokens: those of prompt_tokens from a cache, those of completion_tokens from before the
            answer; None: none that are known.
        completion_window, due_at: within which time it is to be answered, and when that ends; None: none.
    """

    outcome: str
    request_id: UUID
    model_id: str
    status: Status
    error_code: str | None
    error_message: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    processing_time_ms: int | None
    finish_reason: FinishReason | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    completion_window: CompletionWindow | None = field(default=None, kw_only=True)
    due_at: datetime | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class RequestSummary(RequestFacts):
    """A request in a list, with the beginning of its prompt."""

    prompt: str | None


@dataclass(frozen=True)
class RequestState(RequestFacts):
    """One request with its answer.

    Attributes:
        cost: amount, currency and price_list; None until it has ended.
        queue: None once it has ended.
        attempts: calls of models that failed or were repeated, as attempts_json() in the database has them; None: none.
        answered_by: the model that answered, if it is not the one that was asked for.
        cached_from: the equal request whose answer it has.
        quote: what it was accepted for, if it had a max_cost; as Quotation.quoted.
        promote_at: when it leaves the waiting class; None: it is not of it.
    """

    output: Output | None
    estimated_tokens: int
    reserved_tokens: int
    metadata: Mapping[str, str] | None
    cost: Mapping[str, Any] | None
    queue: QueueState | None
    attempts: Sequence[Mapping[str, Any]] | None = None
    answered_by: str | None = None
    cached_from: UUID | None = None
    quote: Mapping[str, Any] | None = None
    promote_at: datetime | None = None


@dataclass(frozen=True)
class RequestDetail:
    """One request with what was asked; outcome as in RequestFacts.

    Attributes:
        parameters: as given, with max_tokens always.
        surface: as in Submission.
    """

    outcome: str
    request_id: UUID
    model_id: str
    status: Status
    output: Output | None
    error_code: str | None
    error_message: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    finish_reason: FinishReason | None
    metadata: Mapping[str, str] | None
    input: Input
    parameters: Mapping[str, Any]
    surface: Mapping[str, Any] | None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True)
class StoredResult:
    """The answer of a request by itself. Unless outcome is ok, nothing else is set.

    Attributes:
        outcome: ok; request_not_found; result_not_ready, result_not_found; or what key_check found.
        content: the bytes of an answer that is a file.
        stored: the object that holds the answer; then there is no content.
    """

    outcome: str
    request_id: UUID
    output: Output
    content: bytes | None = field(repr=False)
    stored: StoredObject | None = None


@dataclass(frozen=True)
class ModelOffer:
    """A model that a client may name; outcome as in RequestFacts.

    Attributes:
        aliases: its other names.
        overhead_tokens, item_tokens, image_tokens: as in Claim.
    """

    outcome: str
    model_id: str
    is_default: bool
    max_tokens_default: int
    max_tokens_limit: int
    kind: ModelKind
    created_at: datetime
    aliases: Sequence[str]
    overhead_tokens: int
    item_tokens: int
    image_tokens: int | None
