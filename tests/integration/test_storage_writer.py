"""Objects that are written piece by piece, and read in ranges."""

import hashlib
import tracemalloc
from typing import Any

import boto3
import pytest

from sluice.domain.errors import SluiceError
from sluice.storage import PART_BYTES, Storage
from tests.support.bucket import BUCKET
from tests.support.files import FailingClient, in_bucket

MIB = 2**20


def content_of(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
def test_what_is_written_in_pieces_is_there_as_a_whole(storage: Storage, size: int) -> None:
    content, piece = content_of(size), 3 * MIB
    with storage.writer("files", "alice", "text/plain") as writer:
        for start in range(0, size, piece):
            writer.write(content[start : start + piece])
    stored = writer.stored
    assert (stored.byte_length, stored.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert (stored.object_class, stored.user_id, stored.mime_type) == ("files", "alice", "text/plain")
    assert storage.read(stored) == content
    assert storage.read_range(stored, 1, size) == content[1:]
    assert storage.read_range(stored, 3, 3) == b""
    listed = boto3.client("s3").list_object_versions(Bucket=BUCKET)["Versions"]
    assert [(each["Key"], each["VersionId"]) for each in listed] == [(stored.key, stored.version_id)]
    kept = boto3.client("s3").head_object(Bucket=BUCKET, Key=stored.key)
    assert kept["ContentType"] == "text/plain"
    assert in_bucket() == [stored.key]


def test_one_piece_may_be_many_parts(storage: Storage) -> None:
    content = content_of(2 * PART_BYTES + 5)
    with storage.writer("files", "alice", "text/plain") as writer:
        writer.write(content)
    assert storage.read(writer.stored) == content


@pytest.mark.parametrize("size", [0, 10, 2 * PART_BYTES])
def test_nothing_is_left_of_what_was_given_up(storage: Storage, size: int) -> None:
    def write() -> None:
        with storage.writer("files", "alice", "text/plain") as writer:
            writer.write(content_of(size))
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert in_bucket() == []


FAILURES: list[Any] = [
    ("put_object", 1, 10),
    ("create_multipart_upload", 1, 3 * PART_BYTES),
    ("upload_part", 1, 3 * PART_BYTES),
    ("upload_part", 3, 3 * PART_BYTES),
    ("upload_part", 3, 2 * PART_BYTES + 1),
    ("complete_multipart_upload", 1, 3 * PART_BYTES),
]


@pytest.mark.parametrize(("operation", "at", "size"), FAILURES)
def test_nothing_is_left_where_the_bucket_fails(storage: Storage, operation: str, at: int, size: int) -> None:
    failing = Storage(FailingClient(boto3.client("s3"), operation, at), BUCKET)

    def write() -> None:
        with failing.writer("files", "alice", "text/plain") as writer:
            for start in range(0, size, MIB):
                writer.write(content_of(min(MIB, size - start)))

    with pytest.raises(SluiceError) as raised:
        write()
    assert raised.value.code == "storage_unavailable"
    assert in_bucket() == []


def test_a_failure_to_clean_up_hides_nothing(storage: Storage) -> None:
    failing = Storage(FailingClient(boto3.client("s3"), "abort_multipart_upload"), BUCKET)

    def write() -> None:
        with failing.writer("files", "alice", "text/plain") as writer:
            writer.write(content_of(PART_BYTES))
            raise KeyError

    with pytest.raises(KeyError):
        write()


class Discarding:
    """A client of S3 that keeps nothing."""

    def __getattr__(self, operation: str) -> Any:
        return lambda **arguments: {"UploadId": "1", "ETag": "1", "VersionId": "1"}


def test_memory_holds_a_few_parts_at_most() -> None:
    piece = content_of(MIB)
    tracemalloc.start()
    try:
        with Storage(Discarding(), BUCKET).writer("files", "alice", "text/plain") as writer:
            for _ in range(100):
                writer.write(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert writer.stored.byte_length == 100 * MIB
    assert peak < 2.5 * PART_BYTES
