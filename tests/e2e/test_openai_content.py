"""What is in a conversation, through OpenAI's clients: calls of tools, images, refusals, answers that are cut short."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.openai_clients import OpenAI, SdkError
from tests.support.scripted_model import ScriptedModel

WEATHER = {
    "name": "weather",
    "description": "The weather of a town.",
    "parameters": {
        "type": "object",
        "properties": {"town": {"type": "string"}},
        "required": ["town"],
        "additionalProperties": False,
    },
    "strict": True,
}
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Oslo"}'}}
CALLS = {"message": {"content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}


def plays(word: str, *turns: dict[str, Any]) -> str:
    """A prompt whose conversation the scripted model answers like this, turn by turn."""
    return json.dumps({"turns": turns, "about": word})


@pytest.fixture
def word() -> str:
    """What a conversation is about, for finding it among what the model was asked."""
    return uuid4().hex


def test_a_tool_in_a_chat(openai: OpenAI, scripted_model: ScriptedModel, word: str) -> None:
    ask: dict[str, Any] = {"model": "scripted", "tools": [{"type": "function", "function": WEATHER}]}
    messages: list[Any] = [{"role": "user", "content": plays(word, CALLS, {"text": "It snows."})}]
    (called,) = openai("chat.completions.create", messages=messages, **ask)["choices"]
    # As most programs do it: the message goes back as it came.
    messages.append({name: value for name, value in called["message"].items() if value is not None})
    messages.append({"role": "tool", "tool_call_id": called["message"]["tool_calls"][0]["id"], "content": "-3, snow"})
    (answered,) = openai("chat.completions.create", messages=messages, **ask)["choices"]

    assert (called["finish_reason"], called["message"]["content"]) == ("tool_calls", None)
    assert called["message"]["tool_calls"] == [CALL]
    assert (answered["finish_reason"], answered["message"]["content"]) == ("stop", "It snows.")
    first, second = scripted_model.asked_about(word)
    assert first["tools"] == second["tools"] == ask["tools"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    assert second["messages"][1]["tool_calls"] == [CALL]
    assert second["messages"][2] == {"role": "tool", "content": "-3, snow", "tool_call_id": "call_1"}


def test_a_tool_in_a_stream(openai: OpenAI, word: str) -> None:
    streamed = openai(
        "chat.completions.stream",
        model="scripted",
        messages=[{"role": "user", "content": plays(word, CALLS)}],
        tools=[{"type": "function", "function": WEATHER}],
    )
    (call,) = streamed["final"]["choices"][0]["message"]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("call_1", "weather")
    assert call["function"]["arguments"] == CALL["function"]["arguments"]  # type: ignore[index]


def test_a_tool_in_responses(openai: OpenAI, scripted_model: ScriptedModel, word: str) -> None:
    ask: dict[str, Any] = {"model": "scripted", "tools": [{"type": "function", **WEATHER}]}
    called = openai("responses.create", input=plays(word, CALLS, {"text": "It snows."}), **ask)
    (call,) = called["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "-3, snow"}
    answered = openai("responses.create", input=[result], previous_response_id=called["id"], **ask)

    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"town": "Oslo"}')
    assert answered["output_text"] == "It snows."
    assert [(tool["name"], tool["strict"]) for tool in answered["tools"]] == [("weather", True)]
    _, second = scripted_model.asked_about(word)
    assert second["messages"][1]["tool_calls"] == [CALL]
    assert second["messages"][2]["content"] == "-3, snow"
    items = openai("responses.input_items.list", response_id=answered["id"], order="asc")
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output"]


def test_a_call_without_its_result_is_refused(openai: OpenAI, word: str) -> None:
    called = openai(
        "responses.create", model="scripted", input=plays(word, CALLS), tools=[{"type": "function", **WEATHER}]
    )
    with pytest.raises(SdkError) as refused:
        openai("responses.create", model="scripted", input="And?", previous_response_id=called["id"])
    assert (refused.value.exception, refused.value.param) == ("BadRequestError", "input")


def test_an_image(openai: OpenAI, scripted_model: ScriptedModel, word: str) -> None:
    script = json.dumps({"text": "A dot.", "about": word})
    chat = [{"type": "text", "text": script}, {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]
    told = [{"type": "input_text", "text": script}, {"type": "input_image", "image_url": PIXEL, "detail": "auto"}]

    one = openai("chat.completions.create", model="seeing", messages=[{"role": "user", "content": chat}])
    two = openai("responses.create", model="seeing", input=[{"role": "user", "content": told}])

    assert one["choices"][0]["message"]["content"] == two["output_text"] == "A dot."
    for asked in scripted_model.asked_about(word):
        text, image = asked["messages"][0]["content"]
        assert text == {"type": "text", "text": script}
        assert image["image_url"]["url"] == PIXEL


def test_an_image_is_not_for_every_model(openai: OpenAI) -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    with pytest.raises(SdkError) as refused:
        openai("chat.completions.create", model="scripted", messages=[{"role": "user", "content": content}])
    assert (refused.value.exception, refused.value.param) == ("BadRequestError", "model")


def test_a_refusal(openai: OpenAI, word: str) -> None:
    script = plays(word, {"message": {"content": None, "refusal": "I would rather not."}})
    (choice,) = openai("chat.completions.create", model="scripted", messages=[{"role": "user", "content": script}])[
        "choices"
    ]
    response = openai("responses.create", model="scripted", input=script)

    assert (choice["message"]["refusal"], choice["message"]["content"]) == ("I would rather not.", None)
    assert choice["finish_reason"] == "stop"
    assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "I would rather not."}]


@pytest.mark.parametrize(
    ("finish_reason", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_is_cut_short(openai: OpenAI, word: str, finish_reason: str, reason: str) -> None:
    script = plays(word, {"text": "Once upon", "finish_reason": finish_reason})
    (choice,) = openai("chat.completions.create", model="scripted", messages=[{"role": "user", "content": script}])[
        "choices"
    ]
    response = openai("responses.create", model="scripted", input=script)

    assert (choice["finish_reason"], choice["message"]["content"]) == (finish_reason, "Once upon")
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert (response["output_text"], response["output"][0]["status"]) == ("Once upon", "incomplete")
    assert response["usage"]["total_tokens"] == 10


def test_tokens_by_class(openai: OpenAI, word: str) -> None:
    usage = {
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    script = plays(word, {"text": "Hm.", "usage": usage})
    chat = openai("chat.completions.create", model="scripted", messages=[{"role": "user", "content": script}])["usage"]
    response = openai("responses.create", model="scripted", input=script)["usage"]

    assert (chat["prompt_tokens"], chat["prompt_tokens_details"]["cached_tokens"]) == (7, 5)
    assert (chat["completion_tokens"], chat["completion_tokens_details"]["reasoning_tokens"]) == (3, 2)
    assert (response["input_tokens"], response["input_tokens_details"]["cached_tokens"]) == (7, 5)
    assert (response["output_tokens"], response["output_tokens_details"]["reasoning_tokens"]) == (3, 2)


def test_what_the_model_thought(openai: OpenAI, word: str) -> None:
    script = plays(word, {"message": {"content": "42", "reasoning_content": "Six times seven."}})
    (choice,) = openai("chat.completions.create", model="scripted", messages=[{"role": "user", "content": script}])[
        "choices"
    ]
    response = openai("responses.create", model="scripted", input=script)

    assert choice["message"]["reasoning_content"] == "Six times seven."
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output_text"] == "42"
