"""POST /v1/chat/completions: what is asked, and the answer."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from sluice.api.openai.errors import invalid
from sluice.api.openai.ids import completion_id
from sluice.api.openai.shapes import (
    CallId,
    Effort,
    FunctionDefinition,
    FunctionName,
    JsonSchemaFormat,
    Label,
    Penalty,
    check_choice,
    check_tool_results,
    image_part,
    tools_of,
)
from sluice.domain.caching import Cache, cache_json
from sluice.domain.documents import (
    FinishReason,
    Input,
    Message,
    NamedTool,
    Part,
    RefusalPart,
    ResponseFormat,
    TextPart,
    ToolCall,
    ToolChoice,
)
from sluice.domain.fields import Identifier, Metadata, Price, Strict, Text, TokenLimit, WebhookUrl
from sluice.domain.parameters import Seed, StopSequence, StopSequences, Temperature, TopP
from sluice.domain.requests import RequestDetail, Submission
from sluice.domain.routing import ModelNames, RepairAttempts, candidates, repairs

API: Final = "chat"

UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "audio": (),
    "function_call": (),
    "functions": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters of OpenAI's API that are not supported, with the values that ask for nothing and may be given."""


class TextContent(Strict):
    type: Literal["text"]
    text: Text


class RefusalContent(Strict):
    type: Literal["refusal"]
    refusal: Text


class ImageUrl(Strict):
    url: Text
    detail: Literal["auto", "low", "high"] | None = None


class ImageContent(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Text | Annotated[list[TextContent], Field(min_length=1)]
    name: Label | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: (
        Text | Annotated[list[Annotated[TextContent | ImageContent, Field(discriminator="type")]], Field(min_length=1)]
    )
    name: Label | None = None


class CalledFunction(Strict):
    name: FunctionName
    arguments: Text


class CallOfFunction(Strict):
    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None
    """Clients that put a stream together leave it in."""


class AssistantMessage(Strict):
    """A message as this API gives it back may be sent as it is, with what is empty in it."""

    role: Literal["assistant"]
    content: Text | list[Annotated[TextContent | RefusalContent, Field(discriminator="type")]] | None = None
    refusal: Text | None = None
    tool_calls: list[CallOfFunction] | None = None
    name: Label | None = None
    reasoning_content: Text | None = None
    """What the model thought; models are not told again."""
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Strict):
    role: Literal["tool"]
    tool_call_id: CallId
    content: Text | Annotated[list[TextContent], Field(min_length=1)]
    name: Label | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class ChatTool(Strict):
    type: Literal["function"]
    function: FunctionDefinition


class ChosenFunction(Strict):
    name: FunctionName


class ChosenTool(Strict):
    type: Literal["function"]
    function: ChosenFunction


class TextFormat(Strict):
    type: Literal["text", "json_object"]


class SchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Nothing here depends on the length of a chunk."""


class ChatRequest(Strict):
    """The body of POST /v1/chat/completions."""

    model: Identifier | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[ChatTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: StopSequence | StopSequences | None = None
    reasoning_effort: Effort | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    models: ModelNames | None = None
    repair_attempts: RepairAttempts | None = None
    cache: Cache | None = None
    max_cost: Price | None = None
    webhook: WebhookUrl | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give either max_tokens or max_completion_tokens, not both")
        return self

    @property
    def includes_usage(self) -> bool:
        """Whether a stream is to end with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def submission(self) -> Submission:
        """The request that the body describes.

        Raises:
            SluiceError: invalid_input.
        """
        messages = tuple(_message(each, f"messages[{index}]") for index, each in enumerate(self.messages))
        check_tool_results(messages, "messages")
        tools = tools_of([each.function.tool() for each in self.tools or ()], "tools")
        choice: ToolChoice | None = None
        if self.tool_choice is not None:
            chosen = self.tool_choice
            choice = NamedTool(name=chosen.function.name) if isinstance(chosen, ChosenTool) else chosen
        check_choice(choice, tools)
        model, fallbacks = candidates(self.model, self.models)
        return Submission(
            input=Input(
                messages=messages,
                tools=tools,
                tool_choice=choice,
                parallel_tool_calls=self.parallel_tool_calls,
                response_format=self._format(),
            ),
            model=model,
            fallbacks=fallbacks,
            repair_attempts=repairs(self._format(), self.repair_attempts),
            cache=cache_json(self.cache),
            max_cost=None if self.max_cost is None else str(self.max_cost),
            webhook=self.webhook,
            parameters=self._parameters(),
            metadata=self.metadata,
            surface={"api": API},
        )

    def _format(self) -> ResponseFormat | None:
        match self.response_format:
            case SchemaFormat():
                return self.response_format.json_schema.response_format()
            case TextFormat(type="json_object"):
                return ResponseFormat(type="json_object")
        return None

    def _parameters(self) -> dict[str, Any]:
        given = {
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "seed": self.seed,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            "reasoning_effort": self.reasoning_effort,
        }
        return {name: value for name, value in given.items() if value is not None}


