"""The queue: carries request ids to the workers and decides nothing. A lost or repeated message is harmless."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

from sluice.domain.fields import Id

logger = logging.getLogger(__name__)

MAX_DELAY_SECONDS: Final = 900  # SQS: DelaySeconds of a message
# SQS: a MessageGroupId has at most 128 letters, digits and signs.
_GROUP: Final = re.compile(r"[!-~]{1,128}", re.ASCII)
_DIGEST_PREFIX: Final = "sha256:"
_BATCH: Final = 10  # SQS: entries of a SendMessageBatch
# Without delayed messages: those are for retries, whose requests are not dispatched yet.
_COUNTS: Final = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")


@dataclass(frozen=True)
class Message:
    """One request to be worked on.

    Attributes:
        user_id: decides the message group: on a standard queue it keeps one user's many from delaying another's few.
        delay_seconds: how long the queue holds it back, at most MAX_DELAY_SECONDS.
    """

    request_id: UUID
    user_id: str
    delay_seconds: int = 0


@dataclass(frozen=True)
class Delivery:
    """A message as it came from a queue.

    Attributes:
        receipt: what deleting it needs; empty where Lambda deletes it.
    """

    message_id: str
    body: str
    receipt: str = ""


class QueueMessage(BaseModel):
    """A message is only a pointer: what is to be done is in the database."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    request_id: Id


def message_group(user_id: str) -> str:
    """The group of a user's messages, never another user's: the id, or its digest where that is no name of a group.

    An id that looks like a digest is digested too, so that it cannot be another id's.
    """
    if _GROUP.fullmatch(user_id) and not user_id.startswith(_DIGEST_PREFIX):
        return user_id
    return _DIGEST_PREFIX + hashlib.sha256(user_id.encode()).hexdigest()


def requested_id(delivery: Delivery) -> UUID | None:
    """The id of the request that a message is about; None if the message cannot be read."""
    try:
        return QueueMessage.model_validate_json(delivery.body).request_id
    except ValidationError:
        return None


class Sender(Protocol):
    """What services need of a queue."""

    def send(self, messages: Sequence[Message]) -> list[UUID]:
        """Send messages; returns the ids of those that were not sent, and raises nothing."""
        ...

    def depth(self) -> int | None:
        """About how many messages are waiting or at a worker; None when the queue cannot be asked."""
        ...


class Waker(Protocol):
    """What services need of a queue whose messages say nothing but that something is due."""

    def wake(self, delay_seconds: int = 0) -> None:
        """Send such a message, held back for as long; raises nothing: the recovery task sends another where it is lost.

        Args:
            delay_seconds: at most MAX_DELAY_SECONDS.
        """
        ...


class DeadLetters(Protocol):
    """What services need of a dead-letter queue."""

    def receive(self) -> list[Delivery]:
        """Some of its messages, hidden from other receivers for a while; none when it is empty or cannot be asked."""
        ...

    def delete(self, messages: Sequence[Delivery]) -> None:
        """Delete messages. One that cannot be deleted is received again."""
        ...


class Queue:
    """An SQS standard queue."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    def send(self, messages: Sequence[Message]) -> list[UUID]:
        unsent: list[UUID] = []
        for start in range(0, len(messages), _BATCH):
            unsent += self._send_batch(messages[start : start + _BATCH])
        return unsent

    def depth(self) -> int | None:
        try:
            answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=list(_COUNTS))
        except (BotoCoreError, ClientError) as error:
            logger.warning("queue cannot be asked", extra={"error": type(error).__name__})
            return None
        return sum(int(answer["Attributes"][count]) for count in _COUNTS)

    def wake(self, delay_seconds: int = 0) -> None:
        delay = {"DelaySeconds": delay_seconds} if delay_seconds else {}
        try:
            self._client.send_message(QueueUrl=self._url, MessageBody=json.dumps({"due": True}), **delay)
        except (BotoCoreError, ClientError) as error:
            logger.warning("wake-up not sent", extra={"error": type(error).__name__})

    def receive(self) -> list[Delivery]:
        try:
            answer = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=0)
        except (BotoCoreError, ClientError) as error:
            logger.warning("receive failed", extra={"error": type(error).__name__})
            return []
        return [Delivery(m["MessageId"], m["Body"], m["ReceiptHandle"]) for m in answer.get("Messages", ())]

    def delete(self, messages: Sequence[Delivery]) -> None:
        """Delete messages, at most as many as one receive() returns."""
        entries = [{"Id": str(n), "ReceiptHandle": message.receipt} for n, message in enumerate(messages)]
        try:
            if entries:
                self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
        except (BotoCoreError, ClientError) as error:
            logger.warning("delete failed", extra={"error": type(error).__name__, "messages": len(entries)})

    def _send_batch(self, batch: Sequence[Message]) -> list[UUID]:
        entries = [
            {
                "Id": str(position),
                "MessageBody": json.dumps({"request_id": str(message.request_id)}),
                "MessageGroupId": message_group(message.user_id),
                # A delay of zero is left out: the queue's own default then applies, and some emulators require it.
                **({"DelaySeconds": message.delay_seconds} if message.delay_seconds else {}),
            }
            for position, message in enumerate(batch)
        ]
        try:
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
        except (BotoCoreError, ClientError) as error:
            logger.warning("send failed", extra={"error": type(error).__name__, "messages": len(batch)})
            return [message.request_id for message in batch]
        failed = [batch[int(entry["Id"])].request_id for entry in answer.get("Failed", ())]
        if failed:
            logger.warning("send partly failed", extra={"messages": len(failed)})
        return failed
