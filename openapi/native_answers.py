"""What Sluice's own routes answer."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from openapi.answers import Amount, Answer, CalendarDay, FailureCode, Identity, Moment, Nothing
from sluice.domain.documents import EmptyReason, FinishReason
from sluice.domain.failures import Fault
from sluice.domain.requests import ModelKind
from sluice.domain.states import Status
from sluice.domain.vocabulary import Frequency, Period
from sluice.domain.windows import CompletionWindow

WaitsFor = Literal[
    "worker", "window", "others", "dispatch", "not_before", "retry", "model", "recovery", "breaker", "equal_request"
]


class Accepted(Answer):
    """A request that was accepted, now or by the call that this one repeats."""

    request_id: Identity
    status: Status


class CancelledRequest(Answer):
    """What became of a cancellation."""

    request_id: Identity
    status: Literal["cancelled", "processing"]
    cancel_requested: Literal[True]


class PurgedCache(Answer):
    """How many answers are found no longer."""

    forgotten: int


class RequestError(Answer):
    """Why a request failed or expired."""

    code: FailureCode
    message: str | None
    fault: Fault | None
    """Who can do something about it; null of a code that is new."""


class TokenUsage(Answer):
    """What is charged; nulls until the model has reported."""

    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    cached_tokens: int = Nothing
    """Those of the prompt that came from a cache, where there are any."""
    reasoning_tokens: int = Nothing
    """Those of the completion from before the answer, where there are any."""


class Cost(Answer):
    """What a request cost."""

    amount: Amount | None
    """Null where the model had no price that day."""
    currency: str | None
    price_list: str | None


class WaitBasis(Answer):
    """What an estimate is made of: so many requests of the user were answered in so many seconds."""

    answered: int
    seconds: int


class Queue(Answer):
    """What an unfinished request waits for, and where it stands."""

    waits_for: WaitsFor
    until: Moment | None
    position: int | None
    """Rank among the caller's requests that wait to be started; 1 is the next."""
    estimated_wait_seconds: int | None
    estimate_basis: WaitBasis | None
    failed_attempts: int
    max_attempts: int
    last_error: str | None
    last_error_fault: Fault | None
    expires_at: Moment
    cancel_requested_at: Moment | None
    promote_at: Moment = Nothing
    """When it is promoted: from then on it comes before requests that can still wait. Absent if it does already."""


class Attempt(Answer):
    """A call of a model that failed or was repeated, or that came after one."""

    attempt: int
    """Counts how often a worker took the request; several calls may be of one attempt."""
    model: str
    backend: str
    cause: FailureCode | None
    """Why it failed or was repeated; null: it answered."""
    http_status: int | None
    """What the model's server answered with, where that was an error."""
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int = Nothing
    reasoning_tokens: int = Nothing
    charged: bool
    """Whether its tokens are part of the request's usage and cost."""
    cost: Cost | None
    """Of its tokens at the prices of its own model; null where the model reported none."""
    begun_at: Moment
    ended_at: Moment


class Amounts(Answer):
    """Tokens, and what they cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost: Cost


class ForecastBasis(Answer):
    """What a forecast is made from: so many answers to requests of this size."""

    answers: int | None
    """None: it is made from others' answers too."""
    own: bool
    """They are the caller's own."""


class Forecast(Amounts):
    """What will probably be used."""

    basis: ForecastBasis


class QuotedWaitBasis(Answer):
    """What a wait is estimated from: the queue position, and how many requests were answered in how many seconds."""

    position: int
    answered: int
    seconds: int


class Quoted(Answer):
    """What a request may use, and when it would be answered."""

    model: str
    models: list[str]
    """Those that may answer, the one that is asked first."""
    bound: Amounts
    """The most."""
    forecast: Forecast | None
    """Null where too few answers are known."""
    cache: Literal["hit", "follow", "miss", "refresh", "bypass", "uncacheable"] | None
    wait_seconds: int | None
    """Until it is started; null where it is not known."""
    wait_basis: QuotedWaitBasis | None
    processing_ms: int | None
    """The mean of the model's last seven days."""


