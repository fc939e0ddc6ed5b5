"""What a request asks and what it answers, as documents: stored as JSONB, so that a new field changes no signature.

Documents are read from rows of any age: a field that is added later has a default, and an unknown one is ignored.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
"""Why a model stopped, in the words of OpenAI's chat completions."""


class Document(BaseModel):
    """Immutable; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """The form in which it is stored: fields without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class TextPart(Document):
    type: Literal["text"] = "text"
    text: str


class Message(Document):
    role: Role
    content: tuple[TextPart, ...]

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(part.text for part in self.content)


class Input(Document):
    """What a request asks: a conversation, oldest message first."""

    messages: tuple[Message, ...]

    @classmethod
    def of_prompt(cls, prompt: str) -> Self:
        """An input of one text by the user."""
        return cls(messages=(Message(role="user", content=(TextPart(text=prompt),)),))

    @property
    def byte_length(self) -> int:
        """Length of all texts in bytes of UTF-8; input_bytes() in the database counts the same."""
        return sum(len(part.text.encode()) for message in self.messages for part in message.content)


class OutputMessage(Document):
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    content: tuple[TextPart, ...]


class Output(Document):
    """What a model answered: its items in order, and why it stopped, if it said so."""

    items: tuple[OutputMessage, ...]
    finish_reason: FinishReason | None = None

    @classmethod
    def of_text(cls, text: str, finish_reason: FinishReason | None = None) -> Self:
        """An output of one text. Characters that neither PostgreSQL nor JSON can hold are replaced by U+FFFD."""
        part = TextPart(text=_replace_unstorable(text))
        return cls(items=(OutputMessage(content=(part,)),), finish_reason=finish_reason)

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(part.text for item in self.items for part in item.content)


def _replace_unstorable(text: str) -> str:
    """Replace U+0000 and halves of surrogate pairs: a model's answer is worth keeping without them."""
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return paired.replace("\x00", "\ufffd")
