"""The OpenAI-compatible backend: the requests that it sends."""

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.domain.documents import Input, Message, TextPart
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
