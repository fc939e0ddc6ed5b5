"""The OpenAI-compatible backend: tools that are offered, calls of them, and their results."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.calls import read_calls
from sluice.backends.openai import OpenAIBackend
from sluice.backends.parts import UnreadableError, read_choice
from sluice.backends.protocol import ModelError
from sluice.domain.documents import Input, Message, NamedTool, Output, TextPart, Tool, ToolCall, ToolChoice
from tests.support.openai_backend import GOOD, PATIENT, PROMPT, WORDS, answer, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer

ARGUMENTS = '{"b": 1,  "a": 2}'
CALL = ToolCall(id="call_1", name="add", arguments=ARGUMENTS)
SCHEMA = '{"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "integer"}}, "required": ["z"]}'
ASKED = Message(role="user", content=(TextPart(text=PROMPT),))


def sent(server: ScriptedServer, backend: OpenAIBackend, asked: Input) -> dict[str, Any]:
    """The body that is sent for an input."""
    server.replies(GOOD)
    backend.complete(claim(server, input=asked), PATIENT)
    body: dict[str, Any] = server.received[-1].json
    return body


# What is asked --------------------------------------------------------------------------------------------------------


def test_tools_are_offered_with_their_schemas_as_they_were_written(
    server: ScriptedServer, backend: OpenAIBackend
) -> None:
    tools = (
        Tool(name="add", description="Adds.", parameters=SCHEMA, strict=True),
        Tool(name="now"),
    )
    body = sent(server, backend, Input(messages=(ASKED,), tools=tools))
    add, now = body["tools"]
    assert (add["type"], add["function"]["name"], add["function"]["description"]) == ("function", "add", "Adds.")
    assert add["function"]["strict"] is True
    # Dictionaries are equal in any order; texts are not.
    assert json.dumps(add["function"]["parameters"]) == SCHEMA
    assert now == {"type": "function", "function": {"name": "now"}}
    assert "tool_choice" not in body
    assert "parallel_tool_calls" not in body


@pytest.mark.parametrize(
    ("choice", "on_the_wire"),
    [
        ("none", "none"),
        ("auto", "auto"),
        ("required", "required"),
        (NamedTool(name="add"), {"type": "function", "function": {"name": "add"}}),
    ],
)
@pytest.mark.parametrize("in_parallel", [True, False])
def test_choice_of_a_tool_is_passed_on(
    server: ScriptedServer, backend: OpenAIBackend, choice: ToolChoice, on_the_wire: Any, in_parallel: bool
) -> None:
    asked = Input(messages=(ASKED,), tools=(Tool(name="add"),), tool_choice=choice, parallel_tool_calls=in_parallel)
    body = sent(server, backend, asked)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (on_the_wire, in_parallel)


def test_calls_and_their_results_are_part_of_the_conversation(server: ScriptedServer, backend: OpenAIBackend) -> None:
    conversation = (
        ASKED,
        Message(role="assistant", content=(), tool_calls=(CALL,)),
        Message(role="tool", content=(TextPart(text="3"),), tool_call_id="call_1"),
        Message(role="assistant", content=(TextPart(text="Wait."),), tool_calls=(CALL,)),
        Message(role="tool", content=(), tool_call_id="call_1"),
    )
    called = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": ARGUMENTS}}]
    assert sent(server, backend, Input(messages=conversation))["messages"] == [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": None, "tool_calls": called},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "Wait.", "tool_calls": called},
        {"role": "tool", "content": "", "tool_call_id": "call_1"},
    ]


@pytest.mark.parametrize(
    "schema",
    [
        WORDS,
        "",
        "{",
        '{"minimum": NaN}',
        '{"minimum": Infinity}',
        '{"minimum": 1e999}',
        "[" * 101 + "]" * 101,
        "[" * 9999,
    ],
)
def test_schema_that_no_server_would_read_is_refused(
    server: ScriptedServer, backend: OpenAIBackend, schema: str
) -> None:
    asked = Input(messages=(ASKED,), tools=(Tool(name="add", parameters=schema),))
    error = failure(backend, claim(server, input=asked))
    assert (error.code, error.is_transient, server.received) == ("model_rejected", False, [])


# What is answered -----------------------------------------------------------------------------------------------------


def output(server: ScriptedServer, backend: OpenAIBackend, **message: Any) -> Output:
    choice = {"message": {"role": "assistant", "content": None, **message}, "finish_reason": "tool_calls"}
    server.replies(Reply(body=answer(choices=[choice])))
    return backend.complete(claim(server), PATIENT).output


def function(arguments: Any = ARGUMENTS, **changes: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": arguments}} | changes


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ({"tool_calls": [function()]}, ARGUMENTS),
        ({"tool_calls": [function() | {"index": 0}]}, ARGUMENTS),
        ({"tool_calls": function()}, ARGUMENTS),
        # An object, as Ollama's own API has it.
        ({"tool_calls": [function({"b": 1, "a": "ü"})]}, '{"b": 1, "a": "ü"}'),
        # What the model wrote, valid or not.
        ({"tool_calls": [function('{"b": ')]}, '{"b": '),
        ({"tool_calls": [function("")]}, ""),
        ({"tool_calls": [function(None)]}, "{}"),
        ({"tool_calls": [{"id": "call_1", "name": "add", "arguments": ARGUMENTS}]}, ARGUMENTS),
        ({"tool_calls": [{"id": "fc_1", "call_id": "call_1", "name": "add", "arguments": ARGUMENTS}]}, ARGUMENTS),
        ({"content": [{"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}}]}, '{"a": 1}'),
        # Twice.
        ({"tool_calls": [function()], "function_call": {"name": "add", "arguments": ARGUMENTS}}, ARGUMENTS),
        ({"tool_calls": [function()], "content": [{"type": "tool_use", "id": "call_1", "name": "add"}]}, ARGUMENTS),
    ],
)
def test_call_is_read_in_every_form(
    server: ScriptedServer, backend: OpenAIBackend, message: dict[str, Any], arguments: str
) -> None:
    found = output(server, backend, **message)
    expected = (ToolCall(id="call_1", name="add", arguments=arguments),)
    assert found == Output.of_text("", "tool_calls", empty_reason="tool_calls", tool_calls=expected)


def test_calls_keep_their_order_and_their_ids(server: ScriptedServer, backend: OpenAIBackend) -> None:
    # Some servers give the same index to all.
    calls = [function(str(number)) | {"index": 0, "id": f"call_{number}"} for number in range(3)]
    found = output(server, backend, tool_calls=calls).tool_calls
    assert [(call.id, call.arguments) for call in found] == [("call_0", "0"), ("call_1", "1"), ("call_2", "2")]


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [function(id=call_id) for call_id in ("", None, 5)]},
        {"function_call": {"name": "add", "arguments": ARGUMENTS}},
    ],
)
def test_call_without_an_id_gets_one(server: ScriptedServer, backend: OpenAIBackend, message: dict[str, Any]) -> None:
    found = output(server, backend, **message).tool_calls
    assert all(re.fullmatch("call_[0-9a-f]{24}", call.id) for call in found)
    assert len({call.id for call in found}) == len(found)
    assert {(call.name, call.arguments) for call in found} == {("add", ARGUMENTS)}


@pytest.mark.parametrize(
    "calls",
    [
        [{"id": "1"}],
        [None],
        [5],
        ["add"],
        "add",
        {"id": "1"},
        [function(function={"name": ""})],
        [function(function=5)],
    ],
)
def test_call_without_a_name_is_left_out_and_the_answer_says_so(
    server: ScriptedServer, backend: OpenAIBackend, calls: Any
) -> None:
    found = output(server, backend, tool_calls=calls)
    assert found == Output.of_text("", "tool_calls", empty_reason="tool_calls")
    beside = output(server, backend, tool_calls=[function(), *(calls if isinstance(calls, list) else [calls])])
    assert [call.name for call in beside.tool_calls] == ["add"]


def piece(*calls: dict[str, Any], **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": list(calls)} | delta}]}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        # As OpenAI does it.
        (
            [
                piece({"index": 0, "id": "a", "type": "function", "function": {"name": "add", "arguments": ""}}),
                piece({"index": 0, "function": {"arguments": '{"b"'}}),
                piece({"index": 0, "function": {"arguments": ": 1}"}}),
                piece({"index": 1, "id": "b", "type": "function", "function": {"name": "now", "arguments": "{}"}}),
            ],
            [("a", "add", '{"b": 1}'), ("b", "now", "{}")],
        ),
        # By turns, and with id and name in every piece.
        (
            [
                piece({"index": 0, "id": "a", "function": {"name": "add", "arguments": "1"}}),
                piece({"index": 1, "id": "b", "function": {"name": "add", "arguments": "3"}}),
                piece({"index": 0, "id": "a", "function": {"name": "add", "arguments": "2"}}),
                piece({"index": 1, "id": "", "function": {"name": None, "arguments": "4"}}),
            ],
            [("a", "add", "12"), ("b", "add", "34")],
        ),
        # Whole calls, all with the same index, or with none.
        (
            [piece({"index": 0, "id": each, "function": {"name": "add", "arguments": {"a": 1}}}) for each in "ab"],
            [("a", "add", '{"a": 1}'), ("b", "add", '{"a": 1}')],
        ),
        (
            [piece(*({"id": each, "function": {"name": "add", "arguments": each}} for each in "ab"))],
            [("a", "add", "a"), ("b", "add", "b")],
        ),
    ],
)
def test_pieces_of_a_stream_are_joined(
    server: ScriptedServer, backend: OpenAIBackend, pieces: list[Any], expected: list[tuple[str, str, str]]
) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 5}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": usage}
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in [*pieces, end])
    server.replies(Reply(body=body.encode()))
    found = backend.complete(claim(server), PATIENT).output.tool_calls
    assert [(call.id, call.name, call.arguments) for call in found] == expected


def test_pieces_of_the_older_form_are_joined(server: ScriptedServer, backend: OpenAIBackend) -> None:
    deltas = [{"name": "add", "arguments": ""}, {"arguments": '{"b"'}, {"arguments": ": 1}"}]
    pieces = [{"choices": [{"delta": {"function_call": delta}}]} for delta in deltas]
    end = {"choices": [{"finish_reason": "function_call"}], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in [*pieces, end])
    server.replies(Reply(body=body.encode()))
    (found,) = backend.complete(claim(server), PATIENT).output.tool_calls
    assert (found.name, found.arguments) == ("add", '{"b": 1}')


def test_characters_that_no_document_can_hold_are_replaced(server: ScriptedServer, backend: OpenAIBackend) -> None:
    call = {"id": "\x00", "function": {"name": "\ud83d", "arguments": "\udc00"}}
    (found,) = output(server, backend, tool_calls=[call]).tool_calls
    assert (found.id, found.name, found.arguments) == ("\ufffd",) * 3


def test_calls_count_as_written(server: ScriptedServer, backend: OpenAIBackend) -> None:
    choice = {"message": {"tool_calls": [function("x" * 20_000)]}, "finish_reason": "tool_calls"}
    server.replies(Reply(body=answer(choices=[choice], usage={"prompt_tokens": 11, "completion_tokens": 25_000})))
    found = OpenAIBackend(str, 100_000).complete(claim(server), PATIENT)
    assert (found.completion_tokens, found.doubt) == (25_000, None)


def test_calls_nested_too_deep_are_a_bad_response(server: ScriptedServer, backend: OpenAIBackend) -> None:
    # Some that Python just can read, and cannot write again from where it measures them.
    codes = set()
    for depth in (500, *range(900, 1000), 30_000):
        body = json.dumps(answer(choices=[{"message": {"tool_calls": "@"}}]))
        server.replies(Reply(body=body.replace('"@"', "[" * depth + "]" * depth).encode()))
        try:
            codes.add(str(backend.complete(claim(server), PATIENT).output.tool_calls))
        except ModelError as error:
            codes.add(error.code)
    assert codes == {"()", "model_bad_response"}


# Halves of surrogate pairs, too: JSON can escape them.
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "call_id", "index", "name", "function", "arguments", "input", "type", "text"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(VALUES)
def test_whatever_a_server_calls_a_call_is_read_or_left_out(value: Any) -> None:
    calls = read_calls(value)
    kept = Output.of_text("", tool_calls=calls).tool_calls
    assert len(kept) == len(calls)
    assert all(call.id and call.name for call in kept)
    assert Output.model_validate(Output.of_text("", tool_calls=calls).to_json()).tool_calls == kept


@given(
    st.dictionaries(
        st.sampled_from(["content", "tool_calls", "function_call", "reasoning", "reasoning_details", "thinking"]),
        VALUES,
    )
)
def test_whatever_a_server_calls_a_message_is_read_or_unreadable(message: dict[str, Any]) -> None:
    try:
        found = read_choice({"message": message})
    except UnreadableError:
        return
    Output.of_text(found.text, reasoning=found.reasoning, tool_calls=found.tool_calls)
    assert found.calls_tools or not found.tool_calls
    assert found.is_reasoned or not found.reasoning
