"""Responses under /v1, and the pages of what they asked."""

from typing import Annotated, Any, Literal

from pydantic import Field

from openapi.answers import Answer, Nothing
from openapi.native_answers import QuoteAnswer
from openapi.openai_answers import Empty, ReasoningTokens
from sluice.api.openai.responses import ItemStatus
from sluice.api.openai.shapes import Effort


class AnsweredText(Answer):
    """A text of the model."""

    type: Literal["output_text"]
    text: str
    annotations: Empty
    logprobs: Empty


class AnsweredRefusal(Answer):
    """What the model said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class ReasoningText(Answer):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


AnsweredPart = Annotated[AnsweredText | AnsweredRefusal, Field(discriminator="type")]


class AnsweredMessage(Answer):
    """A message of the model."""

    id: Annotated[str, Field(pattern="^msg_[0-9a-f]{36}$")]
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[AnsweredPart]


class AnsweredCall(Answer):
    """A call of a function."""

    id: Annotated[str, Field(pattern="^fc_[0-9a-f]{36}$")]
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class AnsweredReasoning(Answer):
    """What the model thought before it answered."""

    id: Annotated[str, Field(pattern="^rs_[0-9a-f]{36}$")]
    type: Literal["reasoning"]
    summary: Empty
    content: list[ReasoningText]
    status: ItemStatus


AnsweredItem = Annotated[AnsweredMessage | AnsweredCall | AnsweredReasoning, Field(discriminator="type")]


class ResponseError(Answer):
    """Why a response failed."""

    code: Literal["invalid_prompt", "rate_limit_exceeded", "server_error"]
    message: str


class IncompleteDetails(Answer):
    """Why an answer was cut short."""

    reason: Literal["max_output_tokens", "content_filter"]


class InputTokensDetails(Answer):
    """Of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: Literal[0]


class ResponseUsage(Answer):
    """The tokens that are charged."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ReasoningEcho(Answer):
    """As it was asked for."""

    effort: Effort | None
    summary: str | None
    generate_summary: str = Nothing


class PlainFormat(Answer):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormatEcho(Answer):
    """JSON by a schema."""

    type: Literal["json_schema"]
    name: str | None
    description: str | None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool


class TextEcho(Answer):
    """The form of the answer."""

    format: Annotated[PlainFormat | SchemaFormatEcho, Field(discriminator="type")]


class ToolEcho(Answer):
    """A function that the model might call."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class NamedFunction(Answer):
    """The function that the model had to call."""

    type: Literal["function"]
    name: str


class BackgroundEcho(Answer):
    """How long a response in the background may wait."""

    completion_window: Literal["soonest", "2h", "8h"]


class Response(Answer):
    """A request as a response, whatever route it came by."""

    id: Annotated[str, Field(pattern="^resp_[0-9a-f]{32}$")]
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    model: str
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    previous_response_id: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    reasoning: ReasoningEcho | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: Literal[0]
    truncation: Literal["disabled"]
    text: TextEcho
    user: str | None
    parallel_tool_calls: bool
    tool_choice: Literal["none", "auto", "required"] | NamedFunction
    tools: list[ToolEcho]
    output: list[AnsweredItem]
    usage: ResponseUsage | None
    """Null until the model has reported."""
    background_options: BackgroundEcho = Nothing
    """As they were given."""


class DeletedResponse(Answer):
    """What a response asked and was answered is erased."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(Answer):
    """The most tokens that an input can have."""

    object: Literal["response.input_tokens"]
    input_tokens: int
    quote: QuoteAnswer = Nothing
    """Where the body has `quote: true`."""


class AskedText(Answer):
    """A text that was asked."""

    type: Literal["input_text"]
    text: str


class AskedImage(Answer):
    """An image that was asked about."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"]
    file_id: None


class AskedMessage(Answer):
    """A message that was asked."""

    id: str
    type: Literal["message"]
    role: Literal["user", "system", "assistant"]
    status: Literal["completed"]
    content: list[Annotated[AskedText | AskedImage | AnsweredText | AnsweredRefusal, Field(discriminator="type")]]


class AskedCall(Answer):
    """A call of a function in what was asked."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: Literal["completed"]


class AskedResult(Answer):
    """A function's result in what was asked."""

    id: str
    type: Literal["function_call_output"]
    call_id: str
    output: str
    status: Literal["completed"]


class InputItems(Answer):
    """A page of what a response asked."""

    object: Literal["list"]
    data: list[Annotated[AskedMessage | AskedCall | AskedResult, Field(discriminator="type")]]
    first_id: str | None
    last_id: str | None
    has_more: bool
