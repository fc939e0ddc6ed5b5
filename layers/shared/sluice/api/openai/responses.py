"""POST /v1/responses: what is asked."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from sluice.api.openai.errors import invalid, unsupported
from sluice.api.openai.shapes import (
    CallId,
    Effort,
    FunctionDefinition,
    FunctionName,
    JsonSchemaFormat,
    Label,
    check_choice,
    check_tool_results,
    image_part,
    tools_of,
)
from sluice.domain.caching import Cache, cache_json
from sluice.domain.documents import (
    Input,
    Message,
    NamedTool,
    OutputItem,
    OutputMessage,
    OutputToolCall,
    Part,
    RefusalPart,
    ResponseFormat,
    TextPart,
    ToolCall,
    ToolChoice,
)
from sluice.domain.fields import Identifier, Metadata, Price, Strict, Text, TokenLimit, WebhookUrl
from sluice.domain.parameters import Temperature, TopP
from sluice.domain.requests import Submission
from sluice.domain.routing import ModelNames, RepairAttempts, candidates, repairs
from sluice.domain.windows import CompletionWindow, window_of

API: Final = "responses"

UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "access_programs": (),
    "context_management": (),
    "conversation": (),
    "image": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""Parameters of OpenAI's API that are not supported, with the values that ask for nothing and may be given."""

INCLUDABLE: Final = ("reasoning.encrypted_content",)
"""What `include` may name: there is never any, so nothing is left out."""

