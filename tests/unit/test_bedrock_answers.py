"""The Bedrock backend: blocks, token reports, errors and pauses in the forms in which Converse gives them."""

from typing import Any

import pytest

from tests.support.bedrock_backend import GOOD, PROMPT, WORDS, Bedrock, answer, error
from tests.unit.scripted_server import Reply, ScriptedServer

REASONING = {"reasoningContent": {"reasoningText": {"text": "hm"}}}
TOOL_USE = {"toolUse": {"toolUseId": "1", "name": "n", "input": {}}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"citationsContent": {"content": [{"text": "as "}, {"text": "said"}], "citations": []}}], "as said"),
        ([{"text": "so: "}, {"citationsContent": {"content": [{"text": "as said"}]}}], "so: as said"),
        ([{"guardContent": {"text": {"text": "guarded"}}}], "guarded"),
        ([{"image": {"format": "png", "source": {"bytes": "aGk="}}}, {"text": "a picture"}], "a picture"),
        ([{"reasoningContent": {"redactedContent": "aGk="}}, {"text": "so"}], "so"),
    ],
)
def test_text_is_read_from_every_kind_of_block(
    server: ScriptedServer, bedrock: Bedrock, content: list[Any], text: str
) -> None:
    server.replies(Reply(body=answer(*content)))
    assert bedrock.complete().output.text == text


@pytest.mark.parametrize(
    ("content", "stop_reason", "finish_reason", "empty_reason"),
    [
        ([TOOL_USE], "tool_use", "tool_calls", "tool_calls"),
        ([TOOL_USE], "end_turn", "tool_calls", "tool_calls"),
        ([REASONING], "max_tokens", "length", "reasoning"),
        ([REASONING], "end_turn", "stop", "reasoning"),
        ([], "guardrail_intervened", "content_filter", "content_filter"),
        ([], "content_filtered", "content_filter", "content_filter"),
        ([], "refusal", "refusal", "refusal"),
        ([], "end_turn", "stop", "nothing"),
        ([{"text": ""}], "max_tokens", "length", "nothing"),
    ],
)
def test_empty_answer_has_a_reason(
    server: ScriptedServer,
    bedrock: Bedrock,
    content: list[Any],
    stop_reason: str,
    finish_reason: str,
    empty_reason: str,
) -> None:
    server.replies(
        Reply(body=answer(output={"message": {"role": "assistant", "content": content}}, stopReason=stop_reason))
    )
    output = bedrock.complete().output
    assert (output.text, output.finish_reason, output.empty_reason) == ("", finish_reason, empty_reason)


def usage(given: int, written: int, total: int, **more: int) -> dict[str, int]:
    return {"inputTokens": given, "outputTokens": written, "totalTokens": total} | more


@pytest.mark.parametrize(
    ("reported", "tokens", "flag"),
    [
        (usage(11, 5, 16), (11, 5), None),
        # Cached tokens are beside inputTokens, and in the total or not.
        (usage(11, 5, 516, cacheReadInputTokens=300, cacheWriteInputTokens=200), (511, 5), None),
        (usage(11, 5, 16, cacheReadInputTokens=300, cacheWriteInputTokens=200), (511, 5), None),
        (usage(0, 5, 305, cacheReadInputTokens=300), (300, 5), None),
        (usage(11, 5, 76), (11, 65), "inconsistent"),
        (usage(11, 0, 11), (11, 5), "estimated"),
        (usage(0, 5, 5), (6, 5), "estimated"),
        (usage(900_000_000, 5, 900_000_005), (len(PROMPT) + 64, 5), "implausible"),
        (usage(11, 900_000_000, 900_000_011), (11, 16), "implausible"),
    ],
)
def test_what_is_booked_and_flagged(
    server: ScriptedServer, bedrock: Bedrock, reported: dict[str, int], tokens: tuple[int, int], flag: str | None
) -> None:
    server.replies(Reply(body=answer(usage=reported)))
    found = bedrock.complete(overhead_tokens=64, parameters={"max_tokens": 16})
    assert (found.prompt_tokens, found.completion_tokens) == tokens
    assert (found.doubt.flag if found.doubt else None) == flag


