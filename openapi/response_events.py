"""The events of a response's stream."""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from openapi.answers import Answer, Nothing
from openapi.openai_answers import Empty
from openapi.response_answers import AnsweredItem, AnsweredRefusal, AnsweredText, ReasoningText, Response


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
