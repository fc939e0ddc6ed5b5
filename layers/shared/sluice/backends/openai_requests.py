"""What is sent to a server with OpenAI's API: the bodies of chat completions, embeddings, images and speech.

Only what is set is sent: many servers refuse members that they do not know, also where these are null.
"""

from typing import Any, Final

from sluice.backends.json_text import parsed
from sluice.backends.protocol import ModelError
from sluice.domain.documents import (
    ImageOptions,
    ImagePart,
    Input,
    Message,
    NamedTool,
    Part,
    ResponseFormat,
    TextPart,
    TokensPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from sluice.domain.requests import Claim

# OpenAI's own.
_IMAGES_IN_BASE64: Final = ("gpt-image-", "chatgpt-image-")


def chat_body(claim: Claim) -> dict[str, Any]:
    """The body of POST /chat/completions.

    Raises:
        ModelError: model_rejected, the input is for embeddings, or has a schema that is not JSON.
    """
    asked = claim.input
    return dict(claim.parameters) | _given(
        model=claim.backend_model,
        messages=chat_messages(asked),
        stream=False,
        tools=[_tool(tool) for tool in asked.tools or ()] or None,
        tool_choice=_tool_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=_response_format(asked.response_format),
    )


def embeddings_body(claim: Claim) -> dict[str, Any]:
    """The body of POST /embeddings, which takes none of the sampling parameters.

    Raises:
        ModelError: model_rejected, the input is no list of texts, nor one of token ids; the API takes no mixture.
    """
    parts = [part for message in claim.input.messages for part in message.content]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    tokens = [list(part.tokens) for part in parts if isinstance(part, TokensPart)]
    if len(parts) != len(claim.input.messages) or len(parts) not in (len(texts), len(tokens)):
        raise ModelError("model_rejected")
    return _given(
        model=claim.backend_model,
        input=texts or tokens,
        encoding_format="float",
        dimensions=claim.input.dimensions,
    )


def image_body(claim: Claim) -> dict[str, Any]:
    """The body of POST /images/generations, for one image.

    Raises:
        ModelError: model_rejected, the input is not one text.
    """
    options = claim.input.image or ImageOptions()
    # Most servers answer with a URL otherwise; these models know no other form than this, and refuse the parameter.
    form = None if claim.backend_model.startswith(_IMAGES_IN_BASE64) else "b64_json"
    return _given(model=claim.backend_model, prompt=_single_text(claim), response_format=form, **options.model_dump())


def speech_body(claim: Claim) -> dict[str, Any]:
    """The body of POST /audio/speech.

    Raises:
        ModelError: model_rejected, the input is not one text, or names no voice.
    """
    options = claim.input.speech
    if options is None:
        raise ModelError("model_rejected")
    return _given(model=claim.backend_model, input=_single_text(claim), **options.model_dump())


def _single_text(claim: Claim) -> str:
    text = claim.input.single_text
    if not text:
        raise ModelError("model_rejected")
    return text


def chat_messages(asked: Input) -> list[dict[str, Any]]:
    """The conversation, with the instructions as its first message.

    Raises:
        ModelError: model_rejected, it is no conversation: it has ids of tokens.
    """
    told = [] if asked.instructions is None else [{"role": "system", "content": asked.instructions}]
    return [*told, *(_message(message) for message in asked.messages)]


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _message(message: Message) -> dict[str, Any]:
    calls = [_call(call) for call in message.tool_calls or ()]
    # null only beside calls, where the API wants it.
    content = _content(message.content) or (None if calls else "")
    return {"role": message.role, "content": content} | _given(
        name=message.name, tool_calls=calls or None, tool_call_id=message.tool_call_id
    )


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    """One text where there is nothing else, which every server takes; else a list of parts.

    What a model refused with is a text too: OpenAI has a member and a part for it, which other servers refuse, or leave
    out of what the model reads.
    """
    written = [_part(part) for part in parts]
    if all(part["type"] == "text" for part in written):
        return "".join(part["text"] for part in written)
    return written


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, TokensPart):
        raise ModelError("model_rejected")
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": _given(url=part.url, detail=part.detail)}
    return {"type": "text", "text": part.text}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = None if tool.parameters is None else parsed(tool.parameters)
    function = _given(name=tool.name, description=tool.description, parameters=parameters, strict=tool.strict)
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice | None) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice


def _response_format(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    if wanted.type == "json_object":
        return {"type": wanted.type}
    described = _given(
        # The API wants a name.
        name=wanted.name or "answer",
        description=wanted.description,
        schema=None if wanted.schema_text is None else parsed(wanted.schema_text),
        strict=wanted.strict,
    )
    return {"type": wanted.type, "json_schema": described}
