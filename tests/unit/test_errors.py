"""Problems as callers get them (RFC 9457), and states as the code knows them."""

import json
import re

import pytest

from sluice.backends.protocol import MODEL_ERRORS, ModelError
from sluice.errors import PROBLEMS, DatabaseError, SluiceError
from sluice.states import TRANSITIONS, Status


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_is_an_object_of_rfc_9457(code: str) -> None:
    problem = SluiceError(code, "What was wrong.").problem()
    status, title = PROBLEMS[code]
    assert problem == {
        "type": f"urn:sluice:problem:{code}",
        "title": title,
        "status": status,
        "detail": "What was wrong.",
        "code": code,
    }
    json.dumps(problem)


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_code_is_fit_for_programs_and_every_title_for_people(code: str) -> None:
    status, title = PROBLEMS[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert status in {400, 401, 403, 404, 409, 422, 429, 500, 503}
    # A title names the kind, so it is the same each time and has no end of sentence.
    assert title[0].isupper() or title.startswith("max_tokens")
    assert not title.endswith(".")


def test_titles_tell_problems_apart() -> None:
    assert len({title for _, title in PROBLEMS.values()}) == len(PROBLEMS)


def test_a_problem_says_when_to_try_again_and_more_where_there_is_more() -> None:
    error = SluiceError("quota_exceeded", "Used up.", retry_after=7, headers={"x-a": "b"}, period="daily")
    assert error.problem() == SluiceError("quota_exceeded", "Used up.").problem() | {
        "retry_after": 7,
        "period": "daily",
    }
    assert error.headers == {"x-a": "b"}
    assert str(error) == "quota_exceeded: Used up."


def test_now_is_a_time_to_try_again() -> None:
    assert SluiceError("quota_exceeded", "Used up.", retry_after=0).problem()["retry_after"] == 0
    assert "retry_after" not in SluiceError("quota_exceeded", "Used up.").problem()


def test_a_code_that_nobody_listed_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        SluiceError("no_such_code", "")
    with pytest.raises(KeyError):
        ModelError("no_such_code")


def test_a_database_error_shows_codes_only() -> None:
    assert str(DatabaseError("23505", "users_pkey")) == "SQLSTATE 23505, constraint users_pkey"
    assert str(DatabaseError(None, None)) == "SQLSTATE None, constraint None"


@pytest.mark.parametrize("code", MODEL_ERRORS)
def test_a_model_error_says_what_the_client_may_know(code: str) -> None:
    error = ModelError(code, retry_after=2.5, prompt_tokens=3, completion_tokens=4)
    assert (error.is_transient, error.message) == MODEL_ERRORS[code]
    assert (error.code, error.retry_after, error.prompt_tokens, error.completion_tokens) == (code, 2.5, 3, 4)
    assert str(error) == code
    assert error.message.endswith(".")


# States ---------------------------------------------------------------------------------------------------------------


def test_every_state_has_its_changes_and_leads_to_known_ones() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert set().union(*TRANSITIONS.values()) <= set(Status)


def test_what_is_final_stays() -> None:
    final = {status for status in Status if status.is_final}
    assert final == {"completed", "failed", "cancelled", "expired"}
    assert all(TRANSITIONS[status] == frozenset() for status in final)


def test_every_state_can_be_reached_and_every_request_can_end() -> None:
    reached = {Status.QUEUED}
    while more := set().union(*(TRANSITIONS[status] for status in reached)) - reached:
        reached |= more
    assert reached == set(Status)
    assert all(any(after.is_final for after in TRANSITIONS[status]) for status in Status if not status.is_final)


def test_an_answer_comes_from_work_only() -> None:
    assert [status for status, after in TRANSITIONS.items() if Status.COMPLETED in after] == [Status.PROCESSING]
    # Who has begun does not expire: the lease ends it.
    assert [status for status, after in TRANSITIONS.items() if Status.EXPIRED in after] == [Status.QUEUED]
