"""Handing a claim to another function: what each end of the call means for the request."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.stub import Stubber

from sluice import aws
from sluice.handover import BrokenOffError, LambdaRunner, LambdaSender, NotStartedError

CLAIM = {"request_id": "019ab8f3-8a00-7000-8000-000000000001", "attempt": 1, "input": {"messages": []}}
EXPECTED = {"FunctionName": "foreground", "Payload": json.dumps({"claim": CLAIM})}
URL = "https://lambda.us-east-1.amazonaws.com/"


@pytest.fixture
def stub() -> Any:
    client = aws.client("lambda", "us-east-1", retries={"total_max_attempts": 1})
    with Stubber(client) as stubbed:
        yield stubbed
        stubbed.assert_no_pending_responses()


def run(stub: Any) -> Any:
    return LambdaRunner(stub.client, "foreground")(CLAIM)


def answers(stub: Any, payload: bytes, **more: Any) -> None:
    stub.add_response("invoke", {"StatusCode": 200, "Payload": io.BytesIO(payload), **more}, EXPECTED)


class Client:
    """Fails to call."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def invoke(self, **_: Any) -> Any:
        raise self.error


def test_what_the_function_answers_is_returned(stub: Any) -> None:
    answers(stub, b'{"kind": "settled", "status": "completed", "outcome": {}}')
    assert run(stub) == {"kind": "settled", "status": "completed", "outcome": {}}


@pytest.mark.parametrize("error", ["Unhandled", "Handled"])
def test_a_function_that_fails_has_broken_off(stub: Any, error: str) -> None:
    answers(stub, b'{"errorMessage": "Task timed out after 120.00 seconds"}', FunctionError=error)
    with pytest.raises(BrokenOffError):
        run(stub)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("TooManyRequestsException", 429),
        ("ResourceNotFoundException", 404),
        ("AccessDeniedException", 403),
        ("RequestTooLargeException", 413),
        ("ResourceConflictException", 409),
    ],
)
def test_what_lambda_refuses_has_not_begun(stub: Any, code: str, status: int) -> None:
    stub.add_client_error("invoke", code, http_status_code=status)
    with pytest.raises(NotStartedError):
        run(stub)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_what_lambda_fails_at_may_have_begun(stub: Any, status: int) -> None:
    stub.add_client_error("invoke", "ServiceException", http_status_code=status)
    assert run(stub) is None


@pytest.mark.parametrize("error", [ConnectTimeoutError(endpoint_url=URL), EndpointConnectionError(endpoint_url=URL)])
def test_what_was_never_sent_has_not_begun(error: Exception) -> None:
    with pytest.raises(NotStartedError):
        LambdaRunner(Client(error), "foreground")(CLAIM)


@pytest.mark.parametrize(
    "error",
    [
        ReadTimeoutError(endpoint_url=URL),
        ConnectionClosedError(endpoint_url=URL),
        ClientError({"Error": {"Code": "?"}}, "Invoke"),
    ],
)
def test_what_is_lost_from_sight_may_go_on(error: Exception) -> None:
    assert LambdaRunner(Client(error), "foreground")(CLAIM) is None


def broken_stream() -> Any:
    class Stream:
        def read(self) -> bytes:
            raise ResponseStreamingError(error="cut")

    return Stream()


@pytest.mark.parametrize("payload", [broken_stream, lambda: io.BytesIO(b"<html>"), lambda: io.BytesIO(b"null")])
def test_an_answer_that_cannot_be_read_says_nothing(payload: Callable[[], Any]) -> None:
    class Answering:
        def invoke(self, **_: Any) -> Any:
            return {"StatusCode": 200, "Payload": payload()}

    assert LambdaRunner(Answering(), "foreground")(CLAIM) is None


def test_nothing_of_a_claim_is_logged(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    stub.add_client_error("invoke", "TooManyRequestsException", "zebra", http_status_code=429)
    with pytest.raises(NotStartedError):
        run(stub)
    assert "zebra" not in caplog.text
    assert [record.message for record in caplog.records] == ["run not started"]


def test_a_webhook_is_handed_over_as_it_is(stub: Any) -> None:
    webhook = {"url": "https://example.com/", "headers": {"webhook-id": "evt_1"}, "body": "{}"}
    payload = io.BytesIO(b'{"status_code": 200}')
    expected = {"FunctionName": "deliver", "Payload": json.dumps(webhook)}
    stub.add_response("invoke", {"StatusCode": 200, "Payload": payload}, expected)
    assert LambdaSender(stub.client, "deliver")(webhook) == {"status_code": 200}
