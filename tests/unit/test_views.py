"""What clients read: estimates of waiting times, and fields that are left out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sluice.api.native.views import history_view, model_view, request_view
from sluice.domain.documents import Output
from sluice.domain.requests import ModelOffer, QueueState, RequestState, RequestSummary
from sluice.domain.states import Status
from sluice.services.read import History

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
QUEUE = QueueState(
    waits_for="turn",
    until=None,
    failed_attempts=0,
    max_attempts=20,
    last_error=None,
    expires_at=NOW + timedelta(days=1),
    cancel_requested_at=None,
    position=3,
    ended=4,
    seconds=50.0,
)
STATE = RequestState(
    outcome="ok",
    request_id=UUID(int=1),
    model_id="small",
    status=Status.QUEUED,
    output=None,
    error_code=None,
    error_message=None,
    estimated_tokens=20,
    reserved_tokens=20,
    prompt_tokens=None,
    completion_tokens=None,
    total_tokens=None,
    created_at=NOW,
    started_at=None,
    completed_at=None,
    processing_time_ms=None,
    finish_reason=None,
    cached_tokens=None,
    reasoning_tokens=None,
    metadata=None,
    cost=None,
    queue=QUEUE,
)


def queue_view(**changes: Any) -> dict[str, Any]:
    view: dict[str, Any] = request_view(replace(STATE, queue=replace(QUEUE, **changes)))["queue"]
    return view


@pytest.mark.parametrize(
    ("position", "ended", "seconds", "wait", "basis"),
    [
        (3, 4, 50.0, 38, {"answered": 4, "seconds": 50}),
        (1, 1, 0.4, 1, {"answered": 1, "seconds": 1}),
        (1, 100, 0.0, 0, {"answered": 100, "seconds": 0}),
        (10_000, 1, 900.0, 9_000_000, {"answered": 1, "seconds": 900}),
    ],
)
def test_wait_is_estimated_from_the_position_and_the_recent_rate(
    position: int, ended: int, seconds: float, wait: int, basis: dict[str, int]
) -> None:
    view = queue_view(position=position, ended=ended, seconds=seconds)
    assert (view["position"], view["estimated_wait_seconds"], view["estimate_basis"]) == (position, wait, basis)


@pytest.mark.parametrize("unknown", [{"position": None}, {"ended": None}, {"ended": 0}, {"seconds": None}])
def test_wait_is_not_estimated_without_a_position_and_a_rate(unknown: dict[str, Any]) -> None:
    view = queue_view(**unknown)
    assert (view["estimated_wait_seconds"], view["estimate_basis"]) == (None, None)


def test_times_are_utc_with_milliseconds() -> None:
    view = request_view(STATE)
    assert (view["created_at"], view["started_at"]) == ("2030-01-01T12:00:00.123Z", None)
    assert view["queue"]["expires_at"] == "2030-01-02T12:00:00.123Z"


def test_usage_has_the_parts_that_there_are() -> None:
    whole: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    ended = replace(STATE, **whole, cached_tokens=8, reasoning_tokens=0)
    assert request_view(ended)["usage"] == whole | {"cached_tokens": 8}
    assert set(request_view(STATE)["usage"]) == set(whole)


def test_finished_request_has_its_text_and_no_queue() -> None:
    view = request_view(replace(STATE, status=Status.COMPLETED, output=Output.of_text("hi"), queue=None))
    assert (view["status"], view["result"], view["queue"], view["error"]) == ("completed", "hi", None, None)
    failed = request_view(replace(STATE, error_code="worker_lost", error_message="It was lost."))
    assert failed["error"] == {"code": "worker_lost", "message": "It was lost.", "fault": "operator"}


def test_how_an_answer_ended_and_why_it_is_empty() -> None:
    finished = replace(STATE, status=Status.COMPLETED, queue=None, finish_reason="length")
    cut = request_view(replace(finished, output=Output.of_text("half a sen", "length")))
    assert (cut["finish_reason"], cut["result"], cut["empty_reason"]) == ("length", "half a sen", None)
    empty = request_view(replace(finished, output=Output.of_text("", "length", empty_reason="reasoning")))
    assert (empty["finish_reason"], empty["result"], empty["empty_reason"]) == ("length", "", "reasoning")
    unfinished = request_view(STATE)
    assert (unfinished["finish_reason"], unfinished["result"], unfinished["empty_reason"]) == (None, None, None)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (None, None),
        ("model_misconfigured", "operator"),
        ("model_throttled", "provider"),
        ("model_rejected", "client"),
        ("request_expired", "none"),
        ("of_a_newer_version", None),
    ],
)
def test_an_error_says_whose_fault_it_is(code: str | None, fault: str | None) -> None:
    assert queue_view(last_error=code)["last_error_fault"] == fault
    error = request_view(replace(STATE, error_code=code, error_message="no"))["error"]
    assert error == (None if code is None else {"code": code, "message": "no", "fault": fault})


def test_metadata_is_shown_if_it_was_given() -> None:
    assert "metadata" not in request_view(STATE)
    assert request_view(replace(STATE, metadata={}))["metadata"] == {}
    assert request_view(replace(STATE, metadata={"a": "b"}))["metadata"] == {"a": "b"}


def test_cursor_of_a_page_is_its_last_request() -> None:
    shared = {name: getattr(STATE, name) for name in RequestSummary.__dataclass_fields__ if hasattr(STATE, name)}
    summaries = [RequestSummary(prompt="a", **shared | {"request_id": UUID(int=n)}) for n in (2, 1)]
    view = history_view(History(summaries, summaries[-1].request_id))
    assert [request["request_id"] for request in view["requests"]] == [str(UUID(int=2)), str(UUID(int=1))]
    assert view["next_cursor"] == str(UUID(int=1))
    assert history_view(History(summaries, None))["next_cursor"] is None
    assert history_view(History([], None)) == {"requests": [], "next_cursor": None}


def test_model_is_shown_without_its_address() -> None:
    assert model_view(ModelOffer("ok", "small", True, 256, 1024, "chat", NOW, ["gpt-4o-mini"], 64, 16, None)) == {
        "model": "small",
        "is_default": True,
        "max_tokens_default": 256,
        "max_tokens_limit": 1024,
        "kind": "chat",
        "aliases": ["gpt-4o-mini"],
    }
