"""Answers that are too large for the database: written to the bucket, given out by address, erased, swept."""

import base64
import hashlib
import json
import time
import tracemalloc
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.domain.errors import SluiceError
from sluice.domain.objects import StoredObject, Version
from sluice.domain.sizes import MAX_FILE_BYTES
from sluice.services.erase import Eraser
from sluice.services.keeping import Keeper
from sluice.services.process import Worker, WorkerSettings
from sluice.services.read import Reader
from sluice.services.tasks import objects
from sluice.storage import Storage
from tests.support.bucket import BUCKET
from tests.support.ledger import assert_books_balance, violations
from tests.support.openai_api import ARTIST, MP3, PNG, SPEAKER
from tests.support.service import Service
from tests.unit.scripted_server import Reply, ScriptedServer

MOST = 24 << 20
SETTINGS = WorkerSettings(max_result_bytes=1000, flush_seconds=0.0, retry_base_seconds=1, lease_margin_seconds=30)
# Kept in memory while they are read, and on the disk.
SIZES = (MAX_FILE_BYTES + 1, 20 << 20)
OLD = timedelta(hours=2)
NOTHING = {"deleted": 0, "not_deleted": 0, "compared": 0, "missing": 0, "orphans_deleted": 0}
Sweep = Callable[[], dict[str, int]]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture(autouse=True)
def models(service: Service, server: ScriptedServer, alice: bytes) -> None:
    for model in (ARTIST, SPEAKER):
        service.act("model.set", **model | {"endpoint": f"{server.url}/v1", "prices": {"prompt": "1"}})


def speak(service: Service, storage: Storage | None, alice: bytes) -> UUID:
    """A request for a recording that a worker has had."""
    request_id = service.submit(alice, "a text", model="speaker", speech={"voice": "alloy"})
    work(service, storage, request_id)
    return request_id


def work(service: Service, storage: Storage | None, request_id: UUID) -> None:
    worker = Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"openai": OpenAIBackend(str, 1000, MOST)},
        keeper=Keeper(None if storage is None else lambda: storage, 1000, 1000, MOST),
        settings=SETTINGS,
        remaining_seconds=lambda: 30.0,
    )
    for claim in service.ledger("worker").claim([request_id], 60):
        worker.run(claim)


def recording(size: int) -> bytes:
    return MP3 + bytes(size - len(MP3))


LARGE = Reply(body=recording(MAX_FILE_BYTES + 1), headers={"Content-Type": "audio/mpeg"})
"""A recording that is too large for the database."""


def keys() -> list[str]:
    listed = boto3.client("s3").list_object_versions(Bucket=BUCKET)
    return [each["Key"] for each in listed.get("Versions", ())]


def fetched(service: Service, storage: Storage, alice: bytes, request_id: UUID) -> tuple[str, bytes, dict[str, str]]:
    """The type and the bytes behind the address that whoever may read the answer gets, and what the address says."""
    found = Reader(service.ledger("status"), lambda: storage).result(alice, request_id)
    assert found.stored is not None
    address = urllib.parse.urlsplit(storage.address(found.stored, "a name"))
    query = dict(urllib.parse.parse_qsl(address.query))
    answer = boto3.client("s3").get_object(
        Bucket=BUCKET, Key=urllib.parse.unquote(address.path[1:]), VersionId=query["versionId"]
    )
    return answer["ContentType"], answer["Body"].read(), query


@pytest.mark.parametrize("size", SIZES)
def test_a_large_recording_is_in_the_bucket(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes, size: int
) -> None:
    server.replies(Reply(body=recording(size), headers={"Content-Type": "audio/mpeg"}))
    request_id = speak(service, storage, alice)
    seen = service.status(alice, request_id)
    assert (seen["status"], seen["byte_length"], seen["mime_type"]) == ("completed", size, "audio/mpeg")
    kind, content, query = fetched(service, storage, alice, request_id)
    assert (kind, content) == ("audio/mpeg", recording(size))
    assert query["response-content-type"] == "audio/mpeg"
    assert query["response-content-disposition"] == 'attachment; filename="a name"'
    assert query["X-Amz-Expires"] == "300"
    (row,) = service.rows("SELECT *, encode(sha256, 'hex') AS digest FROM objects")
    assert (row["byte_length"], row["digest"]) == (size, hashlib.sha256(content).hexdigest())
    assert keys() == [row["key"]] == [f"results/alice/{row['object_id']}"]
    assert service.value("SELECT octet_length(content) FROM binary_results") == 0
    assert_books_balance(service)


