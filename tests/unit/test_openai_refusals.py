"""The OpenAI-compatible backend: refusals, and when to try again."""

import datetime as dt
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.openai import OpenAIBackend, _retry_after
from sluice.backends.protocol import STATUS_ERRORS
from sluice.domain.failures import FAILURES
from tests.support.openai_backend import COMPLETION, GOOD, PATIENT, PROMPT, WORDS, answer, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "model_rejected"),
        (401, "model_unauthorized"),
        (402, "model_rejected"),
        (403, "model_unauthorized"),
        (404, "model_rejected"),
        (408, "model_timeout"),
        (409, "model_unavailable"),
        (413, "model_rejected"),
        (422, "model_rejected"),
        (425, "model_unavailable"),
        (429, "model_throttled"),
        (500, "model_unavailable"),
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
    assert failure(backend, claim(server)).code == code
    assert backend.complete(claim(server), PATIENT) == COMPLETION


def test_failures_that_the_client_caused_are_final() -> None:
    # Those without a message are the database's own.
    final = {code for code, failure in FAILURES.items() if failure.message is not None and not failure.is_transient}
    assert final.isdisjoint(STATUS_ERRORS.values())
    assert final == {
        "model_usage_missing",
        "model_rejected",
        "context_length_exceeded",
        "result_too_large",
        "model_backend_unknown",
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


@pytest.mark.parametrize("error", [None, "context_length_exceeded", [], {}, {"code": ["context_length_exceeded"]}, 1])
def test_error_of_another_form_is_a_rejection_or_a_bad_response(
    server: ScriptedServer, backend: OpenAIBackend, error: Any
) -> None:
    server.replies(Reply(400, {"error": error}), Reply(200, {"error": error}))
    assert [failure(backend, claim(server)).code for _ in range(2)] == ["model_rejected", "model_bad_response"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: ScriptedServer, backend: OpenAIBackend, status: int) -> None:
    # The key and the prompt are for this endpoint only.
    server.replies(Reply(status, headers={"Location": f"{server.url}/elsewhere"}))
    assert failure(backend, claim(server, secret_arn="arn:key")).code == "model_bad_response"
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [201, 202, 204])
def test_other_successful_statuses_are_bad_responses(
    server: ScriptedServer, backend: OpenAIBackend, status: int
) -> None:
    server.replies(Reply(status, b"" if status == 204 else answer()))
    assert failure(backend, claim(server)).code == "model_bad_response"


# Retry-After ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 504])
def test_retry_after_in_seconds_is_passed_on(server: ScriptedServer, backend: OpenAIBackend, status: int) -> None:
    server.replies(Reply(status, headers={"Retry-After": "17"}))
    assert failure(backend, claim(server)).retry_after == 17


def test_retry_after_as_a_date_is_passed_on(server: ScriptedServer, backend: OpenAIBackend) -> None:
    when = dt.datetime.now(dt.UTC) + dt.timedelta(hours=10)
    server.replies(Reply(429, headers={"Retry-After": format_datetime(when, usegmt=True)}))
    # An hour of tolerance: the unit or the time zone could be wrong.
    assert failure(backend, claim(server)).retry_after == pytest.approx(36_000, abs=3600)


def test_retry_after_in_the_past_is_zero(server: ScriptedServer, backend: OpenAIBackend) -> None:
    server.replies(Reply(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}))
    assert failure(backend, claim(server)).retry_after == 0


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "1.5", "5, 10", "1e3", "NaN", "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"]
)
def test_unreadable_retry_after_is_ignored(server: ScriptedServer, backend: OpenAIBackend, value: str) -> None:
    server.replies(Reply(429, headers={"Retry-After": value}))
    error = failure(backend, claim(server))
    assert (error.code, error.retry_after) == ("model_throttled", None)


@given(
    st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ ([+-]\d+|[A-Z]{3})", fullmatch=True)
)
def test_any_retry_after_is_none_or_not_negative(value: str) -> None:
    seconds = _retry_after(value)
    assert seconds is None or seconds >= 0
