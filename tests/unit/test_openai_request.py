"""The OpenAI-compatible backend: what it asks."""

import pytest

from sluice.backends.openai import OpenAIBackend
from tests.support.openai_backend import COMPLETION, GOOD, KEY, MAX_RESULT_BYTES, PATIENT, PROMPT, claim, failure
from tests.unit.scripted_server import ScriptedServer


def test_the_request_is_a_chat_completion(server: ScriptedServer, backend: OpenAIBackend) -> None:
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


def test_a_slash_at_the_end_of_the_endpoint_changes_nothing(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, endpoint=f"{server.url}/v1/"), PATIENT)
    assert server.received[0].path == "/v1/chat/completions"


def test_the_key_comes_from_the_secret(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, secret_arn="arn:key"), PATIENT)
    assert server.received[0].headers["authorization"] == f"Bearer {KEY}"


def test_without_a_secret_no_key_is_sent(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(GOOD)
    backend.complete(claim(server), PATIENT)
    assert "authorization" not in server.received[0].headers


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-sécret-€"])
def test_a_key_that_no_header_can_hold_is_not_shown(server: ScriptedServer, key: str) -> None:
    error = failure(OpenAIBackend(lambda _: key, MAX_RESULT_BYTES), claim(server, secret_arn="arn:key"))
    assert error.code == "model_unauthorized"
    assert key.strip() not in str(error)


@pytest.mark.parametrize("prompt", ['"quoted" \\ and\nbroken', "Grüße, 世界 😀", "x" * 200_000])
def test_any_prompt_arrives_as_it_is(server: ScriptedServer, backend: OpenAIBackend, prompt: str) -> None:
    server.replies(GOOD)
    backend.complete(claim(server, prompt=prompt), PATIENT)
    assert server.received[0].json["messages"][0]["content"] == prompt
