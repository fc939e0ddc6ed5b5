"""What a request asks and what it answers, as documents: stored as JSONB, so that a new field changes no signature.

Documents are read from rows of any age: a field that is added later has a default, and an unknown one is ignored.
"""

from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "refusal", "other"]
"""Why a model stopped, in the words of OpenAI's chat completions, and two of ours: refusal (it declined to answer; the
text is its refusal) and other (it gave a word that is not known here)."""
FINISH_REASONS: Final[tuple[FinishReason, ...]] = get_args(FinishReason)

EmptyReason = Literal["tool_calls", "content_filter", "refusal", "reasoning", "nothing"]
"""Why an answer has no text: the model asked for tools, a filter took the text away, the model declined without a word,
it only reasoned, or it wrote nothing."""


class Document(BaseModel):
    """Immutable; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """The form in which it is stored: fields without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class TextPart(Document):
    type: Literal["text"] = "text"
    text: str


class RefusalPart(Document):
    """What a model said instead of an answer."""

    type: Literal["refusal"]
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
    content: tuple[TextPart | RefusalPart, ...]


def _known_or_other(word: Any) -> Any:
    # A row may be newer than this code.
    return word if word is None or word in FINISH_REASONS else "other"


class Output(Document):
    """What a model answered: its items in order.

    Attributes:
        finish_reason: why the model stopped; None: it did not say.
        empty_reason: why there is no text; None where there is some, and in rows from before this was recorded.
    """

    items: tuple[OutputMessage, ...]
    finish_reason: Annotated[FinishReason | None, BeforeValidator(_known_or_other)] = None
    empty_reason: EmptyReason | None = None

    @classmethod
    def of_text(
        cls,
        text: str,
        finish_reason: FinishReason | None = None,
        *,
        refusal: str = "",
        empty_reason: EmptyReason = "nothing",
    ) -> Self:
        """An output of one message. Characters that neither PostgreSQL nor JSON can hold are replaced by U+FFFD.

        Args:
            refusal: what the model said instead of an answer, or after it.
            empty_reason: counts if both texts are empty.
        """
        parts: list[TextPart | RefusalPart] = []
        if text or not refusal:
            parts.append(TextPart(text=_replace_unstorable(text)))
        if refusal:
            parts.append(RefusalPart(type="refusal", text=_replace_unstorable(refusal)))
        return cls(
            items=(OutputMessage(content=tuple(parts)),),
            finish_reason=finish_reason,
            empty_reason=None if text or refusal else empty_reason,
        )

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(part.text for item in self.items for part in item.content)


def _replace_unstorable(text: str) -> str:
    """Replace U+0000 and halves of surrogate pairs: a model's answer is worth keeping without them."""
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return paired.replace("\x00", "\ufffd")