def _message(message: ChatMessage, place: str) -> Message:
    match message:
        case SystemMessage():
            return Message(role="system", content=_parts(message.content, place), name=message.name)
        case UserMessage():
            return Message(role="user", content=_parts(message.content, place), name=message.name)
        case ToolMessage():
            return Message(role="tool", content=_parts(message.content, place), tool_call_id=message.tool_call_id)
    calls = tuple(
        ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in message.tool_calls or ()
    )
    content = _parts(message.content, place)
    if message.refusal:
        content += (RefusalPart(type="refusal", text=message.refusal),)
    if not content and not calls:
        raise invalid("An assistant's message needs content or tool_calls.", f"{place}.content")
    return Message(role="assistant", content=content, tool_calls=calls or None, name=message.name)


def _parts(
    content: str | list[TextContent] | list[TextContent | ImageContent] | list[TextContent | RefusalContent] | None,
    place: str,
) -> tuple[Part, ...]:
    if not content:
        return () if content is None else (TextPart(text=""),)
    if isinstance(content, str):
        return (TextPart(text=content),)
    return tuple(_part(each, f"{place}.content[{index}]") for index, each in enumerate(content))


def _part(part: TextContent | ImageContent | RefusalContent, place: str) -> Part:
    match part:
        case TextContent():
            return TextPart(text=part.text)
        case RefusalContent():
            return RefusalPart(type="refusal", text=part.refusal)
    return image_part(part.image_url.url, part.image_url.detail, f"{place}.image_url.url")


# The answer -----------------------------------------------------------------------------------------------------------

_FINISH: Final[Mapping[FinishReason, str]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "refusal": "stop",
    "other": "stop",
}
"""OpenAI's words for ours."""


def chat_view(detail: RequestDetail) -> dict[str, Any]:
    """A completed request as a chat completion."""
    return {
        "id": completion_id(detail.request_id),
        "object": "chat.completion",
        "created": int(detail.created_at.timestamp()),
        "model": detail.model_id,
        "choices": [
            {"index": 0, "message": _answer(detail), "logprobs": None, "finish_reason": finish_word(detail)},
        ],
        "usage": chat_usage(detail),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def finish_word(detail: RequestDetail) -> str:
    """Why the model stopped; a model that calls tools is never said to have stopped for good."""
    if detail.output is not None and detail.output.tool_calls and detail.finish_reason in ("stop", "other", None):
        return "tool_calls"
    return _FINISH[detail.finish_reason or "stop"]


def chat_usage(detail: RequestDetail) -> dict[str, Any]:
    """The tokens of a chat completion."""
    return {
        "prompt_tokens": detail.prompt_tokens or 0,
        "completion_tokens": detail.completion_tokens or 0,
        "total_tokens": detail.total_tokens or 0,
        "prompt_tokens_details": {"cached_tokens": detail.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": detail.reasoning_tokens or 0},
    }


def _answer(detail: RequestDetail) -> dict[str, Any]:
    output = detail.output
    calls = [] if output is None else tool_call_views(detail)
    refusal = "" if output is None else output.refusal
    text = "" if output is None else output.answer_text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not (calls or refusal) else None,
        "refusal": refusal or None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = calls
    if output is not None and output.reasoning:
        message["reasoning_content"] = output.reasoning
    return message


def tool_call_views(detail: RequestDetail) -> list[dict[str, Any]]:
    """The calls of tools in an answer."""
    calls = () if detail.output is None else detail.output.tool_calls
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]
