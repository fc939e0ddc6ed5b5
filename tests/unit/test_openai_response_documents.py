"""Responses: what is asked becomes documents, and a request is shown as OpenAI's clients expect."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sluice.api.openai.response_view import asked_items, response_view
from sluice.api.openai.responses import ResponseRequest
from sluice.domain.documents import (
    ImagePart,
    Input,
    Message,
    NamedTool,
    Output,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputToolCall,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)
from sluice.domain.errors import SluiceError
from sluice.domain.requests import RequestDetail, Submission
from sluice.domain.states import Status
from tests.support.openai_views import DETAIL, REQUEST_ID, completed

CALL_ITEM = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
RESULT_ITEM = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}
CALL = ToolCall(id="call_1", name="look", arguments="{}")
HELLO = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {"zebra": {}, "apple": {}}}
SCHEMA_TEXT = '{"type":"object","properties":{"zebra":{},"apple":{}}}'
GOLDEN = {
    "id": f"resp_{REQUEST_ID.hex}",
    "object": "response",
    "created_at": 1764000000,
    "completed_at": 1764000001,
    "status": "completed",
    "background": True,
    "model": "m",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "previous_response_id": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "reasoning": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_logprobs": 0,
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "user": None,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": f"msg_{REQUEST_ID.hex}0000",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Oslo", "annotations": [], "logprobs": []}],
        }
    ],
    "usage": {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 1,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 2,
    },
}


def asked(given: Any = "hello", items: dict[str, OutputItem] | None = None, **more: Any) -> Submission:
    body = ResponseRequest.model_validate_json(json.dumps({"input": given} | more))
    return body.submission((), (items or {}).get)


def refusal(given: Any, **more: Any) -> tuple[str | None, str]:
    with pytest.raises(SluiceError) as caught:
        asked(given, **more)
    return caught.value.extra["param"], caught.value.detail


def messages(*items: Any, known: dict[str, OutputItem] | None = None) -> tuple[Message, ...]:
    return asked(list(items), known).input.messages


def shown(submission: Submission) -> RequestDetail:
    """The request of a submission, queued."""
    return replace(
        DETAIL,
        input=submission.input,
        parameters=submission.parameters,
        surface=submission.surface,
        metadata=submission.metadata,
    )


def test_a_text_is_a_message() -> None:
    assert asked("hello").input == Input.of_prompt("hello")
    assert messages(HELLO) == messages(HELLO | {"type": "message"}) == Input.of_prompt("hello").messages


def test_items_of_every_kind() -> None:
    assert messages(
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": "https://i.example/1", "detail": "original"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
            "phase": "commentary",
        },
        CALL_ITEM | {"id": "fc_1", "status": "completed"},
        RESULT_ITEM | {"output": [{"type": "input_text", "text": "seen"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "id": "msg_1", "status": "completed"},
    ) == (
        Message(role="system", content=(TextPart(text="be brief"),)),
        Message(
            role="user",
            content=(TextPart(text="a"), ImagePart(type="image", url="https://i.example/1", detail="high")),
        ),
        Message(role="assistant", content=(TextPart(text="Let me see."),), tool_calls=(CALL,)),
        Message(role="tool", content=(TextPart(text="seen"),), tool_call_id="call_1"),
        Message(role="assistant", content=(RefusalPart(type="refusal", text="No."),)),
    )


def test_calls_in_a_row_are_of_one_message() -> None:
    second = CALL.model_copy(update={"id": "call_2"})
    together = messages(
        HELLO, CALL_ITEM, CALL_ITEM | {"call_id": "call_2"}, RESULT_ITEM, RESULT_ITEM | {"call_id": "call_2"}
    )
    assert together[1] == Message(role="assistant", content=(), tool_calls=(CALL, second))
    apart = messages(
        HELLO, CALL_ITEM, RESULT_ITEM, CALL_ITEM | {"call_id": "call_2"}, RESULT_ITEM | {"call_id": "call_2"}
    )
    assert [message.role for message in apart] == ["user", "assistant", "tool", "assistant", "tool"]
    said_after = messages(HELLO, CALL_ITEM, {"role": "assistant", "content": "Let me see."}, RESULT_ITEM)
    assert said_after[1] == Message(role="assistant", content=(TextPart(text="Let me see."),), tool_calls=(CALL,))


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([RESULT_ITEM], "No tool call found"),
        ([CALL_ITEM], "No tool result found"),
        ([CALL_ITEM, HELLO, RESULT_ITEM], "No tool result found"),
        ([CALL_ITEM, CALL_ITEM, RESULT_ITEM], "Two tool calls have the same id"),
        ([CALL_ITEM, RESULT_ITEM, RESULT_ITEM], "No tool call found"),
    ],
)
def test_calls_and_results_that_do_not_match(items: list[Any], why: str) -> None:
    param, message = refusal(items)
    assert param == "input"
    assert message.startswith(why)


def test_items_may_be_named_by_their_ids() -> None:
    known: dict[str, OutputItem] = {
        "msg_1": OutputMessage(content=(TextPart(text="Let me see."), TextPart(text=""))),
        "fc_1": OutputToolCall(id="call_1", name="look", arguments="{}"),
        "rs_1": OutputReasoning(text="Hm."),
    }
    references = [{"type": "item_reference", "id": name} for name in ("rs_1", "msg_1", "fc_1")]
    assert messages(HELLO, *references, RESULT_ITEM, known=known)[1] == Message(
        role="assistant", content=(TextPart(text="Let me see."),), tool_calls=(CALL,)
    )
    with pytest.raises(SluiceError) as caught:
        messages(HELLO, {"type": "item_reference", "id": "msg_2"}, known=known)
    assert caught.value.extra == {"param": "input[1].id", "openai_code": "item_not_found"}


def test_only_reasoning_is_no_input() -> None:
    assert refusal([{"type": "reasoning", "summary": []}]) == ("input", "The input has no message.")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "http://i.example"}]},
            "input[0].content[0].image_url",
        ),
        (
            {"role": "assistant", "content": [{"type": "input_image", "image_url": "https://i.example"}]},
            "input[0].content[0]",
        ),
        (RESULT_ITEM | {"output": [{"type": "input_image", "image_url": "x"}]}, "input[0].output[0].image_url"),
    ],
)
def test_images_that_are_not_taken(item: Any, param: str) -> None:
    assert refusal([item])[0] == param


def test_what_is_not_there_is_refused_by_name() -> None:
    assert refusal("hello", include=["file_search_call.results"])[0] == "include"
    assert refusal("hello", background=True, store=False)[0] == "store"
    asked("hello", include=["reasoning.encrypted_content"], background=True)


def test_tools_formats_and_parameters() -> None:
    given = asked(
        tools=[{"type": "function", "name": "look", "description": "d", "parameters": SCHEMA, "strict": True}],
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "form", "schema": SCHEMA, "strict": False}},
        instructions="be brief",
        max_output_tokens=9,
        temperature=0,
        reasoning={"effort": "low", "summary": "auto"},
        store=False,
        metadata={"a": "b"},
        user="u",
    )
    assert given.input.tools == (Tool(name="look", description="d", parameters=SCHEMA_TEXT, strict=True),)
    assert given.input.tool_choice == NamedTool(name="look")
    assert given.input.instructions == "be brief"
    assert given.input.response_format == ResponseFormat(
        type="json_schema", name="form", schema_text=SCHEMA_TEXT, strict=False
    )
    assert given.parameters == {"max_tokens": 9, "temperature": 0, "reasoning_effort": "low"}
    assert given.surface == {
        "api": "responses",
        "echo": {
            "max_output_tokens": 9,
            "reasoning": {"effort": "low", "summary": "auto"},
            "store": False,
            "user": "u",
        },
    }
    view = response_view(shown(given))
    assert list(view["tools"][0]["parameters"]["properties"]) == ["zebra", "apple"]
    assert list(view["text"]["format"]["schema"]["properties"]) == ["zebra", "apple"]
    names = ("instructions", "max_output_tokens", "temperature", "store", "user", "metadata", "parallel_tool_calls")
    assert {name: view[name] for name in names} == {
        "instructions": "be brief",
        "max_output_tokens": 9,
        "temperature": 0,
        "store": False,
        "user": "u",
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
    }
    assert view["tool_choice"] == {"type": "function", "name": "look"}
    assert view["reasoning"] == {"effort": "low", "summary": "auto"}


def test_tools_that_are_shown_may_be_sent_again() -> None:
    """As agents do that copy a response."""
    given = asked(tools=[{"type": "function", "name": "look"}], text={"format": {"type": "json_object"}})
    view = response_view(shown(given))
    again = asked(tools=view["tools"], text=view["text"], tool_choice=view["tool_choice"])
    assert again.input.tools == (Tool(name="look", strict=True),)
    assert again.input.response_format == ResponseFormat(type="json_object")


# The answer -----------------------------------------------------------------------------------------------------------


def test_a_response_is_the_golden_object() -> None:
    detail = completed(Output.of_text("Oslo", "stop"), surface={"api": "responses", "echo": {"background": True}})
    assert response_view(detail) == GOLDEN
    assert len(GOLDEN) == 32


def test_the_states_of_a_response() -> None:
    def part(**changes: Any) -> dict[str, Any]:
        view = response_view(replace(DETAIL, **changes))
        return {name: view[name] for name in ("status", "error", "completed_at", "output", "usage")}

    empty: dict[str, Any] = {"error": None, "completed_at": None, "output": [], "usage": None}
    assert part() == {"status": "queued"} | empty
    assert part(status=Status.PROCESSING) == {"status": "in_progress"} | empty
    assert part(status=Status.CANCELLED) == {"status": "cancelled"} | empty
    late = {"code": "server_error", "message": "The request was not started in time."}
    assert part(status=Status.EXPIRED) == {"status": "failed"} | empty | {"error": late}
    for code, word in (
        ("model_throttled", "rate_limit_exceeded"),
        ("content_filtered", "invalid_prompt"),
        ("of_a_newer_version", "server_error"),
    ):
        failed = part(status=Status.FAILED, error_code=code, error_message="no")
        assert failed == {"status": "failed"} | empty | {"error": {"code": word, "message": "no"}}


@pytest.mark.parametrize(("reason", "word"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_what_is_cut_short_is_incomplete(reason: Any, word: str) -> None:
    view = response_view(completed(Output.of_text("Os", reason)))
    assert (view["status"], view["incomplete_details"], view["completed_at"]) == ("incomplete", {"reason": word}, None)
    assert view["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "refusal", "other", None])
def test_every_other_end_is_complete(reason: Any) -> None:
    assert response_view(completed(Output.of_text("Oslo", reason)))["status"] == "completed"


def test_items_of_an_answer() -> None:
    answer = Output.of_text("", "tool_calls", reasoning="Hm.", tool_calls=(CALL,))
    assert response_view(completed(answer))["output"] == [
        {
            "id": f"rs_{REQUEST_ID.hex}0001",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
            "status": "completed",
        },
        {"id": f"fc_{REQUEST_ID.hex}0002", **CALL_ITEM, "status": "completed"},
    ]
    refused = response_view(completed(Output.of_text("", "refusal", refusal="No.")))["output"]
    assert refused[0]["content"] == [{"type": "refusal", "refusal": "No."}]
    empty = response_view(completed(Output.of_text("", "stop")))["output"]
    assert empty[0]["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


def test_an_answer_may_be_sent_again_as_it_is() -> None:
    answer = Output.of_text("Let me see.", "tool_calls", reasoning="Hm.", tool_calls=(CALL,))
    items = response_view(completed(answer))["output"]
    assert messages(HELLO, *items, RESULT_ITEM)[1] == Message(
        role="assistant", content=(TextPart(text="Let me see."),), tool_calls=(CALL,)
    )


def test_what_was_asked_is_shown_as_items() -> None:
    given = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://i.example/1", "detail": "auto"}]},
        {"role": "assistant", "content": "Let me see."},
        CALL_ITEM,
        RESULT_ITEM,
    ]
    items = asked_items(shown(asked(given)))
    assert [item.pop("id") for item in items] == [
        f"{prefix}_{REQUEST_ID.hex}{0x8000 + number:04x}" for number, prefix in enumerate(["msg"] * 3 + ["fc"] * 2)
    ]
    assert items == [
        {
            "type": "message",
            "role": "system",
            "status": "completed",
            "content": [{"type": "input_text", "text": "be brief"}],
        },
        {
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_image", "image_url": "https://i.example/1", "detail": "auto", "file_id": None}],
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}],
        },
        CALL_ITEM | {"status": "completed"},
        RESULT_ITEM | {"status": "completed"},
    ]
    assert messages(*items) == asked(given).input.messages, "and may be sent again"
