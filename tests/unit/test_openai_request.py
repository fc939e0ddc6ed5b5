"""The OpenAI-compatible backend: the requests that it sends."""

import json
from typing import Any

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.domain.documents import ImagePart, Input, Message, RefusalPart, ResponseFormat, TextPart
from tests.support.openai_backend import COMPLETION, GOOD, KEY, MAX_RESULT_BYTES, PATIENT, PROMPT, claim, failure
from tests.unit.scripted_server import ScriptedServer


def test_request_is_a_chat_completion(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    assert backend.complete(claim(server), PATIENT) == COMPLETION
    (asked,) = server.received
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.headers["content-type"] == "application/json"
    assert asked.json == {
        "model": "org/small-1b",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": False,
        "max_tokens": 7,
        "temperature": 0.5,
        "stop": ["\n"],
        "seed": 3,
    }


def test_slash_at_the_end_of_the_endpoint_is_ignored(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, endpoint=f"{server.url}/v1/"), PATIENT)
    assert server.received[0].path == "/v1/chat/completions"


def test_key_is_read_from_the_secret(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, secret_arn="arn:key"), PATIENT)
    assert server.received[0].headers["authorization"] == f"Bearer {KEY}"


def test_without_a_secret_no_key_is_sent(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server), PATIENT)
    assert "authorization" not in server.received[0].headers


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-sécret-€"])
def test_key_that_does_not_fit_a_header_is_not_shown(server: ScriptedServer, key: str) -> None:
    error = failure(OpenAIBackend(lambda _: key, MAX_RESULT_BYTES), claim(server, secret_arn="arn:key"))
    assert error.code == "model_unauthorized"
    assert key.strip() not in str(error)


@pytest.mark.parametrize("prompt", ['"quoted" \\ and\nbroken', "Grüße, 世界 😀", "x" * 200_000])
def test_any_prompt_is_sent_unchanged(server: ScriptedServer, backend: OpenAIBackend, prompt: str) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, input=Input.of_prompt(prompt)), PATIENT)
    assert server.received[0].json["messages"][0]["content"] == prompt


def test_conversation_is_sent_in_order(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    conversation = Input(
        messages=(
            Message(role="system", content=(TextPart(text="be "), TextPart(text="brief"))),
            Message(role="user", content=(TextPart(text="one"),)),
            Message(role="assistant", content=(TextPart(text="two"),)),
        )
    )
    backend.complete(claim(server, input=conversation), PATIENT)
    assert server.received[0].json["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
    ]


ASKED = Message(role="user", content=(TextPart(text=PROMPT),))
PIXELS = "data:image/png;base64,cGl4ZWxz"
SCHEMA = '{"type": "object", "properties": {"z": {}, "a": {}}}'


def sent(server: ScriptedServer, backend: OpenAIBackend, asked: Input) -> dict[str, Any]:
    """The body that is sent for an input."""
    server.replies(GOOD)
    backend.complete(claim(server, input=asked), PATIENT)
    body: dict[str, Any] = server.received[-1].json
    return body


def test_instructions_are_the_first_system_message(server: ScriptedServer, backend: OpenAIBackend) -> None:
    system = Message(role="system", content=(TextPart(text="be brief"),))
    body = sent(server, backend, Input(messages=(system, ASKED), instructions="be kind"))
    assert body["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": PROMPT},
    ]


def test_images_make_the_content_a_list_of_parts(server: ScriptedServer, backend: OpenAIBackend) -> None:
    content = (
        TextPart(text=PROMPT),
        ImagePart(type="image", url=PIXELS),
        ImagePart(type="image", url="https://example.com/a.png", detail="low"),
    )
    body = sent(server, backend, Input(messages=(Message(role="user", content=content, name="alice"),)))
    (message,) = body["messages"]
    assert message["content"] == [
        {"type": "text", "text": PROMPT},
        {"type": "image_url", "image_url": {"url": PIXELS}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    ]
    assert message["name"] == "alice"


def test_refusal_is_sent_as_what_was_said(server: ScriptedServer, backend: OpenAIBackend) -> None:
    refused = Message(role="assistant", content=(TextPart(text="Well. "), RefusalPart(type="refusal", text="No.")))
    body = sent(server, backend, Input(messages=(ASKED, refused, ASKED)))
    assert body["messages"][1] == {"role": "assistant", "content": "Well. No."}


def test_answer_may_have_to_be_json(server: ScriptedServer, backend: OpenAIBackend) -> None:
    asked = Input(messages=(ASKED,), response_format=ResponseFormat(type="json_object"))
    assert sent(server, backend, asked)["response_format"] == {"type": "json_object"}


def test_answer_may_have_to_match_a_schema(server: ScriptedServer, backend: OpenAIBackend) -> None:
    form = ResponseFormat(type="json_schema", name="sum", description="A sum.", schema_text=SCHEMA, strict=True)
    wanted = sent(server, backend, Input(messages=(ASKED,), response_format=form))["response_format"]
    # Dictionaries are equal in any order; texts are not.
    assert json.dumps(wanted["json_schema"].pop("schema")) == SCHEMA
    assert wanted == {"type": "json_schema", "json_schema": {"name": "sum", "description": "A sum.", "strict": True}}
    bare = ResponseFormat(type="json_schema", schema_text="{}")
    wanted = sent(server, backend, Input(messages=(ASKED,), response_format=bare))["response_format"]
    assert wanted["json_schema"] == {"name": "answer", "schema": {}}


def test_schema_that_is_not_json_is_refused(server: ScriptedServer, backend: OpenAIBackend) -> None:
    form = ResponseFormat(type="json_schema", name="sum", schema_text=f"{{{PROMPT}")
    error = failure(backend, claim(server, input=Input(messages=(ASKED,), response_format=form)))
    assert (error.code, server.received) == ("model_rejected", [])


def test_parameters_are_sent_as_they_are(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    parameters = {"max_tokens": 7, "top_p": 0.5, "frequency_penalty": -1.5, "presence_penalty": 2}
    backend.complete(claim(server, parameters=parameters | {"reasoning_effort": "low"}), PATIENT)
    assert server.received[0].json.items() >= (parameters | {"reasoning_effort": "low"}).items()
