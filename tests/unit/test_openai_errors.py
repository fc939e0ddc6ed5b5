"""Errors in OpenAI's form: statuses and words that its clients know, and whether they try again."""

import json
from typing import Any
from uuid import UUID

import pytest

from sluice.api.openai.errors import answer_error
from sluice.domain.errors import ERRORS, Kind, SluiceError
from sluice.domain.failures import FAILURES
from sluice.domain.requests import QuotaCounter

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    412: "invalid_request_error",
    416: "invalid_request_error",
    500: "server_error",
    503: "server_error",
}
QUOTA = QuotaCounter("minute", 10, 10, None, 0, 7)


def answered(code: str, **more: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    response = answer_error(SluiceError(code, "What was wrong.", **more))
    body = json.loads(response.body or "")
    assert list(body) == ["error"]
    headers = {name.lower(): str(value) for name, value in response.headers.items()}
    return response.status_code, headers, body["error"]


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_has_a_status_a_type_and_a_code(code: str) -> None:
    status, headers, error = answered(code)
    assert (error["message"], error["sluice_code"]) == ("What was wrong.", code)
    assert {"message", "type", "param", "code"} <= set(error)
    assert status != 409, "OpenAI's clients would send it again"
    assert status != 422, "OpenAI's own API has none"
    if status == 429:
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    else:
        assert error["type"] == TYPES[status]
    assert headers["x-should-retry"] == ("true" if code == "answer_pending" else "false")


@pytest.mark.parametrize(
    ("code", "status", "word", "param"),
    [
        ("body_not_json", 400, "invalid_json", None),
        ("key_missing", 401, "missing_api_key", None),
        ("key_unknown", 401, "invalid_api_key", None),
        ("scope_missing", 403, "insufficient_permissions", None),
        ("user_inactive", 403, "account_deactivated", None),
        ("request_not_found", 404, "request_not_found", None),
        ("route_not_found", 404, "unknown_url", None),
        ("model_unknown", 404, "model_not_found", "model"),
        ("model_missing", 400, "missing_required_parameter", "model"),
        ("model_kind_differs", 400, "model_not_supported", "model"),
        ("images_not_taken", 400, "model_not_supported", "model"),
        ("prompt_too_long", 400, "context_length_exceeded", None),
        ("idempotency_conflict", 400, "idempotency_conflict", None),
        ("request_finished", 400, "request_finished", None),
        ("quota_too_small", 429, "insufficient_quota", None),
        ("model_unpriced", 429, "insufficient_quota", None),
        ("internal_error", 500, "internal_error", None),
        ("database_unavailable", 503, "database_unavailable", None),
    ],
)
def test_openais_word_for_it(code: str, status: int, word: str, param: str | None) -> None:
    answered_status, headers, error = answered(code)
    assert (answered_status, error["code"], error["param"]) == (status, word, param)
    assert ("www-authenticate" in headers) == (status == 401)


EXHAUSTED = [code for code, (kind, _) in ERRORS.items() if kind is Kind.EXHAUSTED]


@pytest.mark.parametrize("code", EXHAUSTED)
@pytest.mark.parametrize("seconds", [1, 120])
def test_what_comes_back_soon_is_a_rate_limit(code: str, seconds: int) -> None:
    status, headers, error = answered(code, retry_after=seconds, quotas=[QUOTA], period="minute")
    assert (status, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert (headers["retry-after"], headers["retry-after-ms"]) == (str(seconds), str(seconds * 1000))
    assert "x-should-retry" not in headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-reset-requests"]) == ("10", "7")
    assert error["period"] == "minute"


@pytest.mark.parametrize("code", EXHAUSTED)
def test_what_comes_back_late_is_a_quota(code: str) -> None:
    status, headers, error = answered(code, retry_after=121)
    assert (status, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert (headers["retry-after"], headers["x-should-retry"]) == ("121", "false")
    assert "retry-after-ms" not in headers


def test_whoever_waited_is_to_come_back_at_once() -> None:
    request_id = UUID(int=5)
    status, headers, error = answered("answer_pending", retry_after=1, request_id=request_id)
    assert (status, error["response_id"]) == (503, f"resp_{request_id.hex}")
    names = ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry")
    assert [headers[name] for name in names] == [str(request_id), "1", "1", "true"]


def test_a_database_that_is_away_is_tried_again() -> None:
    _, headers, _ = answered("database_unavailable", retry_after=5)
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("5", "5000")
    assert "x-should-retry" not in headers


@pytest.mark.parametrize("failure", [*FAILURES, "cancelled", "of_a_newer_version"])
def test_a_failed_request_says_whose_fault_it_was(failure: str) -> None:
    status, headers, error = answered("request_failed", failure=failure, request_id=UUID(int=5))
    is_clients = failure in FAILURES and (FAILURES[failure].fault == "client")
    assert (status, error["type"]) == ((400, "invalid_request_error") if is_clients else (500, "server_error"))
    assert error["failure"] == failure
    assert headers["x-should-retry"] == "false", "it was tried as often as it may be, and a new call would be billed"


def test_facts_are_beside_the_four_members() -> None:
    _, _, error = answered("invalid_input", param="messages[0]", openai_code="empty_array", more=1)
    assert error == {
        "message": "What was wrong.",
        "type": "invalid_request_error",
        "param": "messages[0]",
        "code": "empty_array",
        "sluice_code": "invalid_input",
        "more": 1,
    }
