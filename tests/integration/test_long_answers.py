"""Answers in text, and vectors, that are too long for the database: kept in the bucket as files."""

import base64
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import boto3
import pytest

from sluice.domain.documents import Input, Output, OutputEmbedding
from sluice.domain.requests import Claim, Completion, Submission
from sluice.services.keeping import Keeper
from sluice.services.process import Worker, WorkerSettings
from sluice.storage import Storage
from tests.support.bucket import BUCKET
from tests.support.ledger import assert_books_balance
from tests.support.openai_api import EMBEDDER
from tests.support.service import Service

LONG = "é" * 600
LONGEST = 10_000
SETTINGS = WorkerSettings(max_result_bytes=LONGEST, flush_seconds=0.0, retry_base_seconds=1, lease_margin_seconds=30)
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Says:
    """A model that gives one answer."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def complete(self, claim: Claim, timeout: float) -> Completion:
        return Completion(self.output, 7, 3)


def answered(service: Service, storage: Storage | None, alice: bytes, output: Output, **asked: Any) -> UUID:
    request_id = service.submit(alice, "a prompt", **asked)
    work(service, storage, request_id, output)
    return request_id


def work(service: Service, storage: Storage | None, request_id: UUID, output: Output) -> None:
    worker = Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"bedrock": Says(output), "openai": Says(output)},
        keeper=Keeper(None if storage is None else lambda: storage, 1000, LONGEST, 100_000),
        settings=SETTINGS,
        remaining_seconds=lambda: 30.0,
    )
    for claim in service.ledger("worker").claim([request_id], 60):
        worker.run(claim)


def objects() -> Iterator[tuple[str, bytes]]:
    client = boto3.client("s3")
    for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        found = client.get_object(Bucket=BUCKET, Key=each["Key"])
        yield found["ContentType"], found["Body"].read()


def test_a_long_text_is_a_file(service: Service, storage: Storage, alice: bytes) -> None:
    request_id = answered(service, storage, alice, Output.of_text(LONG, "length"))
    seen = service.status(alice, request_id)
    assert (seen["status"], seen["result"], seen["result_type"]) == ("completed", None, "file")
    assert (seen["mime_type"], seen["byte_length"]) == ("text/plain; charset=utf-8", 1200)
    assert (seen["finish_reason"], seen["usage"]["total_tokens"]) == ("length", 10)
    assert list(objects()) == [("text/plain; charset=utf-8", LONG.encode())]
    assert_books_balance(service)


def test_long_json_is_a_file(service: Service, storage: Storage, alice: bytes) -> None:
    text = json.dumps({"text": LONG}, ensure_ascii=False)
    request_id = answered(service, storage, alice, Output.of_text(text), schema=SCHEMA)
    assert service.status(alice, request_id)["mime_type"] == "application/json"
    ((kind, content),) = objects()
    assert (kind, json.loads(content)) == ("application/json", {"text": LONG})
    assert_books_balance(service)


def test_vectors_are_a_file(service: Service, storage: Storage, alice: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.services.keeping.fits_an_answer", lambda text: len(text) < 1000)
    service.act("model.set", **EMBEDDER)
    vectors = [base64.b64encode(bytes(400)).decode()] * 2
    output = Output(items=tuple(OutputEmbedding(vector=each) for each in vectors))
    asked = Submission(input=Input.of_prompt("a text"), model="embedder", kind="embedding")
    request_id = service.submitter().submit(alice, asked).request_id
    work(service, storage, request_id, output)
    assert service.status(alice, request_id)["mime_type"] == "application/json"
    ((kind, content),) = objects()
    assert (kind, json.loads(content)) == ("application/json", {"embeddings": vectors})


def test_a_refusal_is_no_file(service: Service, storage: Storage, alice: bytes) -> None:
    """Programs look for it in the document, so it stays there as long as an answer of Lambda can hold it."""
    request_id = answered(service, storage, alice, Output.of_text("", refusal=LONG))
    assert service.status(alice, request_id)["result"] == LONG
    assert list(objects()) == []
    assert_books_balance(service)


def test_without_a_bucket_the_database_keeps_it(service: Service, storage: Storage, alice: bytes) -> None:
    request_id = answered(service, None, alice, Output.of_text(LONG))
    assert service.status(alice, request_id)["result"] == LONG
    assert_books_balance(service)


def test_longer_than_any_answer_may_be_fails(service: Service, storage: Storage, alice: bytes) -> None:
    request_id = answered(service, storage, alice, Output.of_text("x" * (LONGEST + 1)))
    assert service.status(alice, request_id)["error"]["code"] == "result_too_large"
    assert list(objects()) == []
