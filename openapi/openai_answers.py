"""What the routes under /v1 answer, apart from responses: response_answers.py."""

from typing import Annotated, Any, Literal

from pydantic import Field

from openapi.answers import Answer, Nothing
from sluice.domain.files import ImageFormat

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


# Images ---------------------------------------------------------------------------------------------------------------


class GeneratedImage(Answer):
    """The image, in base64."""

    b64_json: str


class ImageAddress(Answer):
    """Where an image can be fetched for some minutes that is too large for an answer."""

    url: str


class TextTokens(Answer):
    """Of the prompt's tokens."""

    text_tokens: int
    image_tokens: Literal[0]


class ImageUsage(Answer):
    """The tokens that are charged."""

    input_tokens: int
    input_tokens_details: TextTokens
    output_tokens: int
    total_tokens: int


class ImageList(Answer):
    """One image, and how it was asked for."""

    created: int
    data: Annotated[list[GeneratedImage | ImageAddress], Field(min_length=1, max_length=1)]
    output_format: ImageFormat
    """Of the image as it is."""
    size: str = Nothing
    quality: str = Nothing
    background: str = Nothing
    usage: ImageUsage


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
