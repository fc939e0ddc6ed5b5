"""The Bedrock backend: tools that are offered, calls of them, and their results, as Converse takes and gives them."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.bedrock import BedrockBackend
from sluice.backends.protocol import ModelError
from sluice.domain.documents import Input, Message, NamedTool, Output, TextPart, Tool, ToolCall, ToolChoice
from tests.support.bedrock_backend import CLAIM, GOOD, PATIENT, PROMPT, WORDS, Bedrock, answer
from tests.unit.scripted_server import Reply, ScriptedServer

ASKED = Message(role="user", content=(TextPart(text=PROMPT),))
SCHEMA = '{"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "integer"}}, "required": ["z"]}'
ADD = Tool(name="add", description="Adds.", parameters=SCHEMA)
EMPTY = {"json": {"type": "object", "properties": {}}}


def said(role: Any, text: str = "", **changes: Any) -> Message:
    return Message(role=role, content=(TextPart(text=text),), **changes)


def call(arguments: str = '{"a": 1}', call_id: str = "call_1") -> ToolCall:
    return ToolCall(id=call_id, name="add", arguments=arguments)


def sent(server: ScriptedServer, bedrock: Bedrock, *messages: Message, **changes: Any) -> dict[str, Any]:
    """The body that is sent for an input."""
    server.replies(GOOD)
    bedrock.complete(input=Input(messages=messages or (ASKED,), **changes))
    body: dict[str, Any] = server.received[-1].json
    return body


# What is asked --------------------------------------------------------------------------------------------------------


def test_tools_are_offered_with_their_schemas_as_they_were_written(server: ScriptedServer, bedrock: Bedrock) -> None:
    strict = Tool(name="now", description="", strict=True)
    offered = sent(server, bedrock, tools=(ADD, strict, Tool(name="later", strict=False)))["toolConfig"]
    add, now, later = (tool["toolSpec"] for tool in offered["tools"])
    assert (add["name"], add["description"]) == ("add", "Adds.")
    # Dictionaries are equal in any order; texts are not.
    assert json.dumps(add["inputSchema"]["json"]) == SCHEMA
    assert now == {"name": "now", "inputSchema": EMPTY, "strict": True}
    assert later == {"name": "later", "inputSchema": EMPTY}
    assert "toolChoice" not in offered


@pytest.mark.parametrize(
    ("choice", "on_the_wire"),
    [("auto", {"auto": {}}), ("required", {"any": {}}), (NamedTool(name="add"), {"tool": {"name": "add"}})],
)
def test_choice_of_a_tool_is_passed_on(
    server: ScriptedServer, bedrock: Bedrock, choice: ToolChoice, on_the_wire: Any
) -> None:
    body = sent(server, bedrock, tools=(ADD,), tool_choice=choice, parallel_tool_calls=False)
    assert body["toolConfig"]["toolChoice"] == on_the_wire


def test_without_a_choice_the_model_is_not_told_of_tools(server: ScriptedServer, bedrock: Bedrock) -> None:
    assert "toolConfig" not in sent(server, bedrock, tools=(ADD,), tool_choice="none")
    assert "toolConfig" not in sent(server, bedrock, tool_choice="auto")


CALLED = (ASKED, said("assistant", tool_calls=(call(),)), said("tool", "3", tool_call_id="call_1"))


@pytest.mark.parametrize("choice", ["none", "auto", None])
def test_calls_in_the_conversation_want_their_tools(
    server: ScriptedServer, bedrock: Bedrock, choice: ToolChoice | None
) -> None:
    known = sent(server, bedrock, *CALLED, tools=(ADD,), tool_choice=choice)["toolConfig"]
    assert known["tools"][0]["toolSpec"]["description"] == "Adds."
    # Described no more.
    unknown = sent(server, bedrock, *CALLED, *CALLED, tool_choice=choice)["toolConfig"]
    assert unknown["tools"] == [{"toolSpec": {"name": "add", "inputSchema": EMPTY}}]
    assert known.get("toolChoice") == unknown.get("toolChoice") == ({"auto": {}} if choice == "auto" else None)


@pytest.mark.parametrize("choice", ["required", NamedTool(name="add")])
@pytest.mark.parametrize("messages", [(ASKED,), CALLED])
def test_call_of_a_tool_that_is_not_described_cannot_be_demanded(
    server: ScriptedServer, bedrock: Bedrock, choice: ToolChoice, messages: tuple[Message, ...]
) -> None:
    error = bedrock.failure(input=Input(messages=messages, tool_choice=choice))
    assert (error.code, server.received) == ("model_rejected", [])


def test_calls_and_results_are_blocks_and_roles_alternate(server: ScriptedServer, bedrock: Bedrock) -> None:
    body = sent(
        server,
        bedrock,
        ASKED,
        said("assistant", "Wait.", tool_calls=(call(), call("", "call_2"))),
        said("tool", "3", tool_call_id="call_1"),
        said("tool", "", tool_call_id="call_2"),
        said("user", "And?"),
    )
    assert body["messages"] == [
        {"role": "user", "content": [{"text": PROMPT}]},
        {
            "role": "assistant",
            "content": [
                {"text": "Wait."},
                {"toolUse": {"toolUseId": "call_1", "name": "add", "input": {"a": 1}}},
                {"toolUse": {"toolUseId": "call_2", "name": "add", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "call_1", "content": [{"text": "3"}]}},
                {"toolResult": {"toolUseId": "call_2", "content": []}},
                {"text": "And?"},
            ],
        },
    ]


@pytest.mark.parametrize("call_id", ["a b", "call:1", "ü", "x" * 65, ""])
def test_ids_that_converse_refuses_are_replaced_alike(server: ScriptedServer, bedrock: Bedrock, call_id: str) -> None:
    body = sent(
        server,
        bedrock,
        ASKED,
        said("assistant", tool_calls=(call(call_id=call_id), call(call_id="other id"))),
        said("tool", "3", tool_call_id=call_id),
    )
    first, other = (block["toolUse"]["toolUseId"] for block in body["messages"][1]["content"])
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", first)
    assert first != other
    assert body["messages"][2]["content"][0]["toolResult"]["toolUseId"] == first


@pytest.mark.parametrize(
    "arguments", [WORDS, "{", "[]", "5", "null", '"{}"', '{"a": NaN}', '{"a":' * 200 + "1" + "}" * 200]
)
def test_arguments_that_are_no_object_are_refused(server: ScriptedServer, bedrock: Bedrock, arguments: str) -> None:
    asked = Input(messages=(ASKED, said("assistant", tool_calls=(call(arguments),))), tools=(ADD,))
    error = bedrock.failure(input=asked)
    assert (error.code, error.is_transient, server.received) == ("model_rejected", False, [])


@pytest.mark.parametrize("schema", [WORDS, "", "{", "[" * 9999])
def test_schema_that_is_not_json_is_refused(server: ScriptedServer, bedrock: Bedrock, schema: str) -> None:
    error = bedrock.failure(input=Input(messages=(ASKED,), tools=(Tool(name="add", parameters=schema),)))
    assert (error.code, server.received) == ("model_rejected", [])


# What is answered -----------------------------------------------------------------------------------------------------


def use(**changes: Any) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": "tooluse_1", "name": "add", "input": {"b": 1, "a": "ü"}} | changes}


def test_calls_and_reasoning_are_kept(server: ScriptedServer, bedrock: Bedrock) -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "c2ln"}}}
    server.replies(Reply(body=answer(thought, {"text": WORDS}, use(), stopReason="tool_use")))
    expected = ToolCall(id="tooluse_1", name="add", arguments='{"b": 1, "a": "ü"}')
    assert bedrock.complete().output == Output.of_text(WORDS, "tool_calls", reasoning="hm", tool_calls=(expected,))


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [({"input": {}}, "{}"), ({"input": []}, "[]"), ({"input": '{"a": '}, '{"a": '), ({"input": 5}, "5")],
)
def test_arguments_are_json(server: ScriptedServer, bedrock: Bedrock, changes: dict[str, Any], arguments: str) -> None:
    server.replies(Reply(body=answer(use(**changes), stopReason="tool_use")))
    (found,) = bedrock.complete().output.tool_calls
    assert (found.id, found.name, found.arguments) == ("tooluse_1", "add", arguments)


def test_call_without_an_id_gets_one_and_without_a_name_is_left_out(server: ScriptedServer, bedrock: Bedrock) -> None:
    server.replies(Reply(body=answer({"toolUse": {"name": "add"}}, {"toolUse": {"toolUseId": "1", "input": {}}})))
    output = bedrock.complete().output
    (found,) = output.tool_calls
    assert re.fullmatch("call_[0-9a-f]{24}", found.id)
    assert (found.name, found.arguments, output.empty_reason) == ("add", "{}", "tool_calls")


@pytest.mark.parametrize("block", [use(name=5), use(toolUseId=[1])])
def test_call_of_another_form_is_a_bad_response(
    server: ScriptedServer, bedrock: Bedrock, block: dict[str, Any]
) -> None:
    server.replies(Reply(body=answer(block)))
    error = bedrock.failure()
    assert (error.code, error.prompt_tokens, error.completion_tokens) == ("model_bad_response", 11, 5)


@pytest.mark.parametrize("found", [5, WORDS, [use()]])
def test_call_that_the_sdk_cannot_read_is_a_bad_response(server: ScriptedServer, bedrock: Bedrock, found: Any) -> None:
    server.replies(Reply(body=answer({"toolUse": found})))
    assert bedrock.failure().code == "model_bad_response"


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
USES = VALUES | st.fixed_dictionaries({}, optional={"toolUseId": VALUES, "name": VALUES, "input": VALUES})


@given(st.lists(st.fixed_dictionaries({"toolUse": USES}), max_size=3))
def test_whatever_is_called_a_call_is_kept_or_a_bad_response(content: list[Any]) -> None:
    class Client:
        def converse(self, **_: Any) -> Any:
            return answer(output={"message": {"content": content}})

    try:
        found = BedrockBackend(lambda _: Client()).complete(CLAIM, PATIENT).output
    except ModelError as error:
        codes = {error.code}
    else:
        codes = set()
        assert len(found.tool_calls) <= len(content)
        assert all(each.id and each.name for each in found.tool_calls)
    assert codes <= {"model_bad_response"}
