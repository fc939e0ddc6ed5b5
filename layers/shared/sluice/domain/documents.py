"""What a request asks and what it answers, as documents: stored as JSONB, so that a new field changes no signature.

Documents are read from rows of any age: a field that is added later has a default, and an unknown one is ignored. JSON
that a client or a model wrote (a schema, a tool's arguments) is kept as text, because JSONB keeps neither the order of
its members nor its spelling.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import IO, Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "refusal", "other"]
"""Why a model stopped, in the words of OpenAI's chat completions, and two of ours: refusal (it declined to answer; the
text is its refusal) and other (it gave a word that is not known here)."""
FINISH_REASONS: Final[tuple[FinishReason, ...]] = get_args(FinishReason)
TEXT_TYPE: Final = "text/plain; charset=utf-8"
JSON_TYPE: Final = "application/json"
_CHUNK: Final = 1 << 20
# Of a prompt, as many characters as a history shows.
_BEGINNING: Final = 1000

EmptyReason = Literal["tool_calls", "content_filter", "refusal", "reasoning", "nothing"]
"""Why an answer has no text: the model asked for tools, a filter took the text away, the model declined without a word,
it only reasoned, or it wrote nothing."""


class Document(BaseModel):
    """Immutable; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """The form in which it is stored: fields without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)


# What is asked --------------------------------------------------------------------------------------------------------


class TextPart(Document):
    type: Literal["text"] = "text"
    text: str


class RefusalPart(Document):
    """What a model said instead of an answer."""

    type: Literal["refusal"]
    text: str


class ImagePart(Document):
    """An image for the model to look at.

    Attributes:
        url: an https URL, or a data URL with the image itself in base64.
        detail: how closely it is to be looked at, where the model distinguishes that.
    """

    type: Literal["image"]
    url: str
    detail: Literal["auto", "low", "high"] | None = None

    @property
    def inline(self) -> tuple[str, bytes] | None:
        """Media type and bytes of an image that is in a data URL; None: it is elsewhere, or no image in base64."""
        head, comma, data = self.url.partition(",")
        if not comma or not head.startswith("data:") or not head.endswith(";base64"):
            return None
        try:
            return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            return None


class TokensPart(Document):
    """A text as the ids of its tokens, in the model's own vocabulary; for embeddings only."""

    type: Literal["tokens"]
    tokens: tuple[int, ...]


Part = TextPart | RefusalPart | ImagePart | TokensPart


class ToolCall(Document):
    """A model's call of a tool.

    Attributes:
        id: by which the tool's result refers to it.
        arguments: JSON as the model wrote it, which may be invalid.
    """

    id: str
    name: str
    arguments: str


class Message(Document):
    """A message of a conversation.

    Attributes:
        content: may be empty where an assistant only calls tools.
        tool_calls: of an assistant.
        tool_call_id: of a tool's result: the call that it answers.
        name: of the participant, where several have the same role.
    """

    role: Role
    content: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart | RefusalPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """Its images, in order."""
        return tuple(part for part in self.content if isinstance(part, ImagePart))


class Tool(Document):
    """A function that the model may call.

    Attributes:
        parameters: a JSON Schema as text; None: it takes none.
        strict: whether its arguments must match the schema.
    """

    name: str
    description: str | None = None
    parameters: str | None = None
    strict: bool | None = None


