"""The queue on the SQS of moto, and with clients that fail as SQS can."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from sluice.messaging import Message, Queue, QueueMessage, message_group


@pytest.fixture
def sqs(aws: None) -> Iterator[Any]:
    client = boto3.client("sqs")
    yield client
    client.close()


@pytest.fixture
def url(sqs: Any) -> str:
    return str(sqs.create_queue(QueueName="requests")["QueueUrl"])


def messages(count: int, **given: Any) -> list[Message]:
    return [Message(UUID(int=n + 1), f"user-{n % 3}", **given) for n in range(count)]


def ids(sent: list[Message]) -> list[UUID]:
    return [message.request_id for message in sent]


def receive_all(sqs: Any, url: str) -> list[dict[str, Any]]:
    received: list[dict[str, Any]] = []
    while batch := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"]
    ).get("Messages"):
        received += batch
    return received


def test_message_holds_the_request_id_in_the_group_of_the_user(sqs: Any, url: str) -> None:
    (message,) = messages(1)
    assert Queue(sqs, url).send([message]) == []
    (received,) = receive_all(sqs, url)
    assert json.loads(received["Body"]) == {"request_id": str(message.request_id)}
    assert QueueMessage.model_validate_json(received["Body"]).request_id == message.request_id
    assert received["Attributes"]["MessageGroupId"] == "user-0"


@pytest.mark.parametrize("count", [0, 1, 10, 11, 37])
def test_every_message_is_sent_once(sqs: Any, url: str, count: int) -> None:
    sent = messages(count)
    assert Queue(sqs, url).send(sent) == []
    received = Counter(UUID(json.loads(message["Body"])["request_id"]) for message in receive_all(sqs, url))
    assert received == Counter(ids(sent))


def test_delayed_message_is_not_received_yet(sqs: Any, url: str) -> None:
    queue = Queue(sqs, url)
    assert queue.send(messages(2, delay_seconds=900)) == []
    assert receive_all(sqs, url) == []


def test_depth_counts_waiting_and_received_messages_without_delayed_ones(sqs: Any, url: str) -> None:
    queue = Queue(sqs, url)
    assert queue.depth() == 0
    queue.send(messages(3))
    queue.send(messages(2, delay_seconds=60))
    sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1, VisibilityTimeout=600)
    assert queue.depth() == 3


def test_deleted_queue_returns_all_messages_as_unsent(sqs: Any, url: str) -> None:
    sqs.delete_queue(QueueUrl=url)
    queue, sent = Queue(sqs, url), messages(12)
    assert queue.send(sent) == ids(sent)
    assert queue.depth() is None


class FakeSQS:
    """Records what it is sent; refuses entries at given positions, and fails in given calls."""

    def __init__(self, refused: tuple[int, ...] = (), failures: dict[int, Exception] | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self._refused = refused
        self._failures = failures or {}

    def send_message_batch(self, **call: Any) -> dict[str, Any]:
        self.calls.append(call)
        if failure := self._failures.get(len(self.calls)):
            raise failure
        entries = [entry["Id"] for entry in call["Entries"]]
        refused = [entries[position] for position in self._refused if position < len(entries)]
        return {
            "Successful": [{"Id": entry} for entry in entries if entry not in refused],
            # SQS leaves the member out if nothing failed.
            **(
                {"Failed": [{"Id": i, "SenderFault": False, "Code": "InternalError"} for i in refused]}
                if refused
                else {}
            ),
        }

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        raise self._failures[1]


THROTTLED = ClientError({"Error": {"Code": "RequestThrottled"}}, "SendMessageBatch")
FAILURES = [
    THROTTLED,
    EndpointConnectionError(endpoint_url="https://sqs"),
    ReadTimeoutError(endpoint_url="https://sqs"),
]


def test_messages_are_sent_in_batches_of_ten_with_distinct_ids() -> None:
    client = FakeSQS()
    Queue(client, "https://queue").send(messages(23))
    assert [len(call["Entries"]) for call in client.calls] == [10, 10, 3]
    assert {call["QueueUrl"] for call in client.calls} == {"https://queue"}
    for call in client.calls:
        assert len({entry["Id"] for entry in call["Entries"]}) == len(call["Entries"])


def test_delay_of_zero_is_left_out() -> None:
    client = FakeSQS()
    Queue(client, "https://queue").send([*messages(1), *messages(1, delay_seconds=7)])
    undelayed, delayed = client.calls[0]["Entries"]
    assert "DelaySeconds" not in undelayed
    assert delayed["DelaySeconds"] == 7


def test_refused_entries_are_returned() -> None:
    sent = messages(23)
    unsent = Queue(FakeSQS(refused=(0, 4)), "https://queue").send(sent)
    assert unsent == [sent[n].request_id for n in (0, 4, 10, 14, 20)]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_failed_batch_is_returned_and_the_others_are_sent(failure: Exception) -> None:
    sent = messages(25)
    client = FakeSQS(failures={2: failure})
    assert Queue(client, "https://queue").send(sent) == ids(sent[10:20])
    assert len(client.calls) == 3


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_queue_that_cannot_be_reached_has_no_depth(failure: Exception) -> None:
    assert Queue(FakeSQS(failures={1: failure}), "https://queue").depth() is None


# Groups ---------------------------------------------------------------------------------------------------------------

GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
"""What SQS takes as a MessageGroupId."""


@pytest.mark.parametrize("user_id", ["a", "anna@example.com", "auth0|5f7c8ec7", "CORP\\anna", "-_x", "a" * 128])
def test_a_short_id_is_its_own_group(user_id: str) -> None:
    assert message_group(user_id) == user_id
    assert GROUP.fullmatch(message_group(user_id))


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255), st.integers(0, 3))
def test_no_two_users_share_a_group(user_id: str, times: int) -> None:
    """Not even an id that is another id's digest."""
    ids = {user_id, user_id + "x", user_id.swapcase(), user_id.ljust(255, "x")}
    for _ in range(times):
        ids |= {message_group(each) for each in ids}
    groups = {message_group(each) for each in ids}
    assert len(groups) == len(ids)
    assert all(GROUP.fullmatch(group) for group in groups)


def test_messages_of_a_long_id_are_sent_in_the_group_of_its_digest(sqs: Any, url: str) -> None:
    assert Queue(sqs, url).send([Message(UUID(int=1), "u" * 255)]) == []
    (received,) = receive_all(sqs, url)
    assert received["Attributes"]["MessageGroupId"] == "sha256:" + hashlib.sha256(b"u" * 255).hexdigest()
