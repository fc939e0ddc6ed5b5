"""The OpenAI-compatible backend: the forms in which servers give a text, why they stopped, and why there is no text."""

import json
from typing import Any, get_args

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.domain.documents import FinishReason, Output, OutputMessage, ToolCall
from sluice.domain.requests import Completion
from tests.support.openai_backend import PATIENT, WORDS, answer, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer


def output(server: ScriptedServer, backend: OpenAIBackend, choice: Any, **changes: Any) -> Output:
    server.replies(Reply(body=answer(choices=[choice], **changes)))
    return backend.complete(claim(server), PATIENT).output


def message(finish_reason: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", **fields}, "finish_reason": finish_reason}


@pytest.mark.parametrize(
    "content",
    [
        WORDS,
        [{"type": "text", "text": WORDS}],
        [{"type": "text", "text": WORDS[:5]}, {"type": "text", "text": WORDS[5:]}],
        [{"type": "output_text", "text": WORDS, "annotations": []}],
        [{"text": WORDS}],
        [WORDS[:5], {"type": "text", "text": WORDS[5:]}],
        [{"type": "text", "text": {"value": WORDS, "annotations": []}}],
        [{"type": "text", "text": WORDS}, {"type": "reference", "reference_ids": [1]}],
        [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": WORDS}],
        [{"type": "message", "content": [{"type": "output_text", "text": WORDS}]}],
        {"type": "text", "text": WORDS},
        {"text": WORDS},
        {"parts": [{"text": WORDS}]},
        {"role": "assistant", "content": WORDS},
        [None, {"type": "text", "text": WORDS}],
    ],
)
def test_text_is_read_in_every_form(server: ScriptedServer, backend: OpenAIBackend, content: Any) -> None:
    assert output(server, backend, message(content=content)) == Output.of_text(WORDS, "stop")


@pytest.mark.parametrize(
    "choice",
    [
        {"text": WORDS, "finish_reason": "stop"},
        {"message": None, "text": WORDS, "finish_reason": "stop"},
        {"delta": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"},
        message(content=WORDS, reasoning_content=None, refusal=None, tool_calls=None, audio=None),
    ],
)
def test_choice_is_read_in_every_form(server: ScriptedServer, backend: OpenAIBackend, choice: dict[str, Any]) -> None:
    assert output(server, backend, choice) == Output.of_text(WORDS, "stop")


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]},
        {
            "reasoning_details": [
                {"type": "reasoning.encrypted", "data": "c2VjcmV0"},
                {"type": "reasoning.text", "text": "hm"},
            ]
        },
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        # Twice, under two names.
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": WORDS}]},
        {"content": [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": WORDS}]},
        {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, {"text": WORDS}]},
    ],
)
def test_reasoning_is_kept_apart(server: ScriptedServer, backend: OpenAIBackend, fields: dict[str, Any]) -> None:
    assert output(server, backend, message(**{"content": WORDS} | fields)) == Output.of_text(
        WORDS, "stop", reasoning="hm"
    )


def test_reasoning_that_is_no_text_is_not_kept(server: ScriptedServer, backend: OpenAIBackend) -> None:
    encrypted = message(content=None, reasoning_details=[{"type": "reasoning.encrypted", "data": "c2VjcmV0"}])
    assert output(server, backend, encrypted) == Output.of_text("", "stop", empty_reason="reasoning")


def stream(*events: Any) -> Reply:
    lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}" for event in events]
    body = ": processing\n\n" + "\n\n".join([*lines, "data: [DONE]", ""])
    return Reply(body=body.encode(), headers={"Content-Type": "text/event-stream"})