class NamedTool(Document):
    """The one tool that the model has to call."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class ResponseFormat(Document):
    """The form that the answer must have: any JSON object, or JSON that matches a schema.

    Attributes:
        schema_text: a JSON Schema as text, for json_schema.
    """

    type: Literal["json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_text: str | None = None
    strict: bool | None = None


def schema_text(schema: Mapping[str, Any] | None) -> str | None:
    """A schema as the text in which it is kept, with the order of its members."""
    return None if schema is None else json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


class ImageOptions(Document):
    """How an image is to be drawn, in the words of OpenAI's API; what is None is the model's choice.

    Attributes:
        size: in pixels, as in 1024x1024; or auto.
        output_format: png, jpeg or webp.
    """

    size: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None


class SpeechOptions(Document):
    """How a text is to be read aloud, in the words of OpenAI's API; what is None is the model's choice.

    Attributes:
        response_format: of the audio: mp3, opus, aac, flac, wav or pcm.
        speed: 1 is as the voice speaks by itself.
        instructions: how the voice is to sound.
    """

    voice: str
    response_format: str | None = None
    speed: float | None = None
    instructions: str | None = None


class Input(Document):
    """What a request asks: a conversation, oldest message first, and what the model may do. Or texts to be embedded,
    each the only part of a message. Or one text, of which an image or a recording is to be made.

    Attributes:
        instructions: what the model is told before the conversation; unlike a message it is of this request only, and
            not of one that continues it.
        dimensions: the length that embeddings are to have, where the model has a choice.
        image: for models of kind image.
        speech: for models of kind speech, which need it.
        stored: the object that holds all of it, as StoredObject.to_json(); then this is the beginning, for people.
    """

    messages: tuple[Message, ...]
    instructions: str | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    dimensions: int | None = None
    image: ImageOptions | None = None
    speech: SpeechOptions | None = None
    stored: dict[str, Any] | None = None

    @classmethod
    def of_prompt(cls, prompt: str) -> Self:
        """An input of one text by the user."""
        return cls(messages=(Message(role="user", content=(TextPart(text=prompt),)),))

    def beginning(self, stored: dict[str, Any]) -> Self:
        """The beginning of an input that is an object; see `stored`."""
        first = self.messages[0]
        text = TextPart(text=first.text[:_BEGINNING])
        return type(self)(messages=(Message(role=first.role, content=(text,)),), stored=stored)

    @property
    def single_text(self) -> str | None:
        """Its text, if it is one message of nothing but text; else None."""
        (first, *more) = self.messages or (None,)
        is_text = first is not None and all(isinstance(part, TextPart) for part in first.content)
        return first.text if first is not None and is_text and first.content and not more else None

    @property
    def byte_length(self) -> int:
        """Length of all that the model reads, in bytes of UTF-8, without images.

        input_bytes() in the database counts the same. Ids of tokens count as a byte each: it is the number of tokens
        that is bounded by this.
        """
        return sum(len(text.encode()) for text in self._texts()) + sum(
            len(part.tokens) for message in self.messages for part in message.content if isinstance(part, TokensPart)
        )

    @property
    def extra_items(self) -> int:
        """How many messages, calls and tools there are beyond the first message.

        Each costs a model's template some tokens. input_extra_items() in the database counts the same.
        """
        calls = sum(len(message.tool_calls or ()) for message in self.messages)
        told = (self.instructions is not None) + (self.response_format is not None)
        return len(self.messages) - 1 + calls + len(self.tools or ()) + told

    @property
    def image_count(self) -> int:
        """How many images it has."""
        return sum(len(message.images) for message in self.messages)

    @property
    def image_bytes(self) -> int:
        """Length of its images' URLs, which are the images themselves where these are data URLs."""
        return sum(len(image.url) for message in self.messages for image in message.images)

    def _texts(self) -> Iterator[str]:
        for message in self.messages:
            yield message.text
            for call in message.tool_calls or ():
                yield call.name
                yield call.arguments
        yield self.instructions or ""
        for tool in self.tools or ():
            yield from (tool.name, tool.description or "", tool.parameters or "")
        if self.response_format is not None:
            form = self.response_format
            yield from (form.name or "", form.description or "", form.schema_text or "")
        if self.speech is not None:
            yield self.speech.instructions or ""


# What is answered -----------------------------------------------------------------------------------------------------


class OutputMessage(Document):
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    content: tuple[TextPart | RefusalPart, ...]


class OutputToolCall(ToolCall):
    type: Literal["tool_call"] = "tool_call"


class OutputReasoning(Document):
    """What a model thought before it answered, as far as it tells."""

    type: Literal["reasoning"] = "reasoning"
    text: str


class OutputEmbedding(Document):
    """The embedding of one text.

    Attributes:
        vector: its numbers as 32-bit floats, little-endian, in base64: OpenAI's own form, a third of JSON's size.
    """

    type: Literal["embedding"] = "embedding"
    vector: str


class OutputFile(Document):
    """A file that a model made: an image or a recording. Its bytes are kept beside the document.

    Attributes:
        byte_length: of the bytes.
        sha256: of the bytes, in hexadecimal.
    """

    type: Literal["file"] = "file"
    mime_type: str
    byte_length: int
    sha256: str

    @classmethod
    def of(cls, content: bytes | IO[bytes], mime_type: str) -> Self:
        """What describes these bytes, or those of a file, which is read from its beginning."""
        digest, size = hashlib.sha256(), 0
        for chunk in chunks_of(content):
            digest.update(chunk)
            size += len(chunk)
        return cls(mime_type=mime_type, byte_length=size, sha256=digest.hexdigest())


def chunks_of(content: bytes | IO[bytes]) -> Iterator[bytes]:
    """All of it in parts, of which none is large; a file is read from its beginning."""
    if isinstance(content, bytes):
        yield content
        return
    content.seek(0)
    while chunk := content.read(_CHUNK):
        yield chunk


OutputItem = OutputMessage | OutputToolCall | OutputReasoning | OutputEmbedding | OutputFile


def _known_or_other(word: Any) -> Any:
    # A row may be newer than this code.
    return word if word is None or word in FINISH_REASONS else "other"


