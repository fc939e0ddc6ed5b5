"""The OpenAI-compatible backend: refusals, and when to try again."""

from typing import Any

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.domain.failures import FAILURES
from tests.support.openai_backend import COMPLETION, GOOD, PATIENT, PROMPT, WORDS, answer, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "model_rejected"),
        (401, "model_unauthorized"),
        (402, "model_quota_exhausted"),
        (403, "model_unauthorized"),
        (404, "model_misconfigured"),
        (405, "model_misconfigured"),
        (406, "model_misconfigured"),
        (407, "model_unauthorized"),
        (408, "model_timeout"),
        (409, "model_unavailable"),
        (410, "model_misconfigured"),
        (413, "model_input_too_large"),
        (415, "model_misconfigured"),
        (422, "model_rejected"),
        (424, "model_unavailable"),
        (425, "model_unavailable"),
        (429, "model_throttled"),
        (500, "model_unavailable"),
        (501, "model_misconfigured"),
        (502, "model_unavailable"),
        (503, "model_unavailable"),
        (504, "model_timeout"),
        (529, "model_unavailable"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [{"error": {"message": f"{WORDS}: {PROMPT}", "code": None}}, f"<html>{PROMPT}".encode(), b""],
    ids=["json", "html", "empty"],
)
def test_each_status_has_a_code(
    server: ScriptedServer, backend: OpenAIBackend, status: int, code: str, body: Any
) -> None:
    server.replies(Reply(status, body), GOOD)
    # A refusal in HTML is not the model's.
    is_page = isinstance(body, bytes) and body and code == "model_rejected"
    assert failure(backend, claim(server)).code == ("model_misconfigured" if is_page else code)
    assert backend.complete(claim(server), PATIENT) == COMPLETION


def test_failures_that_the_client_caused_and_some_others_are_final() -> None:
    caused = {code for code, failure in FAILURES.items() if failure.fault == "client"}
    assert not any(FAILURES[code].is_transient for code in caused)
    # Those without a message are the database's own.
    final = {code for code, failure in FAILURES.items() if failure.message is not None and not failure.is_transient}
    assert final == {
        "model_usage_missing",
        "model_rejected",
        "model_input_too_large",
        "content_filtered",
        "context_length_exceeded",
        "result_too_large",
        "model_backend_unknown",
        "schema_mismatch",
    }


CONTEXT_ERRORS = [
    # OpenAI
    {
        "error": {
            "message": PROMPT,
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
    # llama.cpp
    {"error": {"code": 400, "message": PROMPT, "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 4}},
    # vLLM
    {"error": {"message": PROMPT, "type": "BadRequestError", "param": "input_tokens", "code": 400}},
]


@pytest.mark.parametrize("status", [200, 400, 413])
@pytest.mark.parametrize("body", CONTEXT_ERRORS, ids=["OpenAI", "llama.cpp", "vLLM"])
def test_prompt_that_is_too_long_has_a_code_of_its_own(
    server: ScriptedServer, backend: OpenAIBackend, status: int, body: dict[str, Any]
) -> None:
    server.replies(Reply(status, body))
    error = failure(backend, claim(server))
    assert error.code == "context_length_exceeded"
    assert not error.is_transient


@pytest.mark.parametrize("error", [None, "", [], {}, {"code": ["context_length_exceeded"]}, 1])
def test_error_of_another_form_is_a_rejection_or_a_bad_response(
    server: ScriptedServer, backend: OpenAIBackend, error: Any
) -> None:
    server.replies(Reply(400, {"error": error}), Reply(200, {"error": error}))
    assert [failure(backend, claim(server)).code for _ in range(2)] == ["model_rejected", "model_bad_response"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: ScriptedServer, backend: OpenAIBackend, status: int) -> None:
    # The key and the prompt are for this endpoint only.
    server.replies(Reply(status, headers={"Location": f"{server.url}/elsewhere"}))
    assert failure(backend, claim(server, secret_arn="arn:key")).code == "model_misconfigured"
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [201, 202, 204])
def test_other_successful_statuses_are_bad_responses(
    server: ScriptedServer, backend: OpenAIBackend, status: int
) -> None:
    server.replies(Reply(status, b"" if status == 204 else answer()))
    assert failure(backend, claim(server)).code == "model_bad_response"