ItemId = Annotated[str, Field(max_length=128)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

Referred = Callable[[str], OutputItem | None]
"""Finds an item of an earlier answer of the caller by its id."""


class InputText(Strict):
    type: Literal["input_text"]
    text: Text


class InputImage(Strict):
    type: Literal["input_image"]
    image_url: Text | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: None = None


class OutputText(Strict):
    type: Literal["output_text"]
    text: Text
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: Text


Content = Annotated[InputText | InputImage | OutputText | Refusal, Field(discriminator="type")]


class MessageItem(Strict):
    """A message, also as this API gave it."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | list[Content]
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(Strict):
    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Text
    id: ItemId | None = None
    status: ItemStatus | None = None


class FunctionCallOutputItem(Strict):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Text | list[Annotated[InputText | InputImage, Field(discriminator="type")]]
    id: ItemId | None = None
    status: ItemStatus | None = None


class ReasoningItem(Strict):
    """What a model thought, as this API gave it; models are not told again."""

    type: Literal["reasoning"]
    summary: list[Any]
    id: ItemId | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: ItemStatus | None = None


class ItemReference(Strict):
    """An item of an earlier answer, by its id."""

    type: Literal["item_reference"]
    id: ItemId


def _item_type(item: Any) -> Any:
    """Items without a type are messages."""
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")],
    Discriminator(_item_type),
]


class ResponseTool(FunctionDefinition):
    type: Literal["function"]


class ChosenTool(Strict):
    type: Literal["function"]
    name: FunctionName


class TextFormat(Strict):
    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchemaFormat):
    type: Literal["json_schema"]


class TextOptions(Strict):
    format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Strict):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Strict):
    include_obfuscation: bool | None = None


class BackgroundOptions(Strict):
    # As long as OpenAI's own; a batch waits longer.
    completion_window: Literal["soonest", "2h", "8h"] | None = None


class ResponseRequest(Strict):
    """The body of POST /v1/responses."""

    model: Identifier | None = None
    input: Text | Annotated[list[Item], Field(min_length=1)]
    instructions: Text | None = None
    previous_response_id: ItemId | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    background: bool | None = None
    background_options: BackgroundOptions | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    models: ModelNames | None = None
    repair_attempts: RepairAttempts | None = None
    cache: Cache | None = None
    max_cost: Price | None = None
    webhook: WebhookUrl | None = None
    quote: bool | None = None
    """Of /v1/responses/input_tokens only: also what the request would use and cost."""

    def submission(self, earlier: tuple[Message, ...], referred: Referred, *, is_counted: bool = False) -> Submission:
        """The request that the body describes.

        Args:
            earlier: the conversation that it continues.
            referred: finds what the input refers to.
            is_counted: it is only counted, and not asked.

        Raises:
            SluiceError: invalid_input, parameter_unsupported.
        """
        self._check(is_counted=is_counted)
        messages = earlier + self._messages(referred)
        check_tool_results(messages, "input")
        if not messages:
            raise invalid("The input has no message.", "input")
        tools = tools_of([each.tool() for each in self.tools or ()], "tools")
        choice: ToolChoice | None = None
        if self.tool_choice is not None:
            choice = (
                NamedTool(name=self.tool_choice.name) if isinstance(self.tool_choice, ChosenTool) else self.tool_choice
            )
        check_choice(choice, tools)
        model, fallbacks = candidates(self.model, self.models)
        return Submission(
            input=Input(
                messages=messages,
                instructions=self.instructions,
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
            window=self._window(),
            parameters=self._parameters(),
            metadata=self.metadata,
            surface={"api": API, "echo": self._echo()},
        )

    def _check(self, *, is_counted: bool) -> None:
        for name in self.include or ():
            if name not in INCLUDABLE:
                raise unsupported("include", f"only {', '.join(INCLUDABLE)} may be named")
        if self.quote is not None and not is_counted:
            raise unsupported("quote", "it is for /v1/responses/input_tokens; ask there, or with POST /quote")
        if self.background and self.store is False:
            raise invalid("A background response has to be stored: it could not be retrieved.", "store")

        if self._window() is not None and not is_counted and (not self.background or self.stream):
            raise invalid(
                "Only a response in the background can wait so long: set background, and do not ask for a stream.",
                "background_options.completion_window",
            )

    def _window(self) -> CompletionWindow | None:
        return None if self.background_options is None else window_of(self.background_options.completion_window)

    def _format(self) -> ResponseFormat | None:
        form = None if self.text is None else self.text.format
        if isinstance(form, SchemaFormat):
            return form.response_format()
        return ResponseFormat(type="json_object") if form is not None and form.type == "json_object" else None

    def _parameters(self) -> dict[str, Any]:
        given = {
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "reasoning_effort": None if self.reasoning is None else self.reasoning.effort,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _echo(self) -> dict[str, Any]:
        """What a response shows of its request and what is nowhere else."""
        given = {
            "background": self.background,
            "background_options": None
            if self.background_options is None
            else self.background_options.model_dump(exclude_none=True) or None,
            "max_output_tokens": self.max_output_tokens,
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": None if self.reasoning is None else self.reasoning.model_dump(exclude_none=True),
            "safety_identifier": self.safety_identifier,
            "store": self.store,
            "user": self.user,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _messages(self, referred: Referred) -> tuple[Message, ...]:
        if isinstance(self.input, str):
            return (Message(role="user", content=(TextPart(text=self.input),)),)
        made: list[Message] = []
        for index, item in enumerate(self.input):
            message = _message(item, f"input[{index}]", referred)
            if message is not None:
                _append(made, message)
        return tuple(made)


def _append(messages: list[Message], message: Message) -> None:
    """Add a message; what an assistant said and called, in either order, is one message to a model."""
    last = messages[-1] if messages else None
    if last is None or {last.role, message.role} != {"assistant"} or not (last.tool_calls or message.tool_calls):
        messages.append(message)
        return
    calls = (last.tool_calls or ()) + (message.tool_calls or ())
    messages[-1] = last.model_copy(update={"content": last.content + message.content, "tool_calls": calls})


def _message(item: Item, place: str, referred: Referred) -> Message | None:
    match item:
        case MessageItem():
            role: Literal["system", "user", "assistant"] = "system" if item.role == "developer" else item.role
            content = _parts(item.content, f"{place}.content", is_answer=item.role == "assistant")
            return Message(role=role, content=content)
        case FunctionCallItem():
            call = ToolCall(id=item.call_id, name=item.name, arguments=item.arguments)
            return Message(role="assistant", content=(), tool_calls=(call,))
        case FunctionCallOutputItem():
            return Message(role="tool", content=_parts(item.output, f"{place}.output"), tool_call_id=item.call_id)
        case ItemReference():
            return _referred(item.id, place, referred)
    return None


def _referred(item_id: str, place: str, referred: Referred) -> Message | None:
    match referred(item_id):
        case None:
            raise invalid(f"There is no item {item_id[:64]!r} in your responses.", f"{place}.id", "item_not_found")
        case OutputMessage(content=content):
            return Message(role="assistant", content=tuple(part for part in content if part.text))
        case OutputToolCall(id=call_id, name=name, arguments=arguments):
            call = ToolCall(id=call_id, name=name, arguments=arguments)
            return Message(role="assistant", content=(), tool_calls=(call,))
    return None


def _parts(
    content: str | list[Content] | list[InputText | InputImage], place: str, *, is_answer: bool = False
) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(text=content),)
    return tuple(_part(each, f"{place}[{index}]", is_answer) for index, each in enumerate(content))


def _part(part: Content, place: str, is_answer: bool) -> Part:
    match part:
        case InputText() | OutputText():
            return TextPart(text=part.text)
        case Refusal():
            return RefusalPart(type="refusal", text=part.refusal)
    if is_answer:
        raise invalid("An assistant's message has no images.", place)
    if part.image_url is None:
        raise invalid("An image needs an image_url.", f"{place}.image_url", "missing_required_parameter")
    detail = "high" if part.detail == "original" else part.detail
    return image_part(part.image_url, detail, f"{place}.image_url")
