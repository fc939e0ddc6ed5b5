"""The Bedrock backend: the real SDK against a server that answers as Converse does, or otherwise."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError

from sluice.backends.bedrock import BedrockBackend
from sluice.backends.protocol import ModelError
from sluice.domain.documents import FinishReason, Input, Message, TextPart
from sluice.domain.requests import Completion
from tests.support.bedrock_backend import (
    CLAIM,
    COMPLETION,
    GOOD,
    PATIENT,
    PROMPT,
    WORDS,
    Bedrock,
    answer,
    bedrock_at,
    error,
)
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer, head


def test_request_is_a_converse_call_with_the_prompt(server: ScriptedServer, bedrock: Bedrock) -> None:
    server.replies(GOOD)
    assert bedrock.complete() == COMPLETION
    (asked,) = server.received
    assert asked.path == "/model/eu.amazon.nova-lite-v1%3A0/converse"
    assert asked.json == {"messages": [{"role": "user", "content": [{"text": PROMPT}]}], "inferenceConfig": {}}
    assert asked.headers["authorization"].startswith("AWS4-HMAC-SHA256 ")


def test_parameters_have_the_names_of_converse(server: ScriptedServer, bedrock: Bedrock) -> None:
    server.replies(GOOD, GOOD)
    bedrock.complete(parameters={"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "seed": 3})
    bedrock.complete(parameters={"max_tokens": 7})
    everything, one = (request.json["inferenceConfig"] for request in server.received)
    # Converse has no seed, and refuses unknown parameters.
    assert everything == {"maxTokens": 7, "temperature": 0.5, "topP": 0.9, "stopSequences": ["a", "b"]}
    assert one == {"maxTokens": 7}


def test_client_has_the_time_limit_of_the_model(server: ScriptedServer, bedrock: Bedrock) -> None:
    server.replies(GOOD, GOOD)
    bedrock.complete(timeout_seconds=20)
    bedrock.complete(timeout_seconds=40)
    assert bedrock.limits == [20, 40]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"text": "one "}, {"text": "answer"}], "one answer"),
        ([{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": "so"}], "so"),
        ([{"text": "a"}, {"toolUse": {"toolUseId": "1", "name": "n", "input": {}}}, {"text": "b"}], "ab"),
        # A kind of block that this SDK does not know yet.
        ([{"hologram": {"depth": 3}}, {"text": "flat"}], "flat"),
        ([{"text": ""}], ""),
        ([{"text": "Grüße 😀 \x00"}], "Grüße 😀 \x00"),
    ],
)
def test_answer_is_the_text_of_all_blocks(
    server: ScriptedServer, bedrock: Bedrock, content: list[Any], text: str
) -> None:
    server.replies(Reply(body=answer(*content)))
    found, expected = bedrock.complete(), Completion.of_text(text, 11, 5, "stop")
    # Beside it there may be reasoning and calls.
    assert found.output.items[0] == expected.output.items[0]
    assert replace(found, output=expected.output) == expected
    assert (found.output.finish_reason, found.output.empty_reason) == ("stop", expected.output.empty_reason)


def test_answer_without_blocks_is_empty(server: ScriptedServer, bedrock: Bedrock) -> None:
    server.replies(Reply(body=answer(output={"message": {"role": "assistant", "content": []}})))
    assert bedrock.complete().output.text == ""


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("content_filtered", "content_filter"),
        ("guardrail_intervened", "content_filter"),
        ("tool_use", "tool_calls"),
        ("model_context_window_exceeded", "length"),
        ("malformed_model_output", "other"),
        ("something_new", "other"),
        # A word of another API.
        ("length", "length"),
        ("", None),
        (None, None),
        (5, "other"),
        ({"reason": "end_turn"}, "other"),
    ],
)
def test_stop_reason_is_kept_as_finish_reason(
    server: ScriptedServer, bedrock: Bedrock, stop_reason: Any, finish_reason: FinishReason | None
) -> None:
    server.replies(Reply(body=answer(stopReason=stop_reason)))
    assert bedrock.complete() == Completion.of_text(WORDS, 11, 5, finish_reason)


def test_conversation_keeps_its_order_and_system_messages_are_separate(
    server: ScriptedServer, bedrock: Bedrock
) -> None:
    server.replies(GOOD)
    bedrock.complete(
        input=Input(
            messages=(
                Message(role="system", content=(TextPart(text="be "), TextPart(text="brief"))),
                Message(role="user", content=(TextPart(text="one"), TextPart(text="two"))),
                Message(role="assistant", content=(TextPart(text="three"),)),
                Message(role="user", content=(TextPart(text="four"),)),
            )
        )
    )
    (asked,) = server.received
    assert asked.json["system"] == [{"text": "be brief"}]
    assert asked.json["messages"] == [
        {"role": "user", "content": [{"text": "one"}, {"text": "two"}]},
        {"role": "assistant", "content": [{"text": "three"}]},
        {"role": "user", "content": [{"text": "four"}]},
    ]


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "name", "code"),
    [
        # As the API reference pairs them.
        (429, "ThrottlingException", "model_throttled"),
        (400, "ServiceQuotaExceededException", "model_quota_exhausted"),
        (408, "ModelTimeoutException", "model_timeout"),
        (429, "ModelNotReadyException", "model_unavailable"),
        (503, "ServiceUnavailableException", "model_unavailable"),
        (500, "InternalServerException", "model_unavailable"),
        (424, "ModelErrorException", "model_unavailable"),
        (403, "AccessDeniedException", "model_unauthorized"),
        (403, "UnrecognizedClientException", "model_unauthorized"),
        (403, "ExpiredTokenException", "model_unauthorized"),
        (404, "ResourceNotFoundException", "model_misconfigured"),
        (400, "ValidationException", "model_rejected"),
        # Unknown names: the status decides.
        (403, "InvalidSignatureException", "model_unauthorized"),
        (401, "SomethingNew", "model_unauthorized"),
        (429, "SomethingNew", "model_throttled"),
        (408, "SomethingNew", "model_timeout"),
        (400, "SomethingNew", "model_rejected"),
        (418, "SomethingNew", "model_rejected"),
        (500, "SomethingNew", "model_unavailable"),
        (502, "SomethingNew", "model_unavailable"),
        (504, "SomethingNew", "model_timeout"),
        (400, "", "model_rejected"),
        (503, "", "model_unavailable"),
    ],
)
def test_each_error_has_a_code(server: ScriptedServer, bedrock: Bedrock, status: int, name: str, code: str) -> None:
    server.replies(error(status, name), GOOD)
    assert bedrock.failure().code == code
    assert bedrock.complete() == COMPLETION


def test_call_is_not_repeated(server: ScriptedServer, bedrock: Bedrock) -> None:
    # PostgreSQL decides whether there is another attempt.
    server.replies(error(429, "ThrottlingException"), GOOD)
    bedrock.failure()
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [400, 404, 500, 503])
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"\xff\xfe", b"[]", b"null", b"5", b"[" * 100_000])
def test_errors_of_unknown_form_are_model_errors(
    server: ScriptedServer, bedrock: Bedrock, status: int, body: bytes
) -> None:
    server.replies(Reply(status, body), GOOD)
    expected = {400: "model_rejected", 404: "model_misconfigured"}.get(status, "model_unavailable")
    assert bedrock.failure().code in {expected, "model_bad_response"}
    assert bedrock.complete() == COMPLETION


# No answer, and answers of another form --------------------------------------------------------------------------------


def test_refused_connection_is_an_outage() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with bedrock_at(f"http://127.0.0.1:{reserved.getsockname()[1]}") as nowhere:
            assert nowhere.failure().code == "model_unavailable"


def test_missing_credentials_are_the_operators_fault() -> None:
    def client(_: int) -> Any:
        raise NoCredentialsError

    with pytest.raises(ModelError) as caught:
        BedrockBackend(client).complete(CLAIM, PATIENT)
    assert caught.value.code == "model_unauthorized"


def never(exchange: Exchange) -> None:
    exchange.wait()


def half_a_body(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": "100"}) + b"{")
    exchange.wait()


@pytest.mark.parametrize("reply", [never, half_a_body])
def test_missing_answer_is_a_timeout_and_the_next_call_works(
    server: ScriptedServer, bedrock: Bedrock, reply: Callable[[Exchange], None]
) -> None:
    server.replies(reply, GOOD)
    bedrock.read_timeout = 0.2
    assert bedrock.failure().code == "model_timeout"
    bedrock.read_timeout = None
    assert bedrock.complete() == COMPLETION


def closed_at_once(exchange: Exchange) -> None:
    exchange.hang_up()


def closed_midway(exchange: Exchange) -> None:
    exchange.write(head(200, {"Content-Length": "100"}) + b'{"output":')
    exchange.hang_up()


@pytest.mark.parametrize(
    ("reply", "code"), [(closed_at_once, "model_unavailable"), (closed_midway, "model_bad_response")]
)
def test_broken_connection_is_transient_and_the_next_call_works(
    server: ScriptedServer, bedrock: Bedrock, reply: Callable[[Exchange], None], code: str
) -> None:
    server.replies(reply, GOOD)
    error = bedrock.failure()
    assert error.code == code
    assert error.is_transient
    assert bedrock.complete() == COMPLETION


NOT_BLOCKS: list[Any] = [None, 5, WORDS, {"text": WORDS}, [5], [[]], ["text"], [{"text": 5}], [{"text": None}]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"null",
        b"5",
        b'"output"',
        b"[]",
        b"{}",
        b"[" * 100_000,
        *(
            json.dumps(body).encode()
            for body in (
                {"output": []},
                {"output": {}},
                {"output": {"message": 5}},
                {"output": {"message": {"role": "assistant"}}},
                *(answer(output={"message": {"content": content}}) for content in NOT_BLOCKS),
                answer(usage=[]),
                answer(usage=7),
                answer(usage="7"),
            )
        ),
    ],
)
def test_answer_of_another_form_is_a_bad_response(server: ScriptedServer, bedrock: Bedrock, body: bytes) -> None:
    server.replies(Reply(body=body), GOOD)
    assert bedrock.failure().code == "model_bad_response"
    assert bedrock.complete() == COMPLETION


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"totalTokens": 16},
        {"inputTokens": 11},
        {"outputTokens": 5},
        {"inputTokens": None, "outputTokens": 5},
        {"inputTokens": -1, "outputTokens": 5},
        {"inputTokens": 11, "outputTokens": -1},
    ],
)
def test_answer_without_valid_token_counts_is_an_error(server: ScriptedServer, bedrock: Bedrock, usage: Any) -> None:
    server.replies(Reply(body=answer(usage=usage)))
    error = bedrock.failure()
    assert error.code == "model_usage_missing"
    # Another call would cost again, and its answer would lack the counts too.
    assert not error.is_transient
