"""Errors as problem details (RFC 9457), and the states of requests."""

import json
import re

import pytest

from sluice.api.problems import STATUSES, problem_details
from sluice.backends.protocol import ModelError
from sluice.domain.errors import ERRORS, DatabaseError, Kind, SluiceError
from sluice.domain.failures import FAILURES
from sluice.domain.requests import QuotaCounter
from sluice.domain.states import TRANSITIONS, Status


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_is_an_object_of_rfc_9457(code: str) -> None:
    problem = problem_details(SluiceError(code, "What was wrong."))
    kind, title = ERRORS[code]
    assert problem == {
        "type": f"urn:sluice:problem:{code}",
        "title": title,
        "status": STATUSES[kind],
        "detail": "What was wrong.",
        "code": code,
    }
    json.dumps(problem)


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_has_a_code_for_programs_and_a_title_for_people(code: str) -> None:
    kind, title = ERRORS[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert STATUSES[kind] in {400, 401, 403, 404, 409, 412, 416, 422, 429, 500, 503}
    # A title names the kind of error: it is always the same, and is not a sentence.
    assert title[0].isupper() or title.startswith("max_tokens")
    assert not title.endswith(".")


def test_titles_are_unique() -> None:
    assert len({title for _, title in ERRORS.values()}) == len(ERRORS)


def test_every_kind_has_a_status_and_is_used() -> None:
    assert set(STATUSES) == set(Kind)
    assert {kind for kind, _ in ERRORS.values()} == set(Kind)


@pytest.mark.parametrize("code", ERRORS)
def test_errors_of_the_caller_are_refusals(code: str) -> None:
    assert SluiceError(code, "").is_refusal == (STATUSES[ERRORS[code][0]] < 500)


def test_problem_has_the_pause_and_further_facts() -> None:
    counter = QuotaCounter("daily", 10, 10, None, 5, 7)
    error = SluiceError("quota_exceeded", "Used up.", retry_after=7, quotas=[counter], period="daily")
    assert problem_details(error) == problem_details(SluiceError("quota_exceeded", "Used up.")) | {
        "retry_after": 7,
        "period": "daily",
    }
    assert error.quotas == [counter]
    assert str(error) == "quota_exceeded: Used up."


def test_pause_of_zero_is_kept() -> None:
    assert problem_details(SluiceError("quota_exceeded", "Used up.", retry_after=0))["retry_after"] == 0
    assert "retry_after" not in problem_details(SluiceError("quota_exceeded", "Used up."))


def test_unknown_code_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        SluiceError("no_such_code", "")
    with pytest.raises(KeyError):
        ModelError("no_such_code")


def test_database_error_shows_only_codes() -> None:
    assert str(DatabaseError("23505", "users_pkey")) == "SQLSTATE 23505, constraint users_pkey"
    assert str(DatabaseError(None, None)) == "SQLSTATE None, constraint None"


@pytest.mark.parametrize("code", [code for code, failure in FAILURES.items() if failure.message is not None])
def test_model_error_has_a_message_for_the_client(code: str) -> None:
    error = ModelError(code, retry_after=2.5, prompt_tokens=3, completion_tokens=4)
    assert (error.is_transient, error.message) == (FAILURES[code].is_transient, FAILURES[code].message)
    assert (error.code, error.retry_after, error.prompt_tokens, error.completion_tokens) == (code, 2.5, 3, 4)
    assert str(error) == code
    assert error.message is not None
    assert error.message.endswith(".")


# States ---------------------------------------------------------------------------------------------------------------


def test_transitions_are_defined_for_every_state() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert set().union(*TRANSITIONS.values()) <= set(Status)


def test_final_states_have_no_transitions() -> None:
    final = {status for status in Status if status.is_final}
    assert final == {"completed", "failed", "cancelled", "expired"}
    assert all(TRANSITIONS[status] == frozenset() for status in final)


def test_every_state_is_reachable_and_can_end() -> None:
    reached = {Status.QUEUED}
    while more := set().union(*(TRANSITIONS[status] for status in reached)) - reached:
        reached |= more
    assert reached == set(Status)
    assert all(any(after.is_final for after in TRANSITIONS[status]) for status in Status if not status.is_final)


def test_only_a_processed_request_is_completed() -> None:
    assert [status for status, after in TRANSITIONS.items() if Status.COMPLETED in after] == [Status.PROCESSING]
    # A request that was started does not expire: its lease ends.
    assert [status for status, after in TRANSITIONS.items() if Status.EXPIRED in after] == [Status.QUEUED]