class Refusal(Answer):
    """Why a request would be refused: problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry_after: int = Nothing

    model_config = ConfigDict(extra="allow")


class QuoteAnswer(Quoted):
    """A quote."""

    accepted: bool
    """Whether it would be accepted now."""
    refusal: Refusal | None


class Actual(Answer):
    """What a request came to."""

    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    cost: Cost | None
    wait_seconds: float | None
    processing_ms: int | None


class KeptQuote(Quoted):
    """What a request was accepted for, and what it came to."""

    actual: Actual | None
    """Null until it has ended."""


class RequestCommon(Answer):
    """What lists and single requests show alike."""

    request_id: Identity
    status: Status
    model: str
    error: RequestError | None
    finish_reason: FinishReason | None
    """Why the model stopped."""
    usage: TokenUsage
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    processing_time_ms: int | None
    window: CompletionWindow = Nothing
    """Within which time it is to be answered; absent if as soon as possible."""
    due_at: Moment = Nothing
    """The end of that time."""


class Request(RequestCommon):
    """One request with its answer."""

    estimated_tokens: int
    reserved_tokens: int
    cost: Cost | None
    result: Any
    """The text of the answer; for result_type json its value, for file null."""
    empty_reason: EmptyReason | None
    queue: Queue | None
    metadata: dict[str, str] = Nothing
    """As submitted; absent if there was none."""
    result_type: Literal["json", "file"] = Nothing
    """The answer is JSON of the form that was asked for, or a file; absent of other answers."""
    mime_type: str = Nothing
    """Of a file, as are the next two."""
    byte_length: int = Nothing
    result_url: str = Nothing
    """Where it is, relative to the base URL."""
    answered_by: str = Nothing
    """The model that answered, if it is not the one that was asked for."""
    cached_from: Identity = Nothing
    """The equal request whose answer it has; absent if a model was called for it."""
    quote: KeptQuote = Nothing
    """Of a request that was accepted with max_cost."""
    attempts: list[Attempt] = Nothing
    """Calls of models, oldest first; absent if the model answered the first one."""


class ListedRequest(RequestCommon):
    """A request in a list."""

    prompt: str | None
    """Its beginning."""


class RequestPage(Answer):
    """A page of the caller's requests, newest first."""

    requests: list[ListedRequest]
    next_cursor: Identity | None
    """The cursor of the next page; null on the last one."""


class Model(Answer):
    """A model that the caller may name."""

    model: str
    is_default: bool
    max_tokens_default: int
    max_tokens_limit: int
    kind: ModelKind
    aliases: list[str]
    """Other names under which it may be asked for."""


class ModelList(Answer):
    """The models that the caller may name."""

    models: list[Model]


class Healthy(Answer):
    """The database answers."""

    status: Literal["ok"]
    database: Literal["ok"]


class Unhealthy(Answer):
    """The database does not answer."""

    status: Literal["unavailable"]
    database: Literal["unavailable"]


# Usage ----------------------------------------------------------------------------------------------------------------


class Limit(Answer):
    """A quota as it is now; a limit of null is none."""

    period: Period
    max_requests: int | None
    requests_used: int
    requests_remaining: int | None
    max_tokens: int | None
    tokens_used: int
    tokens_reserved: int
    tokens_remaining: int | None
    period_start: Moment
    resets_at: Moment
    resets_in_seconds: int


class Budget(Answer):
    """A limit in money as it is now: of all requests, or of those with a key or to a model."""

    key_id: Identity | None
    model: str | None
    period: Frequency
    currency: str
    max_amount: Amount
    amount_used: Amount
    amount_reserved: Amount
    amount_remaining: Amount
    period_start: Moment
    resets_at: Moment


class Unfinished(Answer):
    """How many requests are unfinished, and how many may be."""

    requests: int
    max_requests: int | None


class FileBytes(Answer):
    """How many bytes the files have, and may have; null: there is no limit."""

    bytes: int
    max_bytes: int | None


class CurrencyAmount(Answer):
    """An exact amount."""

    currency: str
    amount: Amount


class Figures(Answer):
    """What was used, and what it cost."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Nothing
    reasoning_tokens: int = Nothing
    costs: list[CurrencyAmount]
    unpriced_tokens: int
    """Tokens of models that had no price that day: they are in no cost."""


class ModelFigures(Figures):
    """Of one model."""

    model: str


class KeyFigures(Figures):
    """Of one API key; null: the rest."""

    key_id: Identity | None


class TagFigures(Figures):
    """Of one value of a tag; null: the rest."""

    tag_value: str | None


class WindowFigures(Figures):
    """Of requests with one completion window."""

    window: CompletionWindow


class Parts(Figures):
    """With the parts that it is made of."""

    models: list[ModelFigures]
    keys: list[KeyFigures] = Nothing
    """With `by_key`."""
    tags: list[TagFigures] = Nothing
    """With `by_tag`."""
    windows: list[WindowFigures] = Nothing
    """Those parts that had a completion window; absent if none had."""


class DayFigures(Parts):
    """Of one day."""

    day: CalendarDay


class MonthFigures(Parts):
    """Of one month."""

    month: Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")]


class Usage(Answer):
    """The caller's limits, usage and cost."""

    user_id: str
    tier: str
    limits: list[Limit]
    budgets: list[Budget]
    unfinished: Unfinished
    files: FileBytes
    start: CalendarDay
    end: CalendarDay
    days: list[DayFigures]
    months: list[MonthFigures]
