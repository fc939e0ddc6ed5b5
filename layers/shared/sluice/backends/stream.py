"""The events of a stream, which some servers send although none is asked for."""

import json
import re
from typing import Any, Final

from sluice.backends.parts import REASONING_FIELDS

_LAST_EVENT: Final = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)


def joined_stream(payload: bytes) -> Any:
    """A completion from the events of a stream; None if it is none.

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
        for name in ("content", *REASONING_FIELDS, "tool_calls", "function_call")
    }
    # Also where a server gives a call without a list: read_calls() knows pieces by the lists that they are in.
    message["tool_calls"] = [each if isinstance(each, list) else [each] for each in message["tool_calls"]]
    refusals = [piece["refusal"] for piece in pieces if isinstance(piece.get("refusal"), str)]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    joined = {"finish_reason": reasons[-1] if reasons else None}
    if not pieces and (texts := [choice["text"] for choice in choices if isinstance(choice.get("text"), str)]):
        return joined | {"text": "".join(texts)}
    return joined | {"message": message | {"refusal": "".join(refusals)}}
