"""Answers as event streams: made of the stored answer and sent whole, since an HTTP API cannot stream.

The same answer makes the same events each time, so a stream can be taken up again where it broke off.
"""

import json
from collections.abc import Iterator
from typing import Any

from sluice.api.openai.chat import chat_usage, chat_view, finish_word
from sluice.api.openai.response_view import response_view
from sluice.domain.requests import RequestDetail

_DONE = "data: [DONE]\n\n"
# The text of an event: a client that shows an answer as it comes in has something to show.
_PIECE = 2000

Event = dict[str, Any]


def chat_stream(detail: RequestDetail, *, with_usage: bool) -> str:
    """A chat completion as its chunks."""
    whole = chat_view(detail)
    message = whole["choices"][0]["message"]
    head = {name: whole[name] for name in ("id", "created", "model", "service_tier", "system_fingerprint")}
    head["object"] = "chat.completion.chunk"
    if with_usage:
        head["usage"] = None
    deltas: list[Event] = [{"role": "assistant", "content": "" if message["content"] is not None else None}]
    for name in ("reasoning_content", "refusal", "content"):
        deltas += [{name: piece} for piece in _pieces(message.get(name) or "")]
    deltas += [{"tool_calls": [{"index": index, **call}]} for index, call in enumerate(message.get("tool_calls", ()))]
    chunks = [head | {"choices": [_choice(delta, None)]} for delta in deltas]
    chunks.append(head | {"choices": [_choice({}, finish_word(detail))]})
    if with_usage:
        chunks.append(head | {"choices": [], "usage": chat_usage(detail)})
    return "".join(f"data: {_json(chunk)}\n\n" for chunk in chunks) + _DONE


def _choice(delta: Event, finish_reason: str | None) -> Event:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def response_stream(detail: RequestDetail, starting_after: int = -1) -> str:
    """A response as its events.

    Args:
        starting_after: only events with a higher sequence number.
    """
    events = [event | {"sequence_number": number} for number, event in enumerate(_response_events(detail))]
    wanted = [event for event in events if event["sequence_number"] > starting_after]
    text = "".join(f"event: {event['type']}\ndata: {_json(event)}\n\n" for event in wanted)
    return text + _DONE if detail.status.is_final else text


def _response_events(detail: RequestDetail) -> Iterator[Event]:
    whole = response_view(detail)
    begun = whole | {"status": "in_progress", "output": [], "usage": None, "completed_at": None}
    begun |= {"error": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    if not detail.status.is_final:
        # Its client takes the stream up again after these.
        return
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        empty: Event = {"content": []} if "content" in item else {"arguments": ""}
        yield {
            "type": "response.output_item.added",
            "output_index": index,
            "item": item | empty | {"status": "in_progress"},
        }
        if item["type"] == "function_call":
            for piece in _pieces(item["arguments"]):
                yield place | {"type": "response.function_call_arguments.delta", "delta": piece}
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield place | {"type": "response.function_call_arguments.done"} | done
        for number, part in enumerate(item.get("content", ())):
            yield from _part_events(place | {"content_index": number}, part)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


_PARTS: dict[str, tuple[str, str, Event]] = {
    "output_text": ("response.output_text", "text", {"logprobs": []}),
    "refusal": ("response.refusal", "refusal", {}),
    "reasoning_text": ("response.reasoning_text", "text", {}),
}


def _part_events(place: Event, part: Event) -> Iterator[Event]:
    name, member, extra = _PARTS[part["type"]]
    yield place | {"type": "response.content_part.added", "part": part | {member: ""}}
    for piece in _pieces(part[member]):
        yield place | {"type": f"{name}.delta", "delta": piece} | extra
    yield place | {"type": f"{name}.done", member: part[member]} | extra
    yield place | {"type": "response.content_part.done", "part": part}


def _pieces(text: str) -> list[str]:
    return [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # Some clients end a line at these, too.
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