@pytest.mark.parametrize(
    ("reported", "cached"),
    [
        (usage(11, 5, 16), 0),
        (usage(11, 5, 516, cacheReadInputTokens=300, cacheWriteInputTokens=200), 300),
        (usage(11, 5, 216, cacheWriteInputTokens=200), 0),
        (usage(900_000_000, 5, 900_000_005, cacheReadInputTokens=300), 0),
    ],
)
def test_tokens_read_from_the_cache_are_told_apart(
    server: ScriptedServer, bedrock: Bedrock, reported: dict[str, int], cached: int
) -> None:
    server.replies(Reply(body=answer(usage=reported)))
    found = bedrock.complete()
    # Converse does not tell the tokens of reasoning.
    assert (found.cached_tokens, found.reasoning_tokens) == (cached, 0)


def test_unreadable_answer_tells_its_tokens(server: ScriptedServer, bedrock: Bedrock) -> None:
    server.replies(Reply(body=answer({"text": 5})), GOOD)
    failed = bedrock.failure()
    assert (failed.code, failed.prompt_tokens, failed.completion_tokens) == ("model_bad_response", 11, 5)


@pytest.mark.parametrize(
    ("status", "name", "message", "code"),
    [
        (400, "ValidationException", "The provided model identifier is invalid.", "model_misconfigured"),
        (
            400,
            "ValidationException",
            "Invocation of model ID x with on-demand throughput isn\u2019t supported.",
            "model_misconfigured",
        ),
        (400, "ValidationException", "This model doesn't support the stopSequences field.", "model_rejected"),
        (400, "ValidationException", "Input is too long for requested model.", "context_length_exceeded"),
        (
            400,
            "ValidationException",
            "The maximum tokens you requested exceeds the model limit of 4096.",
            "context_length_exceeded",
        ),
        (400, "ValidationException", "temperature must be at most 1", "model_rejected"),
        (404, "ResourceNotFoundException", "This Model is marked by provider as Legacy.", "model_misconfigured"),
        (404, "ResourceNotFoundException", "Model use case details have not been submitted.", "model_misconfigured"),
        (
            403,
            "AccessDeniedException",
            "You don't have access to the model with the specified model ID.",
            "model_unauthorized",
        ),
        (
            403,
            "AccessDeniedException",
            "Model access is denied due to INVALID_PAYMENT_INSTRUMENT",
            "model_quota_exhausted",
        ),
        (429, "ThrottlingException", "Too many requests, please wait before trying again.", "model_throttled"),
        (
            429,
            "ThrottlingException",
            "Too many tokens per day, please wait before trying again.",
            "model_quota_exhausted",
        ),
        (400, "ServiceQuotaExceededException", "Your request exceeds the service quota.", "model_quota_exhausted"),
        (403, "ExpiredTokenException", "The security token included in the request is expired", "model_unauthorized"),
    ],
)
def test_each_error_has_its_code(
    server: ScriptedServer, bedrock: Bedrock, status: int, name: str, message: str, code: str
) -> None:
    server.replies(error(status, name, message))
    assert bedrock.failure().code == code


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"Retry_After": "300.5"}, WORDS, 300.5),
        ({"retry_after_ms": "1500"}, WORDS, 1.5),
        ({}, "Please retry after 30 seconds.", 30),
        ({"Retry_After": "5"}, "Please try again in 1m0s.", 60),
        ({}, "Too many requests", None),
    ],
)
@pytest.mark.parametrize(("status", "name"), [(429, "ThrottlingException"), (503, "ServiceUnavailableException")])
def test_pause_that_is_asked_for_is_passed_on(
    server: ScriptedServer,
    bedrock: Bedrock,
    headers: dict[str, str],
    message: str,
    seconds: float | None,
    status: int,
    name: str,
) -> None:
    server.replies(error(status, name, message, **headers))
    assert bedrock.failure().retry_after == seconds


def test_request_that_the_sdk_refuses_is_final(server: ScriptedServer, bedrock: Bedrock) -> None:
    failed = bedrock.failure(parameters={"max_tokens": "many"})
    assert (failed.code, failed.is_transient, server.received) == ("model_rejected", False, [])
