"""Chat completions: what is asked becomes documents, and the answer is what OpenAI's clients expect."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from sluice.api.openai.chat import ChatRequest, chat_view
from sluice.api.openai.stream import chat_stream
from sluice.domain.documents import (
    ImagePart,
    Message,
    NamedTool,
    Output,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)
from sluice.domain.errors import SluiceError
from sluice.domain.requests import Submission
from tests.support.openai_views import DETAIL, REQUEST_ID, completed

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"b":1,"a":2}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "seen"}
HELLO = {"role": "user", "content": "hello"}
SCHEMA = {
    "type": "object",
    "properties": {"zebra": {"type": "string"}, "apple": {"type": "integer"}},
    "required": ["zebra"],
}
SCHEMA_TEXT = (
    '{"type":"object","properties":{"zebra":{"type":"string"},"apple":{"type":"integer"}},"required":["zebra"]}'
)
PIXEL = base64.b64encode(b"\x89PNG").decode()


def asked(*messages: Any, **more: Any) -> Submission:
    return ChatRequest.model_validate({"messages": list(messages) or [HELLO]} | more).submission()


def refusal(*messages: Any, **more: Any) -> tuple[str | None, str]:
    """The parameter at fault, and the message."""
    with pytest.raises(SluiceError) as caught:
        asked(*messages, **more)
    return caught.value.extra["param"], caught.value.detail


def test_messages_of_every_role() -> None:
    given = asked(
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "and kind"}], "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL], "refusal": None, "annotations": []},
        RESULT,
        {"role": "assistant", "content": "", "refusal": "No."},
    )
    assert given.input.messages == (
        Message(role="system", content=(TextPart(text="be brief"),)),
        Message(role="system", content=(TextPart(text="and kind"),), name="boss"),
        Message(role="user", content=(TextPart(text="a"), TextPart(text="b"))),
        Message(
            role="assistant",
            content=(TextPart(text="Let me see."),),
            tool_calls=(ToolCall(id="call_1", name="look", arguments='{"b":1,"a":2}'),),
        ),
        Message(role="tool", content=(TextPart(text="seen"),), tool_call_id="call_1"),
        Message(role="assistant", content=(TextPart(text=""), RefusalPart(type="refusal", text="No."))),
    )
    assert given.surface == {"api": "chat"}
    assert (given.model, given.kind, given.metadata) == (None, None, None)


def test_tools_and_formats_keep_the_order_of_their_schemas() -> None:
    function = {"name": "look", "description": "d", "parameters": SCHEMA, "strict": True}
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": SCHEMA, "strict": True}}
    given = asked(
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=False,
        response_format=form,
    ).input
    assert given.tools == (Tool(name="look", description="d", parameters=SCHEMA_TEXT, strict=True),)
    assert given.tool_choice == NamedTool(name="look")
    assert given.parallel_tool_calls is False
    assert given.response_format == ResponseFormat(
        type="json_schema", name="form", schema_text=SCHEMA_TEXT, strict=True
    )
    assert asked(response_format={"type": "text"}).input.response_format is None
    assert asked(response_format={"type": "json_object"}).input.response_format == ResponseFormat(type="json_object")


def test_parameters_are_those_that_were_given() -> None:
    given = {
        "temperature": 0,
        "top_p": 1,
        "frequency_penalty": -2,
        "presence_penalty": 2,
        "seed": 0,
        "reasoning_effort": "minimal",
    }
    assert asked(**given, stop="END", max_completion_tokens=9).parameters == given | {"stop": ["END"], "max_tokens": 9}
    assert asked(max_tokens=9).parameters == {"max_tokens": 9}
    assert asked().parameters == {}


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([RESULT], "No tool call found"),
        ([HELLO, {"role": "assistant", "tool_calls": [CALL]}], "No tool result found"),
        ([{"role": "assistant", "tool_calls": [CALL]}, HELLO, RESULT], "No tool result found"),
        ([{"role": "assistant", "tool_calls": [CALL]}, RESULT, RESULT], "No tool call found"),
        ([{"role": "assistant", "tool_calls": [CALL, CALL]}, RESULT, RESULT], "Two tool calls have the same id"),
        ([{"role": "assistant", "tool_calls": [CALL]}, RESULT | {"tool_call_id": "call_2"}], "No tool call found"),
    ],
)
def test_calls_and_results_that_do_not_match(messages: list[Any], why: str) -> None:
    param, message = refusal(*messages)
    assert param == "messages"
    assert message.startswith(why)


def test_calls_and_results_that_match() -> None:
    two = [CALL, CALL | {"id": "call_2"}]
    results = [RESULT | {"tool_call_id": "call_2"}, RESULT]
    assert len(asked(HELLO, {"role": "assistant", "tool_calls": two}, *results).input.messages) == 4
    assert len(asked({"role": "assistant", "tool_calls": [CALL]}, RESULT, HELLO).input.messages) == 3


def image(url: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url} | more}]}


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example/1.png?x=1",
        f"data:image/png;base64,{PIXEL}",
        f"data:image/webp;base64,{PIXEL}",
    ],
)
def test_images_that_are_taken(url: str) -> None:
    assert asked(image(url, detail="high")).input.messages[0].content == (
        ImagePart(type="image", url=url, detail="high"),
    )


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://images.example/1.png", "invalid_image_url"),
        ("https://", "invalid_image_url"),
        ("https://[", "invalid_image_url"),
        ("ftp://images.example/1.png", "invalid_image_url"),
        ("", "invalid_image_url"),
        ("https://images.example/" + "x" * 2048, "invalid_image_url"),
        (f"data:text/html;base64,{PIXEL}", "invalid_image_url"),
        (f"data:image/svg+xml;base64,{PIXEL}", "invalid_image_url"),
        (f"data:image/png,{PIXEL}", "invalid_image_url"),
        ("data:image/png;base64,***", "invalid_image_url"),
        ("data:image/png;base64,abc", "invalid_image_url"),
        ("data:image/png;base64," + "AAAA" * 1_333_334, "image_too_large"),
    ],
)
def test_images_that_are_not(url: str, code: str) -> None:
    with pytest.raises(SluiceError) as caught:
        asked(image(url))
    assert caught.value.extra == {"param": "messages[0].content[0].image_url.url", "openai_code": code}
    assert "AAAA" not in caught.value.detail


@pytest.mark.parametrize(
    "url", ["https://images.example/\0", "https://images.example/a b", "https://images.example/\n"]
)
def test_an_address_is_of_printable_characters(url: str) -> None:
    with pytest.raises((ValueError, SluiceError), match=r"image_url|An image is given"):
        asked(image(url))


# The answer -----------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_golden_object() -> None:
    assert chat_view(completed(Output.of_text("Oslo", "stop"))) == {
        "id": f"chatcmpl-{REQUEST_ID.hex}",
        "object": "chat.completion",
        "created": 1764000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Oslo", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "total_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }


def test_calls_come_back_as_they_may_be_sent_again() -> None:
    call = ToolCall(id="call_1", name="look", arguments='{"b":1,"a":2}')
    answer = Output.of_text("", "tool_calls", reasoning="Hm.", tool_calls=(call,), empty_reason="tool_calls")
    (choice,) = chat_view(completed(answer))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "tool_calls": [CALL],
        "reasoning_content": "Hm.",
    }
    assert asked(HELLO, choice["message"], RESULT).input.messages[1].tool_calls == (call,)


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("refusal", "stop"),
        ("other", "stop"),
        (None, "stop"),
    ],
)
def test_why_a_model_stopped_in_openais_words(reason: Any, word: str) -> None:
    assert chat_view(completed(Output.of_text("x", reason)))["choices"][0]["finish_reason"] == word
    called = Output.of_text("", reason, tool_calls=(ToolCall(id="1", name="f", arguments="{}"),))
    expected = "tool_calls" if reason in ("stop", "other", None) else word
    assert chat_view(completed(called))["choices"][0]["finish_reason"] == expected


def test_a_refusal_is_in_its_own_member() -> None:
    message = chat_view(completed(Output.of_text("", "refusal", refusal="No.")))["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "No.")
    empty = chat_view(completed(Output.of_text("", "stop")))["choices"][0]["message"]
    assert (empty["content"], empty["refusal"]) == ("", None)


# Streams --------------------------------------------------------------------------------------------------------------


def chunks(output: Output, *, with_usage: bool = False) -> list[dict[str, Any]]:
    *events, done, end = chat_stream(completed(output), with_usage=with_usage).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_chunks_add_up_to_the_answer() -> None:
    text = "é\u2028\n" * 3000
    call = ToolCall(id="call_1", name="look", arguments='{"b":1,"a":2}')
    made = chunks(Output.of_text(text, "stop", reasoning="Hm.", tool_calls=(call,)))
    deltas = [chunk["choices"][0]["delta"] for chunk in made]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["Hm."]
    assert [delta["tool_calls"] for delta in deltas if "tool_calls" in delta] == [[{"index": 0} | CALL]]
    assert [chunk["choices"][0]["finish_reason"] for chunk in made] == [None] * (len(made) - 1) + ["tool_calls"]
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in made} == {
        (f"chatcmpl-{REQUEST_ID.hex}", "chat.completion.chunk", 1764000000, "m")
    }
    assert not any("usage" in chunk for chunk in made)


def test_the_last_chunk_has_the_usage_if_it_is_asked_for() -> None:
    *made, last = chunks(Output.of_text("x", "stop"), with_usage=True)
    assert all(chunk["usage"] is None for chunk in made)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 2)


def test_lines_end_only_where_events_do() -> None:
    """Some clients split at every character that Unicode calls an end of line."""
    text = chat_stream(completed(Output.of_text("a\x85b\u2028c\u2029d\x0be\x1cf", "stop")), with_usage=False)
    assert text.splitlines() == text.split("\n")[:-1]


def test_tokens_that_are_known_in_detail_are_shown() -> None:
    detail = replace(completed(Output.of_text("x")), cached_tokens=4, reasoning_tokens=5)
    usage = chat_view(detail)["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 5}
    assert chat_view(DETAIL)["usage"]["total_tokens"] == 0