@pytest.mark.parametrize("size", SIZES)
def test_a_large_image_is_decoded(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes, size: int
) -> None:
    image = PNG + bytes(size - len(PNG))
    body = {"usage": {"input_tokens": 7, "output_tokens": 9}, "data": [{"b64_json": base64.b64encode(image).decode()}]}
    server.replies(Reply(body=body))
    request_id = service.submit(alice, "a zebra", model="artist", image={})
    work(service, storage, request_id)
    seen = service.status(alice, request_id)
    assert (seen["status"], seen["usage"]["total_tokens"]) == ("completed", 16)
    kind, content, _ = fetched(service, storage, alice, request_id)
    assert kind == "image/png"
    assert content == image
    assert_books_balance(service)


def test_slashes_may_be_escaped(service: Service, server: ScriptedServer, storage: Storage, alice: bytes) -> None:
    """As any character may be in JSON."""
    image = PNG + b"\xff" * (9 << 20)
    text = json.dumps({"data": [{"b64_json": base64.b64encode(image).decode()}]}).replace("/", "\\/")
    server.replies(Reply(body=text.encode()))
    request_id = service.submit(alice, "a zebra", model="artist", image={})
    work(service, storage, request_id)
    assert fetched(service, storage, alice, request_id)[1] == image


@pytest.mark.parametrize("encoded", ["!" * (12 << 20), "QUJD" * (3 << 20), ""])
def test_what_is_no_image_is_a_bad_answer(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes, encoded: str
) -> None:
    server.replies(Reply(body={"data": [{"b64_json": encoded}], "more": "x" * (12 << 20) if not encoded else ""}))
    request_id = service.submit(alice, "a zebra", model="artist", image={})
    work(service, storage, request_id)
    assert service.status(alice, request_id)["queue"]["last_error"] == "model_bad_response"
    assert keys() == []


def test_what_is_too_large_even_for_the_bucket_fails(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes
) -> None:
    server.replies(Reply(body=recording(MOST + 1), headers={"Content-Type": "audio/mpeg"}))
    request_id = speak(service, storage, alice)
    assert service.status(alice, request_id)["error"]["code"] == "result_too_large"
    assert keys() == []
    assert_books_balance(service)


def test_without_a_bucket_it_fails(service: Service, server: ScriptedServer, alice: bytes) -> None:
    server.replies(LARGE)
    request_id = speak(service, None, alice)
    assert service.status(alice, request_id)["error"]["code"] == "result_too_large"


