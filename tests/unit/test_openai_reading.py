"""Reading bodies in OpenAI's form: which parameter is at fault, and in which of OpenAI's words."""

import json
from typing import Any

import pytest

from sluice.api.openai import chat, responses
from sluice.api.openai.chat import ChatRequest
from sluice.api.openai.embeddings import EmbeddingRequest
from sluice.api.openai.errors import answer_error, param_of
from sluice.api.openai.reading import read_body
from sluice.api.openai.responses import ResponseRequest
from sluice.domain.errors import SluiceError

HELLO = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "look"}}
LONG = "x" * 5000


def chat_of(**members: Any) -> str:
    return json.dumps({"messages": [HELLO]} | members)


def response_of(**members: Any) -> str:
    return json.dumps({"input": "hello"} | members)


def read_chat(body: str) -> ChatRequest:
    return read_body(ChatRequest, body, chat.UNSUPPORTED)


def read_response(body: str) -> ResponseRequest:
    return read_body(ResponseRequest, body, responses.UNSUPPORTED)


def refused(read: Any, body: str) -> dict[str, Any]:
    """The envelope of an error; it must not repeat the body."""
    with pytest.raises(SluiceError) as caught:
        read(body).submission()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    response = answer_error(caught.value)
    assert response.status_code == 400
    error: dict[str, Any] = json.loads(response.body or "")["error"]
    assert error["type"] == "invalid_request_error"
    assert LONG[:300] not in json.dumps(error)
    return error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "The body must be a JSON object: Expecting value (line 1, column 1)."),
        ("{", "The body must be a JSON object: Expecting property name enclosed in double quotes (line 1, column 2)."),
        ("[]", "The body must be a JSON object."),
        ("null", "The body must be a JSON object."),
        ('"text"', "The body must be a JSON object."),
        ('{"messages": "\\ud800"}', "Some text in the body is not Unicode: it has half of a surrogate pair."),
        ('{"\\udfff": 1}', "Some text in the body is not Unicode: it has half of a surrogate pair."),
        ("[" * 100_000, "The body is nested too deeply."),
        (chat_of(tools="T").replace('"T"', "[" * 500 + "]" * 500), "The body is nested too deeply."),
        ('{"temperature": NaN}', "The body must be a JSON object: it holds a number that is too large, or NaN."),
        ('{"temperature": -Infinity}', "The body must be a JSON object: it holds a number that is too large, or NaN."),
        ('{"temperature": 1e999}', "The body must be a JSON object: it holds a number that is too large, or NaN."),
        (
            '{"seed": ' + "9" * 5000 + "}",
            "The body must be a JSON object: it holds a number that is too large, or NaN.",
        ),
    ],
)
def test_what_is_no_json_object(body: str, message: str) -> None:
    error = refused(read_chat, body)
    assert (error["code"], error["param"], error["message"]) == ("invalid_json", None, message)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ("{}", "messages", "missing_required_parameter"),
        (chat_of(messages=None), "messages", "missing_required_parameter"),
        (chat_of(messages=[]), "messages", "empty_array"),
        (chat_of(messages="hello"), "messages", "invalid_type"),
        (chat_of(messages=[5]), "messages[0]", "invalid_type"),
        (chat_of(messages=[HELLO, {"content": "x"}]), "messages[1].role", "missing_required_parameter"),
        (chat_of(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", "invalid_value"),
        (chat_of(messages=[{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
        (chat_of(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_type"),
        (chat_of(messages=[{"role": "user", "content": []}]), "messages[0].content", "empty_array"),
        (
            chat_of(messages=[{"role": "user", "content": [{"type": "text"}]}]),
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            chat_of(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]),
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (chat_of(messages=[HELLO | {"mood": 1}]), "messages[0].mood", "unknown_parameter"),
        (chat_of(messages=[{"role": "user", "content": "a\0"}]), "messages[0].content", "invalid_value"),
        (chat_of(messages=[{"role": "assistant"}]), "messages[0].content", "invalid_value"),
        (chat_of(model=5), "model", "invalid_type"),
        (chat_of(model="a b"), "model", "invalid_value"),
        (chat_of(model="m" * 256), "model", "string_above_max_length"),
        (chat_of(temperature=3), "temperature", "number_above_max_value"),
        (chat_of(temperature="1"), "temperature", "invalid_type"),
        (chat_of(temperature=True), "temperature", "invalid_type"),
        (chat_of(top_p=0), "top_p", "number_below_min_value"),
        (chat_of(max_tokens=0), "max_tokens", "number_below_min_value"),
        (chat_of(max_tokens=1.5), "max_tokens", "invalid_type"),
        (chat_of(max_tokens=10**30), "max_tokens", "number_above_max_value"),
        (chat_of(seed=2**31), "seed", "number_above_max_value"),
        (chat_of(stop=[]), "stop", "empty_array"),
        (chat_of(stop=["a", "b", "c", "d", "e"]), "stop", "array_above_max_length"),
        (chat_of(stop="\0"), "stop", "invalid_value"),
        (chat_of(metadata={"a": 1}), "metadata.a", "invalid_type"),
        (chat_of(metadata={"a": "\0"}), "metadata.a", "invalid_value"),
        (chat_of(metadata={"a": "b" * 513}), "metadata.a", "string_above_max_length"),
        (chat_of(metadata={str(n): "" for n in range(17)}), "metadata", "array_above_max_length"),
        (chat_of(promt=1), "promt", "unknown_parameter"),
        (chat_of(tools=[{"type": "web_search"}]), "tools[0].type", "invalid_value"),
        (chat_of(tools=[{"type": "function"}]), "tools[0].function", "missing_required_parameter"),
        (
            chat_of(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
            "invalid_value",
        ),
        (chat_of(tools=[TOOL, TOOL]), "tools", "invalid_value"),
        (
            chat_of(tools=[{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]),
            "tools",
            "array_above_max_length",
        ),
        (chat_of(tool_choice="required"), "tool_choice", "invalid_value"),
        (chat_of(tool_choice="any"), "tool_choice", "invalid_value"),
        (
            chat_of(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}}),
            "tool_choice",
            "invalid_value",
        ),
        (chat_of(response_format={"type": "xml"}), "response_format.type", "invalid_value"),
        (
            chat_of(response_format={"type": "json_schema"}),
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            chat_of(
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"a": [{"$ref": "https://elsewhere.example/s"}]}},
                }
            ),
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        (chat_of(max_tokens=1, max_completion_tokens=1), None, "invalid_value"),
    ],
)
def test_the_parameter_at_fault_in_a_chat(body: str, param: str | None, code: str) -> None:
    error = refused(read_chat, body)
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"]
    assert "None" not in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ("{}", "input", "missing_required_parameter"),
        (response_of(input=5), "input", "invalid_type"),
        (response_of(input=[]), "input", "empty_array"),
        (response_of(input=[{"type": "web_search_call"}]), "input[0].type", "invalid_value"),
        (response_of(input=[{"type": []}]), "input[0].type", "invalid_value"),
        (response_of(input=[{"type": {"a": 1}}]), "input[0].type", "invalid_value"),
        (response_of(input=[{"role": "user"}]), "input[0].content", "missing_required_parameter"),
        (response_of(input=[{"role": "robot", "content": "x"}]), "input[0].role", "invalid_value"),
        (
            response_of(input=[{"role": "user", "content": [{"type": "input_file"}]}]),
            "input[0].content[0].type",
            "invalid_value",
        ),
        (
            response_of(input=[{"role": "user", "content": [{"type": "input_image"}]}]),
            "input[0].content[0].image_url",
            "missing_required_parameter",
        ),
        (
            response_of(input=[{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]),
            "input[0].content[0].file_id",
            "invalid_value",
        ),
        (
            response_of(input=[{"type": "function_call_output", "call_id": "c"}]),
            "input[0].output",
            "missing_required_parameter",
        ),
        (response_of(tools=[{"type": "web_search"}]), "tools[0].type", "invalid_value"),
        (response_of(tools=[{"type": "file_search", "vector_store_ids": ["v"]}]), "tools[0].type", "invalid_value"),
        (response_of(text={"format": {"type": "grammar"}}), "text.format.type", "invalid_value"),
        (response_of(text={"verbosity": "low"}), "text.verbosity", "invalid_value"),
        (response_of(reasoning={"effort": "much"}), "reasoning.effort", "invalid_value"),
        (response_of(max_output_tokens=0), "max_output_tokens", "number_below_min_value"),
        (response_of(background="yes"), "background", "invalid_type"),
    ],
)
def test_the_parameter_at_fault_in_a_response(body: str, param: str, code: str) -> None:
    with pytest.raises(SluiceError) as caught:
        read_response(body).submission((), lambda _: None)
    error = json.loads(answer_error(caught.value).body or "")["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ([], "input", "empty_array"),
        ("", "input", "empty_string"),
        (["a", ""], "input[1]", "empty_string"),
        ([1, -1], "input[1]", "number_below_min_value"),
        ([[]], "input[0]", "empty_array"),
        (["a\0"], "input[0]", "invalid_value"),
        (["a"] * 2049, "input", "array_above_max_length"),
        ([True], "input[0]", "invalid_type"),
    ],
)
def test_the_parameter_at_fault_in_embeddings(given: Any, param: str, code: str) -> None:
    error = refused(lambda body: read_body(EmbeddingRequest, body, {}), json.dumps({"input": given}))
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize("name", chat.UNSUPPORTED)
def test_an_unsupported_parameter_of_a_chat_is_named(name: str) -> None:
    error = refused(read_chat, chat_of(**{name: "something else"}))
    assert (error["param"], error["code"], error["sluice_code"]) == (
        name,
        "unsupported_parameter",
        "parameter_unsupported",
    )
    for harmless in (None, *chat.UNSUPPORTED[name]):
        read_chat(chat_of(**{name: harmless})).submission()


@pytest.mark.parametrize("name", responses.UNSUPPORTED)
def test_an_unsupported_parameter_of_a_response_is_named(name: str) -> None:
    with pytest.raises(SluiceError) as caught:
        read_response(response_of(**{name: "something else"}))
    assert caught.value.extra["param"] == name
    for harmless in (None, *responses.UNSUPPORTED[name]):
        read_response(response_of(**{name: harmless})).submission((), lambda _: None)


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("n", True), ("n", 1.0), ("logprobs", 0), ("store", True)])
def test_a_value_that_only_looks_harmless_is_not(name: str, value: Any) -> None:
    assert refused(read_chat, chat_of(**{name: value}))["param"] == name


