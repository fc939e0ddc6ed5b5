"""Responses as streams: the events that OpenAI's clients expect, the same each time."""

import json
from dataclasses import replace
from typing import Any

from sluice.api.openai.response_view import response_view
from sluice.api.openai.stream import response_stream
from sluice.domain.documents import Output, ToolCall
from sluice.domain.states import Status
from tests.support.openai_views import DETAIL, REQUEST_ID, completed

CALL = ToolCall(id="call_1", name="look", arguments='{"at": "it"}')
OUTPUT = Output.of_text("x" * 4500, "tool_calls", reasoning="Hm.", tool_calls=(CALL,))


def events_of(text: str) -> list[dict[str, Any]]:
    """The events, whose names are their types, without the mark of the end."""
    events = []
    for block in text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def test_the_events_of_an_answer() -> None:
    text = response_stream(completed(OUTPUT))
    events = events_of(text)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        # What it thought.
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        # What it said, in pieces.
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        # What it called.
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert text.endswith("data: [DONE]\n\n")


def test_the_events_add_up_to_the_response() -> None:
    events = events_of(response_stream(completed(OUTPUT)))
    whole = response_view(completed(OUTPUT))
    assert events[-1]["response"] == whole
    assert events[0]["response"] == whole | {"status": "in_progress", "output": [], "usage": None, "completed_at": None}
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == whole["output"]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "x" * 4500
    (arguments,) = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert (arguments["name"], arguments["arguments"], arguments["output_index"]) == ("look", '{"at": "it"}', 2)
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item.get("content", item.get("arguments")) for item in added] == [[], [], ""]
    assert {item["status"] for item in added} == {"in_progress"}
    places = [(e["item_id"], e["output_index"]) for e in events if e["type"].endswith(".delta")]
    assert places == [
        (f"rs_{REQUEST_ID.hex}0001", 0),
        *[(f"msg_{REQUEST_ID.hex}0000", 1)] * 3,
        (f"fc_{REQUEST_ID.hex}0002", 2),
    ]


def test_a_stream_can_be_taken_up_again_anywhere() -> None:
    detail = completed(OUTPUT)
    whole = events_of(response_stream(detail))
    for last_seen in range(-1, len(whole)):
        rest = response_stream(detail, last_seen)
        assert events_of(rest) == whole[last_seen + 1 :]
        assert rest.endswith("data: [DONE]\n\n")


def test_what_has_not_ended_only_begins() -> None:
    for status in (Status.QUEUED, Status.PROCESSING):
        text = response_stream(replace(DETAIL, status=status))
        assert [event["type"] for event in events_of(text)] == ["response.created", "response.in_progress"]
        assert "[DONE]" not in text
        assert events_of(text)[0]["response"]["status"] == "in_progress"


def test_the_last_event_says_how_it_ended() -> None:
    cut = completed(Output.of_text("Os", "length"))
    failed = replace(DETAIL, status=Status.FAILED, error_code="model_rejected", error_message="no")
    ends = {detail.status: events_of(response_stream(detail))[-1] for detail in (cut, failed)}
    assert ends[Status.COMPLETED]["type"] == "response.incomplete"
    assert ends[Status.FAILED]["type"] == "response.failed"
    assert ends[Status.FAILED]["response"]["error"] == {"code": "invalid_prompt", "message": "no"}
    begun = events_of(response_stream(failed))[0]["response"]
    assert (begun["status"], begun["error"]) == ("in_progress", None)


def test_a_refusal_has_events_of_its_own() -> None:
    events = events_of(response_stream(completed(Output.of_text("", "refusal", refusal="No."))))
    (delta,) = [event for event in events if event["type"].endswith(".delta")]
    (done,) = [event for event in events if event["type"] == "response.refusal.done"]
    assert (delta["type"], delta["delta"], done["refusal"]) == ("response.refusal.delta", "No.", "No.")
