"""What the routes under /v1 answer."""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from openapi.answers import Answer, Nothing
from sluice.api.openai.responses import ItemStatus
from sluice.api.openai.shapes import Effort

Empty = Annotated[list[Any], Field(max_length=0)]

# Chat completions -----------------------------------------------------------------------------------------------------


class FunctionOfCall(Answer):
    """The function that a model calls."""

    name: str
    arguments: str
    """JSON as the model wrote it, which may be invalid."""


class ChatCall(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionOfCall


class ChatAnswer(Answer):
    """What the model answered."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: Empty
    tool_calls: list[ChatCall] = Nothing
    reasoning_content: str = Nothing


FinishWord = Literal["stop", "length", "content_filter", "tool_calls"]


class Choice(Answer):
    """The answer, of which there is one."""

    index: Literal[0]
    message: ChatAnswer
    logprobs: None
    finish_reason: FinishWord


class CachedTokens(Answer):
    """Of the prompt's tokens."""

    cached_tokens: int


class ReasoningTokens(Answer):
    """Of the answer's tokens."""

    reasoning_tokens: int


class ChatUsage(Answer):
    """The tokens that are charged."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class ChatCompletion(Answer):
    """A chat completion."""

    id: Annotated[str, Field(pattern="^chatcmpl-[0-9a-f]{32}$")]
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: Annotated[list[Choice], Field(min_length=1, max_length=1)]
    usage: ChatUsage
    service_tier: Literal["default"]
    system_fingerprint: None


class ChunkCall(ChatCall):
    """A call of a tool, whole."""

    index: int


class Delta(Answer):
    """What a chunk adds."""

    role: Literal["assistant"] = Nothing
    content: str | None = Nothing
    refusal: str = Nothing
    reasoning_content: str = Nothing
    tool_calls: list[ChunkCall] = Nothing


class ChunkChoice(Answer):
    """The answer, of which there is one."""

    index: Literal[0]
    delta: Delta
    logprobs: None
    finish_reason: FinishWord | None


class ChatCompletionChunk(Answer):
    """An event of a chat completion's stream; the stream ends with `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: Annotated[list[ChunkChoice], Field(max_length=1)]
    usage: ChatUsage | None = Nothing
    """With `include_usage`: null, and in the last chunk the tokens."""
    service_tier: Literal["default"]
    system_fingerprint: None


# Embeddings -----------------------------------------------------------------------------------------------------------


class Embedding(Answer):
    """One vector: numbers, or with `base64` their 32-bit floats, little-endian."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """The tokens that are charged."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


# Models ---------------------------------------------------------------------------------------------------------------


class OpenAIModel(Answer):
    """A model that the caller may name, or another name of one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["sluice"]


class OpenAIModelList(Answer):
    """The models that the caller may name."""

    object: Literal["list"]
    data: list[OpenAIModel]


# Responses ------------------------------------------------------------------------------------------------------------


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


class DeletedResponse(Answer):
    """What a response asked and was answered is erased."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(Answer):
    """The most tokens that an input can have."""

    object: Literal["response.input_tokens"]
    input_tokens: int


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


# Events of a response's stream ----------------------------------------------------------------------------------------


class Numbered(Answer):
    """An event; the same response has the same events each time."""

    sequence_number: int


class ResponseStateEvent(Numbered):
    """The response as it is: at its beginning and at its end."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
    ]
    response: Response


class ItemEvent(Numbered):
    """An item begins, or is whole."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: AnsweredItem


class InItem(Numbered):
    """An event within an item."""

    output_index: int
    item_id: str


class DeltaEvent(InItem):
    """A piece of a text, a refusal, a thought."""

    type: Literal["response.output_text.delta", "response.refusal.delta", "response.reasoning_text.delta"]
    content_index: int
    delta: str
    logprobs: Empty = Nothing


class TextDoneEvent(InItem):
    """A text, or a thought, is whole."""

    type: Literal["response.output_text.done", "response.reasoning_text.done"]
    content_index: int
    text: str
    logprobs: Empty = Nothing


class RefusalDoneEvent(InItem):
    """A refusal is whole."""

    type: Literal["response.refusal.done"]
    content_index: int
    refusal: str


class PartEvent(InItem):
    """A part of an item begins, or is whole."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: Annotated[AnsweredText | AnsweredRefusal | ReasoningText, Field(discriminator="type")]


class ArgumentsDeltaEvent(InItem):
    """A piece of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(InItem):
    """The arguments of a call are whole."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ResponseEvent(
    RootModel[
        Annotated[
            ResponseStateEvent
            | ItemEvent
            | DeltaEvent
            | TextDoneEvent
            | RefusalDoneEvent
            | PartEvent
            | ArgumentsDeltaEvent
            | ArgumentsDoneEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """An event of a response's stream; the stream of one that has ended ends with `[DONE]`."""
