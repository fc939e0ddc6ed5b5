"""Inputs that are too large for the database: in the bucket before their requests are accepted, and read by workers."""

import base64
import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import boto3
import pytest
from psycopg.types.json import Jsonb

from sluice.api.native.bodies import GenerateRequest
from sluice.domain.documents import ImagePart, Input, Message, TextPart
from sluice.domain.errors import SluiceError
from sluice.domain.fingerprint import question_fingerprint
from sluice.domain.requests import Claim, Completion, RequestLimits, Submission
from sluice.services.erase import Eraser
from sluice.services.inputs import INLINE_BYTES, InputKeeper
from sluice.services.keeping import Keeper
from sluice.services.process import Worker, WorkerSettings
from sluice.services.read import Reader
from sluice.services.submit import Submitter
from sluice.services.tasks import objects
from sluice.storage import Storage
from tests.support.bucket import BUCKET
from tests.support.ledger import assert_books_balance, violations
from tests.support.service import Service

LIMITS = RequestLimits(max_prompt_bytes=1_000_000, longest_seconds=86_400, max_attempts=20)
SETTINGS = WorkerSettings(max_result_bytes=1000, flush_seconds=0.0, retry_base_seconds=1, lease_margin_seconds=30)
LARGE = "ü" * (INLINE_BYTES // 2) + "."
SMALL = "ü" * (INLINE_BYTES // 2)


class Listens:
    """A model that remembers what it was asked."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def complete(self, claim: Claim, timeout: float) -> Completion:
        self.claims.append(claim)
        return Completion.of_text("an answer", 7, 3)


@pytest.fixture
def model() -> Listens:
    return Listens()


@pytest.fixture(autouse=True)
def unlimited(service: Service, alice: bytes) -> None:
    every = {"max_requests": None, "max_tokens": None}
    service.act("quota.set", user_id="alice", limits=dict.fromkeys(("minute", "daily", "monthly"), every))


def submit(service: Service, storage: Storage, key_hash: bytes, prompt: str = LARGE, **given: Any) -> UUID:
    asked = GenerateRequest(prompt=prompt, **given).submission()
    return submitter(service, storage).submit(key_hash, asked).request_id


def submitter(service: Service, storage: Storage) -> Submitter:
    return Submitter(
        ledger=service.ledger("submit"), queue=service.queue, limits=LIMITS, inputs=InputKeeper(lambda: storage)
    )


def work(service: Service, storage: Storage, model: Listens, request_id: UUID) -> None:
    worker = Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"openai": model, "bedrock": model},
        keeper=Keeper(lambda: storage, 1000, 1000, 1 << 20),
        settings=SETTINGS,
        remaining_seconds=lambda: 30.0,
    )
    for claim in service.ledger("worker").claim([request_id], 60):
        worker.run(claim)


def keys() -> list[str]:
    listed = boto3.client("s3").list_object_versions(Bucket=BUCKET)
    return [each["Key"] for each in listed.get("Versions", ())]


def test_the_worker_gets_all_of_it(service: Service, storage: Storage, alice: bytes, model: Listens) -> None:
    request_id = submit(service, storage, alice)
    (kept,) = service.rows("SELECT input, prompt FROM prompts")
    assert kept["prompt"] == LARGE[:1000]
    assert kept["input"]["stored"]["object_id"] in keys()[0]
    # Counted as if the database had it.
    assert service.value("SELECT reserved_tokens FROM requests") > len(LARGE.encode())
    work(service, storage, model, request_id)
    (claim,) = model.claims
    assert claim.input == Input.of_prompt(LARGE)
    assert service.status(alice, request_id)["status"] == "completed"
    assert service.value("SELECT encode(fingerprint, 'hex') FROM results") == question_fingerprint(claim)
    assert service.history(alice)["requests"][0]["prompt"] == LARGE[:1000]
    assert_books_balance(service)


def test_a_small_one_stays_in_the_database(service: Service, storage: Storage, alice: bytes) -> None:
    submit(service, storage, alice, SMALL)
    assert keys() == []
    assert service.value("SELECT input FROM prompts") == Input.of_prompt(SMALL).to_json()


def test_an_image_in_the_body_counts(service: Service, storage: Storage, alice: bytes, model: Listens) -> None:
    service.act("model.set", model_id="nova-micro", image_tokens=100)
    url = "data:image/png;base64," + base64.b64encode(bytes(INLINE_BYTES)).decode()
    message = Message(role="user", content=(TextPart(text="What is it?"), ImagePart(type="image", url=url)))
    asked = Submission(input=Input(messages=(message,)))
    request_id = submitter(service, storage).submit(alice, asked).request_id
    assert len(keys()) == 1
    work(service, storage, model, request_id)
    assert model.claims[0].input.messages == (message,)
    assert_books_balance(service)


def test_who_reads_a_request_gets_all_of_it(service: Service, storage: Storage, alice: bytes) -> None:
    request_id = submit(service, storage, alice)
    reader = Reader(service.ledger("openai"), inputs=InputKeeper(lambda: storage))
    assert reader.detail(alice, request_id).input == Input.of_prompt(LARGE)


@pytest.mark.parametrize("refused", ["no key", "a quota", "a model", "a size"])
def test_what_is_refused_is_not_written(service: Service, storage: Storage, alice: bytes, refused: str) -> None:
    given: dict[str, Any] = {"model": "unheard-of"} if refused == "a model" else {}
    if refused == "a quota":
        service.act("quota.set", user_id="alice", limits={"daily": {"max_tokens": 1000}})
    key_hash = b"\0" * 32 if refused == "no key" else alice
    prompt = "x" * 1_000_001 if refused == "a size" else LARGE
    with pytest.raises(SluiceError):
        submit(service, storage, key_hash, prompt, **given)
    assert keys() == []
    assert service.value("SELECT count(*) FROM requests") == 0


def test_nothing_is_accepted_while_storage_is_away(service: Service, storage: Storage, alice: bytes) -> None:
    boto3.client("s3").delete_bucket(Bucket=BUCKET)
    with pytest.raises(SluiceError, match="storage_unavailable"):
        submit(service, storage, alice)
    assert service.value("SELECT count(*) FROM requests") == 0
    submit(service, storage, alice, SMALL)
    assert_books_balance(service)


def test_a_worker_waits_for_storage(service: Service, storage: Storage, alice: bytes, model: Listens) -> None:
    request_id = submit(service, storage, alice)
    away = Storage(boto3.client("s3"), "not-there")
    work(service, away, model, request_id)
    waiting = service.status(alice, request_id)
    assert (waiting["status"], waiting["queue"]["last_error"]) == ("queued", "storage_unavailable")
    assert model.claims == []
    service.owner.execute("UPDATE inflight SET not_before = NULL, dispatched_at = now()")
    work(service, storage, model, request_id)
    assert service.status(alice, request_id)["status"] == "completed"
    assert_books_balance(service)


def test_what_was_altered_is_not_asked(service: Service, storage: Storage, alice: bytes, model: Listens) -> None:
    request_id = submit(service, storage, alice)
    (key,) = keys()
    forged = json.dumps(Input.of_prompt("something else").to_json()).encode()
    version = boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=forged)["VersionId"]
    kept = service.value("SELECT input FROM prompts")
    kept["stored"]["version_id"] = version
    service.owner.execute("UPDATE prompts SET input = %s", (Jsonb(kept),))
    work(service, storage, model, request_id)
    assert model.claims == []
    assert service.status(alice, request_id)["queue"]["last_error"] == "storage_unavailable"


def test_a_repeat_writes_nothing(service: Service, storage: Storage, alice: bytes) -> None:
    asked = replace(GenerateRequest(prompt=LARGE).submission(), idempotency_key="a key")
    first = submitter(service, storage).submit(alice, asked)
    again = submitter(service, storage).submit(alice, asked)
    assert (again.request_id, again.replayed) == (first.request_id, True)
    assert len(keys()) == 1
    assert_books_balance(service)


def test_what_is_refused_after_it_was_written_is_swept(
    service: Service, storage: Storage, alice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quota was there when it was looked at, and another request had it a moment later."""
    ledger = service.ledger("submit")
    asked = GenerateRequest(prompt=LARGE).submission()
    stored = InputKeeper(lambda: storage).keep(ledger, alice, asked, LIMITS)
    service.act("quota.set", user_id="alice", limits={"daily": {"max_requests": 0}})
    assert ledger.submit(alice, asked, LIMITS, stored).outcome == "quota_too_small"
    assert len(keys()) == 1
    assert_books_balance(service)
    monkeypatch.setattr(objects, "GRACE", -objects.GRACE)
    assert objects.run(service.tasks(storage=storage))["orphans_deleted"] == 1
    assert keys() == []


def test_erasing_takes_it_away(service: Service, storage: Storage, alice: bytes, model: Listens) -> None:
    request_id = submit(service, storage, alice)
    work(service, storage, model, request_id)
    Eraser(service.ledger("openai"), service.queue).erase(alice, request_id)
    assert_books_balance(service)
    assert objects.run(service.tasks(storage=storage))["deleted"] == 1
    assert keys() == []
    assert_books_balance(service)


def test_an_object_without_its_prompt_and_a_prompt_without_its_object_are_violations(
    service: Service, storage: Storage, alice: bytes
) -> None:
    submit(service, storage, alice)
    kept = service.value("SELECT input FROM prompts")
    service.owner.execute("UPDATE prompts SET input = input - 'stored'")
    assert [each["invariant"] for each in violations(service)] == ["object_is_kept"]
    service.owner.execute("UPDATE prompts SET input = %s", (Jsonb(kept),))
    assert_books_balance(service)
    service.owner.execute("DELETE FROM objects")
    assert [each["invariant"] for each in violations(service)] == ["object_is_kept"]
