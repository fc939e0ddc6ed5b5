"""What a model wrote in a chat completion, in every form in which OpenAI-compatible servers give it."""

import json
from dataclasses import replace
from typing import Any, Final

from sluice.backends.answers import Answer, byte_length
from sluice.backends.calls import read_calls

# Servers nest parts in parts twice at most.
_DEEPEST: Final = 5
# The pieces of a stream are a list around that.
_DEEPEST_THOUGHT: Final = 8
REASONING_FIELDS: Final = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
_MESSAGE_FIELDS: Final = ("role", "content", "refusal", "tool_calls", "function_call", *REASONING_FIELDS)


class UnreadableError(Exception):
    """There is content, but in no known form."""


def read_choice(choice: Any) -> Answer:
    """What the model wrote, in a member of `choices`.

    Raises:
        UnreadableError: it is in no known form.
    """
    if not isinstance(choice, dict):
        raise UnreadableError
    # Some servers send the pieces of a stream, whether one is asked for or not.
    for name in ("message", "delta"):
        if choice.get(name) is not None:
            return _message(choice[name])
    if isinstance(choice.get("text"), str):
        return Answer(choice["text"])
    if choice.get("finish_reason") and not choice.keys() & {"message", "delta", "text"}:
        # It ended before anything was written, as some content filters have it.
        return Answer()
    raise UnreadableError


def _message(message: Any) -> Answer:
    if not isinstance(message, dict) or not any(name in message for name in _MESSAGE_FIELDS):
        raise UnreadableError
    answer = _content(message.get("content"))
    if isinstance(message.get("refusal"), str):
        answer += Answer(refusal=message["refusal"])
    # The same reasoning may be there twice, under the names of two servers.
    if thoughts := [message[name] for name in REASONING_FIELDS if message.get(name)]:
        answer += Answer(
            hidden_bytes=max(_size(thought) for thought in thoughts),
            is_reasoned=True,
            reasoning=max((_thought(thought) for thought in thoughts), key=len),
        )
    # So may the calls.
    calls = read_calls(message.get("tool_calls")) or read_calls([message.get("function_call")])
    if calls:
        answer = replace(answer, tool_calls=calls)
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            answer += Answer(hidden_bytes=_size(message[name]), calls_tools=True)
    return answer


def _content(content: Any, depth: int = 0) -> Answer:
    if content is None:
        return Answer()
    if isinstance(content, str):
        return Answer(content)
    if depth < _DEEPEST and isinstance(content, list):
        return sum((_content(part, depth + 1) for part in content), Answer())
    if depth < _DEEPEST and isinstance(content, dict):
        return _part(content, depth + 1)
    raise UnreadableError


def _part(part: dict[str, Any], depth: int) -> Answer:
    kind = part.get("type")
    kind = kind if isinstance(kind, str) else ""
    if "think" in kind or "reason" in kind:
        return Answer(hidden_bytes=_size(part), is_reasoned=True, reasoning=_thought(part))
    if "tool" in kind or "function" in kind:
        return Answer(hidden_bytes=_size(part), calls_tools=True, tool_calls=read_calls(part))
    if kind == "refusal" or (not kind and isinstance(part.get("refusal"), str)):
        said = part.get("refusal", part.get("text"))
        return Answer(refusal=said if isinstance(said, str) else "")
    for name in ("text", "content", "parts", "value"):
        if name in part:
            return _content(part[name], depth)
    if kind:
        # An image, a reference and the like: no text.
        return Answer(hidden_bytes=_size(part))
    raise UnreadableError


def _thought(value: Any, depth: int = 0) -> str:
    """The text of what a model thought; empty where it is encrypted, for example."""
    if isinstance(value, str):
        return value
    if depth < _DEEPEST_THOUGHT and isinstance(value, list):
        return "".join(_thought(each, depth + 1) for each in value)
    if depth < _DEEPEST_THOUGHT and isinstance(value, dict):
        members = (value.get(name) for name in ("text", "thinking", "reasoning", "summary", "content"))
        return next((text for member in members if (text := _thought(member, depth + 1))), "")
    return ""


def _size(value: Any) -> int:
    """Bytes of all texts in it."""
    if isinstance(value, str):
        return byte_length(value)
    return byte_length(json.dumps(value, ensure_ascii=False))
