"""A request as Bedrock's Converse takes it.

Converse is stricter than OpenAI's API: the roles of a conversation alternate, system messages are apart, a tool's
result is something that the user says, and arguments are objects.
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

import hashlib
import re
from typing import Any, Final

from sluice.backends.json_text import parsed
from sluice.backends.protocol import ModelError
from sluice.domain.documents import ImagePart, Input, Message, NamedTool, Part, TokensPart, Tool, ToolCall
from sluice.domain.requests import Claim

_PARAMETERS: Final = {
    "max_tokens": "maxTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
}
_IMAGE_FORMATS: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
# Newer versions of Converse take some characters more.
_TOOL_USE_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# For tools without parameters, and for those of which only the name is known.
_ANY_OBJECT: Final = {"type": "object", "properties": {}}


def converse_request(claim: Claim) -> dict[str, Any]:
    """The arguments of converse().

    Left out is what Converse has no parameter for: seed, frequency_penalty and presence_penalty, parallel_tool_calls,
    how closely an image is to be looked at, the names of participants. A schema for the answer always binds, whether
    it is strict or not.

    Raises:
        ModelError: model_rejected, Converse has no form for it: embeddings, an image that is not in the request or of
            another type than PNG, JPEG, GIF and WebP, an answer of any JSON without a schema, a call of a tool whose
            arguments are no object, a tool that must be called and is not described.
    """
    if claim.kind != "chat":
        raise ModelError("model_rejected")
    asked, given = claim.input, claim.parameters
    request = {
        "modelId": claim.backend_model,
        "messages": _messages(asked),
        "inferenceConfig": {theirs: given[ours] for ours, theirs in _PARAMETERS.items() if ours in given},
        "system": _system(asked),
        "toolConfig": _tools(asked),
        "outputConfig": _output(asked, given.get("reasoning_effort")),
    }
    return {name: value for name, value in request.items() if value or name in ("messages", "inferenceConfig")}


def _system(asked: Input) -> list[dict[str, str]]:
    texts = [asked.instructions, *(message.text for message in asked.messages if message.role == "system")]
    # Converse refuses empty texts, here and below.
    return [{"text": text} for text in texts if text]


def _messages(asked: Input) -> list[dict[str, Any]]:
    """The conversation: neighbours of the same role are one message."""
    messages: list[dict[str, Any]] = []
    for message in asked.messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    return messages


def _blocks(message: Message) -> list[dict[str, Any]]:
    said = [_block(part) for part in message.content if isinstance(part, ImagePart | TokensPart) or part.text]
    if message.role == "tool":
        return [{"toolResult": {"toolUseId": _tool_use_id(message.tool_call_id or ""), "content": said}}]
    return said + [_tool_use(call) for call in message.tool_calls or ()]


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, TokensPart):
        raise ModelError("model_rejected")
    if not isinstance(part, ImagePart):
        return {"text": part.text}
    kind, data = part.inline or ("", b"")
    image_format = _IMAGE_FORMATS.get(kind.lower())
    if not image_format or not data:
        raise ModelError("model_rejected")
    return {"image": {"format": image_format, "source": {"bytes": data}}}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    # A model that calls a tool without arguments may write nothing.
    arguments = parsed(call.arguments) if call.arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise ModelError("model_rejected")
    return {"toolUse": {"toolUseId": _tool_use_id(call.id), "name": call.name, "input": arguments}}


def _tool_use_id(call_id: str) -> str:
    """The id of a call, or where Converse does not take that another one: the same for the call and its result."""
    if _TOOL_USE_ID.fullmatch(call_id):
        return call_id
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def _tools(asked: Input) -> dict[str, Any] | None:
    """The tools, and which of them the model has to call."""
    choice = asked.tool_choice
    is_forced = choice == "required" or isinstance(choice, NamedTool)
    if is_forced and not asked.tools:
        raise ModelError("model_rejected")
    called = [call.name for message in asked.messages for call in message.tool_calls or ()]
    if choice == "none" and not called:
        # Converse has no such choice: the model is not told of the tools.
        return None
    # With calls in the conversation Converse wants their tools, whatever else is asked. Where they are not described
    # any more, their names must do. If the choice is none, the model is still told of the tools, and might call one:
    # the calls as mere text would make it write its own as text, too.
    specs = [_spec(tool) for tool in asked.tools or (Tool(name=name) for name in dict.fromkeys(called))]
    config: dict[str, Any] = {"tools": specs}
    if isinstance(choice, NamedTool):
        config["toolChoice"] = {"tool": {"name": choice.name}}
    elif choice in ("auto", "required"):
        config["toolChoice"] = {"any": {}} if choice == "required" else {"auto": {}}
    return config if specs else None


def _spec(tool: Tool) -> dict[str, Any]:
    schema = _ANY_OBJECT if tool.parameters is None else parsed(tool.parameters)
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": schema}}
    if tool.description:
        spec["description"] = tool.description
    if tool.strict:
        # Not false, which is what Converse does without it: not every model takes the parameter.
        spec["strict"] = True
    return {"toolSpec": spec}


def _output(asked: Input, effort: str | None) -> dict[str, Any]:
    """The form of the answer, and how much to think about it."""
    config: dict[str, Any] = {} if effort is None else {"effort": effort}
    if (wanted := asked.response_format) is None:
        return config
    if wanted.type != "json_schema" or wanted.schema_text is None:
        raise ModelError("model_rejected")
    schema = {"schema": wanted.schema_text, "name": wanted.name, "description": wanted.description}
    structure = {"jsonSchema": {name: text for name, text in schema.items() if text}}
    return config | {"textFormat": {"type": "json_schema", "structure": structure}}