def piece(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": None}


USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


@pytest.mark.parametrize(
    ("events", "output"),
    [
        (
            [piece(role="assistant", content=""), piece(content=WORDS[:5]), piece(content=WORDS[5:]), piece("length")],
            Output.of_text(WORDS, "length"),
        ),
        (
            [piece(reasoning_content="h"), piece(reasoning_content="m"), piece("length")],
            Output.of_text("", "length", empty_reason="reasoning", reasoning="hm"),
        ),
        (
            [piece(refusal="I "), piece(refusal="cannot."), piece("stop")],
            Output.of_text("", "refusal", refusal="I cannot."),
        ),
        ([{"choices": [{"text": WORDS[:5]}]}, {"choices": [{"text": WORDS[5:]}]}], Output.of_text(WORDS)),
    ],
)
def test_stream_that_nobody_asked_for_is_read(
    server: ScriptedServer, backend: OpenAIBackend, events: list[Any], output: Output
) -> None:
    server.replies(stream(*events, {"choices": [], "usage": USAGE}))
    assert backend.complete(claim(server), PATIENT) == Completion(output, 11, 5)


def test_stream_with_an_error_or_without_an_end(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(
        stream(piece(content=WORDS), {"error": {"code": 429, "message": WORDS}}),
        stream(piece(content=WORDS)),
        stream("{", "5"),
        Reply(body=b"data: {}\n\n"),
        Reply(body=b"data: " + json.dumps(piece(content=WORDS) | {"usage": USAGE}).encode() + b'\n\ndata: {"cho'),
    )
    codes = [failure(backend, claim(server)).code for _ in range(5)]
    assert codes == ["model_throttled", "model_usage_missing", *["model_bad_response"] * 3]


def test_a_stream_that_breaks_off_is_no_answer_at_all(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(Reply(body=b"data: " + json.dumps(piece(content=WORDS) | {"usage": USAGE}).encode() + b"\n\n"))
    error = failure(backend, claim(server))
    assert (error.code, error.is_transient, error.is_answer, error.prompt_tokens) == (
        "model_bad_response",
        True,
        False,
        None,
    )


def test_an_answer_that_ended_before_it_began_has_a_reason(server: ScriptedServer, backend: OpenAIBackend) -> None:
    filtered = {"finish_reason": "content_filter", "content_filter_results": {"hate": {"filtered": True}}}
    assert output(server, backend, filtered) == Output.of_text("", "content_filter", empty_reason="content_filter")


# Why it stopped -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *((reason, reason) for reason in get_args(FinishReason)),
        ("STOP", "stop"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("COMPLETE", "stop"),
        ("max_length", "length"),
        ("model_length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("max-tokens", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("content_filtered", "content_filter"),
        ("function_call", "tool_calls"),
        ("tool_use", "tool_calls"),
        ("something_new", "other"),
        (5, "other"),
        (["stop"], "other"),
        ({"reason": "stop"}, "other"),
        ("", None),
        (None, None),
    ],
)
def test_finish_reason_is_in_the_words_of_openai(
    server: ScriptedServer, backend: OpenAIBackend, given: Any, kept: FinishReason | None
) -> None:
    assert output(server, backend, message(given, content=WORDS)).finish_reason == kept


def test_finish_reason_may_be_missing(server: ScriptedServer, backend: OpenAIBackend) -> None:
    assert output(server, backend, {"message": {"content": WORDS}}) == Output.of_text(WORDS)


@pytest.mark.parametrize("reason", ["error", "ERROR", "abort", "insufficient_system_resource", "network_error"])
def test_answer_that_the_provider_broke_off_is_none(
    server: ScriptedServer, backend: OpenAIBackend, reason: str
) -> None:
    server.replies(Reply(body=answer(choices=[message(reason, content=WORDS)])))
    error = failure(backend, claim(server))
    assert (error.code, error.is_transient) == ("model_unavailable", True)
    # Its tokens are charged by the provider all the same.
    assert (error.prompt_tokens, error.completion_tokens) == (11, 5)


# Why there is no text -------------------------------------------------------------------------------------------------

TOOL_CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("choice", "finish_reason", "empty_reason"),
    [
        (message("tool_calls", content=None, tool_calls=TOOL_CALLS), "tool_calls", "tool_calls"),
        (message("stop", content=None, tool_calls=TOOL_CALLS), "tool_calls", "tool_calls"),
        (message("function_call", content=None, function_call={"name": "f", "arguments": "{}"}), *["tool_calls"] * 2),
        (message("tool_use", content=[{"type": "tool_use", "id": "1", "name": "f", "input": {}}]), *["tool_calls"] * 2),
        (message("content_filter", content=None), "content_filter", "content_filter"),
        (message("content_filter", content=""), "content_filter", "content_filter"),
        (message("length", content=None, reasoning_content="hm"), "length", "reasoning"),
        (message("length", content="", reasoning="hm"), "length", "reasoning"),
        (message("stop", content=None, thinking="hm"), "stop", "reasoning"),
        (message("length", content=[{"type": "thinking", "thinking": "hm"}]), "length", "reasoning"),
        (
            message("length", content=None, reasoning_details=[{"type": "reasoning.text", "text": "hm"}]),
            "length",
            "reasoning",
        ),
        (message("stop", content=None), "stop", "nothing"),
        (message("stop", content=""), "stop", "nothing"),
        (message("stop", content=[]), "stop", "nothing"),
        (message("stop"), "stop", "nothing"),
        (message("length", content=""), "length", "nothing"),
        (message("refusal", content=None), "refusal", "refusal"),
        (message(None, content=None, refusal=""), None, "nothing"),
        ({"text": "", "finish_reason": "length"}, "length", "nothing"),
    ],
)
def test_empty_answer_has_a_reason(
    server: ScriptedServer, backend: OpenAIBackend, choice: dict[str, Any], finish_reason: str, empty_reason: str
) -> None:
    found = output(server, backend, choice)
    assert (found.text, found.finish_reason, found.empty_reason) == ("", finish_reason, empty_reason)


@pytest.mark.parametrize(
    ("choice", "text", "finish_reason"),
    [
        (message("stop", content=None, refusal="I cannot."), "I cannot.", "refusal"),
        (message("stop", content="", refusal="I cannot."), "I cannot.", "refusal"),
        (message(None, content=None, refusal="I cannot."), "I cannot.", "refusal"),
        (message("stop", content=[{"type": "refusal", "refusal": "I cannot."}]), "I cannot.", "refusal"),
        (message("content_filter", content=None, refusal="I cannot."), "I cannot.", "content_filter"),
        (message("length", content=None, refusal="I can"), "I can", "length"),
        (message("stop", content="Well. ", refusal="I cannot."), "Well. I cannot.", "refusal"),
    ],
)
def test_refusal_is_the_result_and_is_told_apart(
    server: ScriptedServer, backend: OpenAIBackend, choice: dict[str, Any], text: str, finish_reason: str
) -> None:
    found = output(server, backend, choice)
    assert (found.text, found.finish_reason, found.empty_reason) == (text, finish_reason, None)
    (said,) = found.items
    assert isinstance(said, OutputMessage)
    assert said.content[-1].type == "refusal"


def test_text_beside_tool_calls_is_the_result(server: ScriptedServer, backend: OpenAIBackend) -> None:
    found = output(server, backend, message("tool_calls", content=WORDS, tool_calls=TOOL_CALLS))
    assert found == Output.of_text(WORDS, "tool_calls", tool_calls=(ToolCall(id="1", name="f", arguments="{}"),))
    # The text was what it wanted to say.
    assert output(server, backend, message("stop", content=WORDS, tool_calls=TOOL_CALLS)).finish_reason == "stop"


@pytest.mark.parametrize("choices", [[], [None], [{}], [{"message": {}}], [{"message": 5}], {}, None])
def test_answer_without_a_readable_choice_tells_its_tokens(
    server: ScriptedServer, backend: OpenAIBackend, choices: Any
) -> None:
    server.replies(Reply(body=answer(choices=choices)))
    error = failure(backend, claim(server))
    assert (error.code, error.prompt_tokens, error.completion_tokens) == ("model_bad_response", 11, 5)