class Output(Document):
    """What a model answered: its items in order.

    Attributes:
        finish_reason: why the model stopped; None: it did not say.
        empty_reason: why there is no text; None where there is some, and in rows from before this was recorded.
        result_type: json: its text is JSON of the form that was asked for.
    """

    items: tuple[OutputItem, ...]
    finish_reason: Annotated[FinishReason | None, BeforeValidator(_known_or_other)] = None
    empty_reason: EmptyReason | None = None
    result_type: Literal["json"] | None = None

    @classmethod
    def of_text(
        cls,
        text: str,
        finish_reason: FinishReason | None = None,
        *,
        refusal: str = "",
        empty_reason: EmptyReason = "nothing",
        reasoning: str = "",
        tool_calls: tuple[ToolCall, ...] = (),
    ) -> Self:
        """An output of one message, which may be empty, and what else the model wrote.

        The message comes first, where the column results.content finds its text. Characters that neither PostgreSQL
        nor JSON can hold are replaced by U+FFFD.

        Args:
            refusal: what the model said instead of an answer, or after it.
            empty_reason: counts if both texts are empty.
            reasoning: what it thought before it answered.
            tool_calls: the tools that it calls.
        """
        parts: list[TextPart | RefusalPart] = []
        if text or not refusal:
            parts.append(TextPart(text=_replace_unstorable(text)))
        if refusal:
            parts.append(RefusalPart(type="refusal", text=_replace_unstorable(refusal)))
        items: list[OutputItem] = [OutputMessage(content=tuple(parts))]
        if reasoning:
            items.append(OutputReasoning(text=_replace_unstorable(reasoning)))
        items += [
            OutputToolCall(
                id=_replace_unstorable(call.id),
                name=_replace_unstorable(call.name),
                arguments=_replace_unstorable(call.arguments),
            )
            for call in tool_calls
        ]
        return cls(
            items=tuple(items),
            finish_reason=finish_reason,
            empty_reason=None if text or refusal else empty_reason,
        )

    def of_json(self, text: str) -> Self:
        """The same output with a text that is JSON of the form that was asked for."""
        others = (item for item in self.items if not isinstance(item, OutputMessage))
        message = OutputMessage(content=(TextPart(text=text),))
        return self.model_copy(update={"items": (message, *others), "result_type": "json"})

    def with_text(self, content: bytes) -> Self:
        """The same output with the text or the vectors of which it has only a file; the reverse of as_text().

        Raises:
            ValueError: the content is something else.
        """
        text = content.decode()
        vectors: Any = None
        if self.file is not None and self.file.mime_type == JSON_TYPE:
            given = json.loads(text)
            vectors = given.get("embeddings") if isinstance(given, dict) and set(given) == {"embeddings"} else None
        items: tuple[OutputItem, ...] = (OutputMessage(content=(TextPart(text=text),)),)
        if isinstance(vectors, list) and all(isinstance(each, str) for each in vectors):
            items = tuple(OutputEmbedding(vector=each) for each in vectors)
        return self.model_copy(update={"items": items})

    def as_text(self) -> tuple[bytes, str]:
        """An answer that is no file as one, and its MIME type. Vectors are JSON with what is stored of them."""
        if self.vectors:
            return json.dumps({"embeddings": self.vectors}).encode(), JSON_TYPE
        return self.text.encode(), JSON_TYPE if self.result_type == "json" else TEXT_TYPE

    @property
    def text(self) -> str:
        """All of its text, without reasoning and calls."""
        return "".join(part.text for part in self._parts())

    @property
    def file(self) -> OutputFile | None:
        """The file that it is, if it is one."""
        return next((item for item in self.items if isinstance(item, OutputFile)), None)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it would be text or vectors in a document, and is a file because it is too long for one."""
        return self.file is not None and self.file.mime_type in (TEXT_TYPE, JSON_TYPE)

    @property
    def vectors(self) -> tuple[str, ...]:
        """Its embeddings, in the order of the texts; see OutputEmbedding."""
        return tuple(item.vector for item in self.items if isinstance(item, OutputEmbedding))

    @property
    def byte_length(self) -> int:
        """Length of all that the model wrote and that is kept, in bytes of UTF-8; embeddings and files are no text."""
        calls = (part for call in self.tool_calls for part in (call.id, call.name, call.arguments))
        return sum(len(text.encode()) for text in (self.text, self.reasoning, *calls))

    @property
    def answer_text(self) -> str:
        """Its text without what the model said instead of an answer."""
        return "".join(part.text for part in self._parts() if isinstance(part, TextPart))

    @property
    def refusal(self) -> str:
        """What the model said instead of an answer."""
        return "".join(part.text for part in self._parts() if isinstance(part, RefusalPart))

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, as far as it told."""
        return "".join(item.text for item in self.items if isinstance(item, OutputReasoning))

    def _parts(self) -> Iterator[TextPart | RefusalPart]:
        for item in self.items:
            if isinstance(item, OutputMessage):
                yield from item.content

    @property
    def tool_calls(self) -> tuple[OutputToolCall, ...]:
        """The tools that it calls, in order."""
        return tuple(item for item in self.items if isinstance(item, OutputToolCall))


def _replace_unstorable(text: str) -> str:
    """Replace U+0000 and halves of surrogate pairs: a model's answer is worth keeping without them."""
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return paired.replace("\x00", "\ufffd")