def test_what_may_be_given_instead_is_told() -> None:
    message = refused(read_chat, chat_of(service_tier="flex"))["message"]
    assert message == ('The parameter \'service_tier\' is not supported here: only "auto" or "default" may be given.')


def test_null_is_as_if_it_were_not_given() -> None:
    names = ("model", "tools", "tool_choice", "temperature", "metadata", "user", "stop", "response_format", "stream")
    assert read_chat(chat_of(**dict.fromkeys(names))).submission() == read_chat(chat_of()).submission()


@pytest.mark.parametrize("body", ['{"messages": [], "messages": []}', '{"metadata": {"messages": "", "messages": ""}}'])
def test_a_member_that_is_given_twice_is_refused(body: str) -> None:
    error = refused(read_chat, body)
    assert (error["message"], error["param"]) == ("The member 'messages' is given twice.", "messages")


def test_zero_bytes_in_a_schema_are_kept_as_what_json_makes_of_them() -> None:
    schema = {"type": "object", "description": "a\0b"}
    asked = read_chat(chat_of(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}]))
    (tool,) = asked.submission().input.tools or ()
    assert "\0" not in (tool.parameters or "")
    assert json.loads(tool.parameters or "") == schema


@pytest.mark.parametrize(
    "body",
    [
        chat_of(**{LONG: 1}),
        chat_of(messages=[HELLO | {LONG: 1}]),
        chat_of(metadata={LONG: 1}),
        '{"' + LONG + '": 1, "' + LONG + '": 1}',
        chat_of(tools=[TOOL], tool_choice=LONG),
        chat_of(messages=[{"role": "tool", "tool_call_id": LONG[:256], "content": LONG}]),
    ],
)
def test_no_error_repeats_a_long_text(body: str) -> None:
    assert len(json.dumps(refused(read_chat, body))) < 1000


def test_paths_are_written_as_openai_does() -> None:
    assert param_of(("messages", 0, "content", 2, "text")) == "messages[0].content[2].text"
    assert param_of(()) is None
    assert param_of(("a", LONG, 1)) == "a." + "x" * 64 + "[1]"
    assert len(param_of(tuple([LONG] * 100)) or "") == 256
