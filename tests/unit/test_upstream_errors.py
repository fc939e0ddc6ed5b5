"""Whose fault a model's error is: each kind of error, as real servers report it, has its code."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.openai import OpenAIBackend
from sluice.backends.upstream import http_failure
from sluice.domain.failures import FAILURES
from tests.support.openai_backend import COMPLETION, PATIENT, PROMPT, WORDS, answer, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer


def error(**members: Any) -> dict[str, Any]:
    return {"error": {"message": f"{WORDS}: {PROMPT}"} | members}


OPENAI_QUOTA = error(
    message="You exceeded your current quota, please check your plan and billing details.",
    type="insufficient_quota",
    param=None,
    code="insufficient_quota",
)
GEMINI_RATE = [
    {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan. Please retry in 38s.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38s"}],
        }
    }
]
TOO_LARGE = error(
    message="Request too large for gpt-4 in organization x on tokens per min (TPM): Limit 10000, Requested 12000.",
    type="tokens",
    code="rate_limit_exceeded",
)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        # The operator's account.
        (429, OPENAI_QUOTA, "model_quota_exhausted"),
        (429, error(code="billing_hard_limit_reached"), "model_quota_exhausted"),
        (400, error(code="billing_hard_limit_reached"), "model_quota_exhausted"),
        (
            400,
            error(type="invalid_request_error", message="Your credit balance is too low to access the API."),
            "model_quota_exhausted",
        ),
        (402, error(message="Insufficient Balance"), "model_quota_exhausted"),
        (402, b"", "model_quota_exhausted"),
        (403, error(type="billing_error"), "model_quota_exhausted"),
        (429, error(message="You exceeded your current quota."), "model_quota_exhausted"),
        (400, error(type="budget_exceeded"), "model_quota_exhausted"),
        # Too much traffic: nobody's account is empty.
        (429, GEMINI_RATE, "model_throttled"),
        (429, error(code="rate_limit_exceeded"), "model_throttled"),
        (429, error(type="overloaded_error"), "model_throttled"),
        (413, error(code="rate_limit_exceeded"), "model_throttled"),
        (403, error(errors=[{"reason": "rateLimitExceeded"}]), "model_throttled"),
        (529, error(type="overloaded_error"), "model_unavailable"),
        (503, error(type="overloaded_error"), "model_unavailable"),
        # The operator's description of the model.
        (404, {"detail": "Not Found"}, "model_misconfigured"),
        (404, b"<html>404</html>", "model_misconfigured"),
        (404, error(code="model_not_found"), "model_misconfigured"),
        (400, error(code="model_not_found"), "model_misconfigured"),
        (403, error(code="model_not_found"), "model_misconfigured"),
        (404, error(code="DeploymentNotFound"), "model_misconfigured"),
        (
            404,
            {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError"},
            "model_misconfigured",
        ),
        (400, error(param="model"), "model_misconfigured"),
        (400, error(message="The model `llama-2` has been decommissioned."), "model_misconfigured"),
        (400, error(message="Invalid model name passed in model=x"), "model_misconfigured"),
        (400, error(code="unsupported_parameter", param="max_tokens"), "model_misconfigured"),
        (400, b"<html>The plain HTTP request was sent to HTTPS port</html>", "model_misconfigured"),
        (405, b"", "model_misconfigured"),
        (415, error(), "model_misconfigured"),
        # The operator's key.
        (401, error(code="invalid_api_key"), "model_unauthorized"),
        (400, [error(code=400, details=[{"reason": "API_KEY_INVALID"}])], "model_unauthorized"),
        (400, error(message="API key not valid. Please pass a valid API key."), "model_unauthorized"),
        (403, b"<html>forbidden</html>", "model_unauthorized"),
        (403, error(type="permission_error"), "model_unauthorized"),
        # The client's request.
        (400, error(type="invalid_request_error", param="temperature"), "model_rejected"),
        (400, error(code="unsupported_value", param="temperature"), "model_rejected"),
        (422, {"detail": [{"loc": ["body", "top_p"], "msg": "too large"}]}, "model_rejected"),
        (413, b"<html>413 Request Entity Too Large</html>", "model_input_too_large"),
        (413, error(type="request_too_large"), "model_input_too_large"),
        (429, TOO_LARGE, "model_input_too_large"),
        (413, TOO_LARGE, "model_input_too_large"),
        (400, error(message="This model's maximum context length is 8192 tokens."), "context_length_exceeded"),
        (
            422,
            {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"},
            "context_length_exceeded",
        ),
        (
            400,
            error(type="invalid_request_error", message="prompt is too long: 210000 tokens > 200000"),
            "context_length_exceeded",
        ),
        (500, error(type="exceed_context_size_error"), "context_length_exceeded"),
        (
            500,
            error(
                code=500,
                message="input (601 tokens) is too large to process. increase the batch size",
                type="server_error",
            ),
            "model_input_too_large",
        ),
        (500, error(message="input is too large to process", type="server_error"), "model_input_too_large"),
        (500, error(message="the disk is too small to process", type="server_error"), "model_unavailable"),
        (400, error(code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}), "content_filtered"),
        (400, error(code="content_policy_violation"), "content_filtered"),
        (403, error(code=403, metadata={"reasons": ["x"], "flagged_input": "y"}), "content_filtered"),
        # The provider's.
        (500, error(code="timeout"), "model_timeout"),
        (500, error(code="rate_limit_exceeded"), "model_throttled"),
        (503, b"<html>503</html>", "model_unavailable"),
        (502, b"<html>502</html>", "model_unavailable"),
        (424, error(), "model_unavailable"),
        (204, b"", "model_bad_response"),
    ],
)
def test_each_error_has_its_code(
    server: ScriptedServer, backend: OpenAIBackend, status: int, body: Any, code: str
) -> None:
    server.replies(Reply(status, body))
    assert failure(backend, claim(server)).code == code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (error(code=429), "model_throttled"),
        (error(code="429"), "model_throttled"),
        (error(code=402), "model_quota_exhausted"),
        (error(code=401), "model_unauthorized"),
        (error(code=404), "model_misconfigured"),
        (error(code=400), "model_rejected"),
        (error(code=502), "model_unavailable"),
        (error(code=504), "model_timeout"),
        (error(status=429), "model_throttled"),
        (error(code="insufficient_quota"), "model_quota_exhausted"),
        (error(code="rate_limit_exceeded"), "model_throttled"),
        (error(type="invalid_request_error"), "model_rejected"),
        (error(type="server_error"), "model_unavailable"),
        (error(), "model_unavailable"),
        ({"error": "internal"}, "model_unavailable"),
        ([error(code=429)], "model_throttled"),
        ({"object": "error", "message": WORDS, "code": 400}, "model_rejected"),
        (answer(**error(code=429)), "model_throttled"),
        (answer(choices=[{"error": {"code": 429, "message": WORDS}, "finish_reason": "error"}]), "model_throttled"),
        (answer(choices=[{"message": {"content": WORDS}} | error(code=502)]), "model_unavailable"),
        (answer(error=None, choices=[]), "model_bad_response"),
        (b"<html>busy</html>", "model_bad_response"),
    ],
)
def test_error_inside_a_success_is_read_like_one(
    server: ScriptedServer, backend: OpenAIBackend, body: Any, code: str
) -> None:
    server.replies(Reply(200, body))
    assert failure(backend, claim(server)).code == code


@pytest.mark.parametrize("nothing", [None, "", {}, [], False, {"message": "", "type": "", "param": "", "code": None}])
def test_empty_error_in_an_answer_is_none(server: ScriptedServer, backend: OpenAIBackend, nothing: Any) -> None:
    server.replies(Reply(200, answer(error=nothing)))
    assert backend.complete(claim(server), PATIENT) == COMPLETION


def test_error_inside_a_success_tells_its_tokens(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(Reply(200, answer(**error(code=502))), Reply(200, error(code=502)))
    found = [failure(backend, claim(server)) for _ in range(2)]
    assert [(each.prompt_tokens, each.completion_tokens) for each in found] == [(11, 5), (None, None)]


@pytest.mark.parametrize("code", FAILURES)
def test_messages_say_when_the_request_is_not_at_fault(code: str) -> None:
    found = FAILURES[code]
    assert found.needs_repair <= (found.fault == "operator")
    assert not (found.fault == "client" and found.is_transient)
    if found.needs_repair and found.is_transient:
        assert "The request is not at fault" in (found.message or "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "param", "details", "detail", "x"]), inner
        )
    ),
)


@given(st.integers(min_value=201, max_value=599), st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_error_has_a_code(status: int, payload: bytes) -> None:
    assert http_failure(status, {}, payload).code in FAILURES