def test_memory_does_not_grow_with_the_answer(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the worker; the bucket that tests have is in memory, so its part is left out."""
    monkeypatch.setattr(Storage, "put", lambda *_: "a version")
    image = PNG + bytes((20 << 20) - len(PNG))
    reply = Reply(body={"data": [{"b64_json": base64.b64encode(image).decode()}]})
    del image
    server.replies(reply)
    request_id = service.submit(alice, "a zebra", model="artist", image={})
    tracemalloc.start()
    try:
        work(service, storage, request_id)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert service.status(alice, request_id)["status"] == "completed"
    # The server is in this process too: it holds what it sends, as text and as bytes.
    assert peak < (28 << 20) * 2 + (16 << 20)


def test_storage_that_is_away_costs_nobody_anything(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes
) -> None:
    server.replies(LARGE, LARGE)
    boto3.client("s3").delete_bucket(Bucket=BUCKET)
    request_id = speak(service, storage, alice)
    waiting = service.status(alice, request_id)
    assert (waiting["status"], waiting["queue"]["last_error"]) == ("queued", "storage_unavailable")
    assert waiting["queue"]["last_error_fault"] == "operator"
    assert_books_balance(service)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    service.owner.execute("UPDATE inflight SET not_before = NULL, dispatched_at = now()")
    work(service, storage, request_id)
    assert service.status(alice, request_id)["status"] == "completed"
    assert service.value("SELECT total_tokens FROM requests") == len("a text")
    assert_books_balance(service)


def test_the_last_attempt_costs_nobody_anything_either(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes
) -> None:
    server.replies(LARGE)
    boto3.client("s3").delete_bucket(Bucket=BUCKET)
    request_id = service.submit(alice, "a text", model="speaker", speech={"voice": "alloy"})
    service.owner.execute("UPDATE inflight SET max_attempts = 1")
    work(service, storage, request_id)
    seen = service.status(alice, request_id)
    assert (seen["status"], seen["error"]["code"]) == ("failed", "storage_unavailable")
    assert [each["charged"] for each in seen["attempts"]] == [False]
    assert not service.value("SELECT total_tokens FROM requests")
    assert service.value("SELECT sum(tokens_used + tokens_reserved) FROM quotas WHERE user_id = 'alice'") == 0
    assert_books_balance(service)


def test_an_upload_that_is_cut_off_is_no_fault_of_the_model(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, left = Event(), iter([10.0] * 4)

    def put(*_: object) -> None:
        released.wait(30)

    monkeypatch.setattr(Storage, "put", put)
    server.replies(LARGE)
    request_id = service.submit(alice, "a text", model="speaker", speech={"voice": "alloy"})
    began = time.monotonic()
    worker = Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"openai": OpenAIBackend(str, 1000, MOST)},
        keeper=Keeper(lambda: storage, 1000, 1000, MOST),
        settings=SETTINGS,
        # Until the upload is under way there is time; then there is none.
        remaining_seconds=lambda: next(left, 10.0 - (time.monotonic() - began)),
    )
    for claim in service.ledger("worker").claim([request_id], 60):
        worker.run(claim)
    released.set()
    seen = service.status(alice, request_id)
    assert (seen["status"], seen["queue"]["last_error"]) == ("queued", "storage_unavailable")
    assert_books_balance(service)


def test_an_answer_that_is_erased_while_it_is_read_is_not_there(
    service: Service, server: ScriptedServer, storage: Storage, alice: bytes
) -> None:
    server.replies(LARGE)
    request_id = speak(service, storage, alice)
    # What a reader sees whose first statement came before the erasing and whose second one came after.
    service.owner.execute("UPDATE objects SET deleted_at = now()")
    with pytest.raises(SluiceError, match="result_not_found"):
        Reader(service.ledger("status"), lambda: storage).result(alice, request_id)


def test_erasing_takes_the_object_away(
    service: Service, server: ScriptedServer, storage: Storage, sweep: Sweep, alice: bytes
) -> None:
    server.replies(LARGE)
    request_id = speak(service, storage, alice)
    Eraser(service.ledger("openai"), service.queue).erase(alice, request_id)
    with pytest.raises(SluiceError, match="result_not_found"):
        Reader(service.ledger("status"), lambda: storage).result(alice, request_id)
    assert_books_balance(service)
    assert sweep()["deleted"] == 1
    assert keys() == []
    assert service.value("SELECT count(*) FROM objects") == 0
    assert_books_balance(service)


# The sweep -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(service: Service, storage: Storage) -> Sweep:
    context = service.tasks(storage=storage)
    return lambda: objects.run(context)


def stored(user_id: str = "alice") -> StoredObject:
    return StoredObject(uuid4(), "results", user_id, "audio/mpeg", 1, hashlib.sha256(b"x").hexdigest())


def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every object in the bucket had been written a while ago."""
    monkeypatch.setattr(objects, "GRACE", -OLD)


def test_an_object_without_a_row_is_deleted_when_it_is_old(
    service: Service,
    server: ScriptedServer,
    storage: Storage,
    sweep: Sweep,
    alice: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.replies(LARGE)
    speak(service, storage, alice)
    (kept,) = keys()
    storage.put(stored(), b"x")
    assert sweep() == {**NOTHING, "compared": 2}
    aged(monkeypatch)
    assert sweep() == {**NOTHING, "compared": 2, "orphans_deleted": 1}
    assert keys() == [kept]


def test_what_cannot_be_deleted_does_not_keep_the_rest(
    service: Service,
    server: ScriptedServer,
    storage: Storage,
    sweep: Sweep,
    alice: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.replies(LARGE, LARGE)
    for request_id in (speak(service, storage, alice), speak(service, storage, alice)):
        Eraser(service.ledger("openai"), service.queue).erase(alice, request_id)
    delete, (stubborn, _) = Storage.delete, keys()

    def most(self: Storage, versions: Sequence[Version]) -> set[Version]:
        delete(self, [each for each in versions if each.key != stubborn])
        return {each for each in versions if each.key == stubborn}

    monkeypatch.setattr(Storage, "delete", most)
    with pytest.raises(SluiceError, match="task_failed") as failed:
        sweep()
    assert failed.value.extra["done"] == {**NOTHING, "deleted": 1, "not_deleted": 1, "compared": 1}
    assert keys() == [stubborn]


def test_a_version_that_no_row_names_is_deleted(
    service: Service,
    server: ScriptedServer,
    storage: Storage,
    sweep: Sweep,
    alice: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody puts another object in its place: clients still get the one that was written."""
    server.replies(LARGE)
    request_id = speak(service, storage, alice)
    (key,) = keys()
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"forged")
    assert fetched(service, storage, alice, request_id)[1] == recording(MAX_FILE_BYTES + 1)
    aged(monkeypatch)
    assert sweep()["orphans_deleted"] == 1
    assert keys() == [key]
    assert fetched(service, storage, alice, request_id)[1] == recording(MAX_FILE_BYTES + 1)


def test_a_row_without_an_object_is_a_violation_until_the_object_is_back(
    service: Service,
    server: ScriptedServer,
    storage: Storage,
    sweep: Sweep,
    alice: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.replies(LARGE)
    speak(service, storage, alice)
    (row,) = service.rows("SELECT key, version_id FROM objects")
    service.owner.execute("UPDATE objects SET created_at = created_at - %s", (OLD,))
    boto3.client("s3").delete_object(Bucket=BUCKET, Key=row["key"], VersionId=row["version_id"])
    assert sweep()["missing"] == 1
    assert [each["invariant"] for each in violations(service)] == ["object_is_kept"]
    assert sweep()["missing"] == 0, "it is reported once"
    # A bucket that is restored gives the object another version, which the row is then told.
    answer = boto3.client("s3").put_object(Bucket=BUCKET, Key=row["key"], Body=recording(MAX_FILE_BYTES + 1))
    service.owner.execute("UPDATE objects SET version_id = %s", (answer["VersionId"],))
    sweep()
    assert_books_balance(service)
    actions = service.rows("SELECT action FROM audit_log WHERE action LIKE 'object%%' ORDER BY audit_id")
    assert [each["action"] for each in actions] == ["object.missing", "object.found"]


def test_an_object_that_was_deleted_as_people_do_is_missed_while_it_can_be_brought_back(
    service: Service, server: ScriptedServer, storage: Storage, sweep: Sweep, alice: bytes
) -> None:
    server.replies(LARGE)
    request_id = speak(service, storage, alice)
    service.owner.execute("UPDATE objects SET created_at = created_at - %s", (OLD,))
    (key,) = keys()
    marker = boto3.client("s3").delete_object(Bucket=BUCKET, Key=key)["VersionId"]
    assert fetched(service, storage, alice, request_id)[1] == recording(MAX_FILE_BYTES + 1)
    assert sweep()["missing"] == 1
    assert [each["invariant"] for each in violations(service)] == ["object_is_kept"]
    boto3.client("s3").delete_object(Bucket=BUCKET, Key=key, VersionId=marker)
    sweep()
    assert_books_balance(service)


def test_a_sweep_goes_on_where_it_stopped(
    service: Service, storage: Storage, sweep: Sweep, alice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.storage.PAGE", 2)
    written = sorted([stored(user) for user in ("a b", "alice", "ålice", "z/../z")], key=lambda each: each.key.encode())
    for each in written:
        storage.put(each, b"x")
        storage.put(each, b"x")
    monkeypatch.setattr(objects, "SECONDS", -1.0)
    looked: list[Any] = []
    while not service.value("SELECT after_key IS NULL AND finished_at IS NOT NULL FROM object_sweep"):
        assert len(looked) < 10
        looked.append(sweep()["compared"])
    assert sum(looked) == 2 * len(written)
    assert len(looked) > 1


def test_keys_keep_users_apart() -> None:
    one, other = stored("a/b"), stored("a")
    assert one.key.startswith("results/a%2Fb/")
    assert not one.key.startswith(other.key.rpartition("/")[0] + "/")
    assert stored("..").key.split("/")[1] == "%2E%2E"


def test_every_failure_of_storage_is_the_same_error(storage: Storage) -> None:
    boto3.client("s3").delete_bucket(Bucket=BUCKET)
    for call in (
        lambda: storage.put(stored(), b"x"),
        lambda: storage.delete([Version("results/alice/x", None)]),
        lambda: list(storage.parts(None)),
    ):
        with pytest.raises(SluiceError, match="storage_unavailable"):
            call()
