"""The text in a chat completion, in every form in which OpenAI-compatible servers give it."""

import json
import re
from typing import Any, Final

from sluice.backends.answers import Answer, byte_length

_LAST_EVENT: Final = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)
# Servers nest parts in parts twice at most.
_DEEPEST: Final = 5
_REASONING_FIELDS: Final = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
_MESSAGE_FIELDS: Final = ("role", "content", "refusal", "tool_calls", "function_call", *_REASONING_FIELDS)


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


def joined_stream(payload: bytes) -> Any:
    """A completion from the events of a stream, which some servers send although none is asked for; None if it is none.

    An event that reports an error stands for the whole. A stream that breaks off, with neither a reason why the model
    stopped nor the last event, is none.
    """
    if not payload.lstrip().startswith((b"data:", b"event:", b":")):
        return None
    joined: dict[str, Any] = {}
    choices: list[dict[str, Any]] = []
    for line in payload.decode("utf-8", "replace").splitlines():
        name, _, data = line.partition(":")
        try:
            event = json.loads(data) if name == "data" else None
        except (ValueError, RecursionError):
            # The last one is no JSON.
            continue
        if not isinstance(event, dict):
            continue
        if event.get("error"):
            return event
        joined |= {member: value for member, value in event.items() if value is not None}
        if isinstance(event.get("choices"), list):
            choices += [choice for choice in event["choices"] if isinstance(choice, dict) and not choice.get("index")]
    if choices:
        joined["choices"] = [_joined_choice(choices)]
        if joined["choices"][0]["finish_reason"] is None and _LAST_EVENT.search(payload) is None:
            return None
    return joined


def _joined_choice(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """One choice of the pieces of one: each kind of content is a list of its pieces."""
    pieces = [choice["delta"] for choice in choices if isinstance(choice.get("delta"), dict)]
    message = {
        name: [piece[name] for piece in pieces if piece.get(name)]
        for name in ("content", *_REASONING_FIELDS, "tool_calls", "function_call")
    }
    refusals = [piece["refusal"] for piece in pieces if isinstance(piece.get("refusal"), str)]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    joined = {"finish_reason": reasons[-1] if reasons else None}
    if not pieces and (texts := [choice["text"] for choice in choices if isinstance(choice.get("text"), str)]):
        return joined | {"text": "".join(texts)}
    return joined | {"message": message | {"refusal": "".join(refusals)}}


def _message(message: Any) -> Answer:
    if not isinstance(message, dict) or not any(name in message for name in _MESSAGE_FIELDS):
        raise UnreadableError
    answer = _content(message.get("content"))
    if isinstance(message.get("refusal"), str):
        answer += Answer(refusal=message["refusal"])
    # The same reasoning may be there twice, under the names of two servers.
    reasoning = max((_size(message[name]) for name in _REASONING_FIELDS if message.get(name)), default=0)
    if reasoning:
        answer += Answer(hidden_bytes=reasoning, is_reasoned=True)
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
        return Answer(hidden_bytes=_size(part), is_reasoned=True)
    if "tool" in kind or "function" in kind:
        return Answer(hidden_bytes=_size(part), calls_tools=True)
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


def _size(value: Any) -> int:
    """Bytes of all texts in it."""
    if isinstance(value, str):
        return byte_length(value)
    return byte_length(json.dumps(value, ensure_ascii=False))
