"""The handlers of submission, called with typed arguments: no event is needed."""

import json
from typing import Any
from unittest.mock import create_autospec
from uuid import UUID

import pytest
from aws_lambda_powertools.event_handler import Response

from sluice.api.native.bodies import GenerateRequest
from sluice.api.native.submission import cancel, generate
from sluice.domain.documents import Input
from sluice.domain.errors import SluiceError
from sluice.domain.requests import QuotaCounter, Submission
from sluice.domain.states import Status
from sluice.services.cancel import Canceller
from sluice.services.submit import Accepted, Submitter

KEY_HASH = b"\x01" * 32
ID = UUID(int=1)


@pytest.fixture
def submitter() -> Any:
    fake = create_autospec(Submitter, instance=True)
    fake.submit.return_value = Accepted(ID, "alice", False, [QuotaCounter("daily", 10, 4, None, 0, 60)])
    return fake


def body_of(response: Response[str]) -> Any:
    return json.loads(response.body or "")


def test_accepted_request_is_answered_with_its_id_and_address(submitter: Any) -> None:
    body = GenerateRequest(prompt="hello", model="small", metadata={"a": "b"})
    response = generate(submitter, KEY_HASH, body, "a-key")
    submitter.submit.assert_called_once_with(
        KEY_HASH,
        Submission(input=Input.of_prompt("hello"), model="small", metadata={"a": "b"}, idempotency_key="a-key"),
    )
    assert (response.status_code, body_of(response)) == (202, {"request_id": str(ID), "status": "queued"})
    assert response.headers == {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Location": f"/status/{ID}",
        "Retry-After": "1",
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "6",
        "x-ratelimit-reset-requests": "60",
    }


def test_replayed_request_is_answered_like_an_accepted_one(submitter: Any) -> None:
    first = generate(submitter, KEY_HASH, GenerateRequest(prompt="hello"), "a-key")
    submitter.submit.return_value = Accepted(ID, "alice", True, [])
    again = generate(submitter, KEY_HASH, GenerateRequest(prompt="hello"), "a-key")
    assert (again.status_code, again.body) == (first.status_code, first.body)


def test_refusal_is_raised(submitter: Any) -> None:
    submitter.submit.side_effect = SluiceError("quota_exceeded", "Used up.")
    with pytest.raises(SluiceError, match=r"^quota_exceeded: Used up\.$"):
        generate(submitter, KEY_HASH, GenerateRequest(prompt="hello"), None)


@pytest.mark.parametrize(
    ("status", "code", "headers"),
    [
        (Status.CANCELLED, 200, {}),
        (Status.PROCESSING, 202, {"Location": f"/status/{ID}", "Retry-After": "1"}),
    ],
)
def test_cancellation_is_complete_or_still_to_come(status: Status, code: int, headers: dict[str, str]) -> None:
    canceller = create_autospec(Canceller, instance=True)
    canceller.cancel.return_value = status
    response = cancel(canceller, KEY_HASH, str(ID))
    canceller.cancel.assert_called_once_with(KEY_HASH, ID)
    assert response.status_code == code
    assert body_of(response) == {"request_id": str(ID), "status": str(status), "cancel_requested": True}
    assert headers.items() <= response.headers.items()
    assert ("Location" in response.headers) == ("Location" in headers)


def test_id_that_is_not_a_uuid_is_cancelled_as_none() -> None:
    canceller = create_autospec(Canceller, instance=True)
    canceller.cancel.side_effect = SluiceError("request_not_found", "")
    with pytest.raises(SluiceError, match="request_not_found"):
        cancel(canceller, KEY_HASH, "no")
    canceller.cancel.assert_called_once_with(KEY_HASH, None)
