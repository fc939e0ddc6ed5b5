"""The bucket: holds what is too large for the database, and decides nothing. What an object is, and whether it is still
part of anything, is a row of the table `objects`."""

import base64
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, Final
from urllib.parse import quote
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from sluice.domain.errors import SluiceError
from sluice.domain.objects import ListedVersion, ObjectClass, StoredObject, Version

logger = logging.getLogger(__name__)

ADDRESS_SECONDS: Final = 300
"""How long an address under which a client fetches an object is valid."""
PART_BYTES: Final = 8 * 2**20
"""Of the parts in which a Writer sends what is larger; S3 wants 5 MiB at least."""
PAGE: Final = 1000
"""S3: entries of a ListObjectVersions answer, and keys of a DeleteObjects call."""


class Storage:
    """A bucket in S3. Every method raises SluiceError, storage_unavailable.

    Args:
        client: botocore's client of S3.
        bucket: its name.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def put(self, stored: StoredObject, body: bytes | IO[bytes]) -> str | None:
        """Write an object, of which S3 checks that it is what its digest says; returns its version, if there are any.

        A file is read as it is sent, never all at once.
        """
        answer = self.call(
            "put_object",
            Key=stored.key,
            Body=body,
            ContentLength=stored.byte_length,
            ContentType=stored.mime_type,
            ChecksumSHA256=_base64(stored.sha256),
        )
        version: str | None = answer.get("VersionId")
        return version

    def read(self, stored: StoredObject) -> bytes:
        """All of an object, which must be what its row says."""
        version = {"VersionId": stored.version_id} if stored.version_id else {}
        answer = self.call("get_object", Key=stored.key, **version)
        try:
            content: bytes = answer["Body"].read()
        except (BotoCoreError, OSError) as error:
            raise _unavailable("get_object", error) from None
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            logger.error("object altered", extra={"key": stored.key})
            raise SluiceError("storage_unavailable", "What is stored is not what was written.")
        return content

    def read_range(self, stored: StoredObject, start: int, end: int) -> bytes:
        """The bytes of an object from start up to but not including end."""
        if end <= start:
            return b""
        version = {"VersionId": stored.version_id} if stored.version_id else {}
        answer = self.call("get_object", Key=stored.key, Range=f"bytes={start}-{end - 1}", **version)
        try:
            content: bytes = answer["Body"].read()
        except (BotoCoreError, OSError) as error:
            raise _unavailable("get_object", error) from None
        return content

    def writer(self, object_class: ObjectClass, user_id: str, mime_type: str) -> "Writer":
        """Writes an object whose size is not known before; see Writer."""
        return Writer(self, object_class, user_id, mime_type)

    def address(self, stored: StoredObject, filename: str) -> str:
        """Where a client may fetch an object for ADDRESS_SECONDS, as a download with this name. Made without a call."""
        asked = {
            "Bucket": self._bucket,
            "Key": stored.key,
            "ResponseContentType": stored.mime_type,
            "ResponseContentDisposition": _download(filename),
            "ResponseCacheControl": "private, no-cache",
            **({"VersionId": stored.version_id} if stored.version_id else {}),
        }
        try:
            address: str = self._client.generate_presigned_url("get_object", Params=asked, ExpiresIn=ADDRESS_SECONDS)
        except BotoCoreError as error:
            raise _unavailable("generate_presigned_url", error) from None
        return address

    def delete(self, versions: Sequence[Version]) -> set[Version]:
        """Delete versions of objects for good; returns those of which that failed. One that is not there is deleted."""
        failed: set[Version] = set()
        for start in range(0, len(versions), PAGE):
            named = [
                {"Key": each.key} | ({"VersionId": each.version_id} if each.version_id else {})
                for each in versions[start : start + PAGE]
            ]
            answer = self.call("delete_objects", Delete={"Objects": named, "Quiet": True})
            if errors := [error for error in answer.get("Errors", ()) if error.get("Code") != "NoSuchVersion"]:
                logger.error("objects not deleted", extra={"count": len(errors), "error": errors[0].get("Code")})
                failed |= {Version(error["Key"], error.get("VersionId")) for error in errors}
        return failed

    def parts(self, after: str | None) -> Iterator[tuple[Sequence[ListedVersion], str | None]]:
        """Every version of every key after this one, in the order of the keys, in parts, each with its last key.

        All versions of a key are in one part. With the last part, the last key is None.
        """
        kept: list[ListedVersion] = []
        position: dict[str, Any] = {"KeyMarker": after} if after else {}
        while True:
            answer = self.call("list_object_versions", MaxKeys=PAGE, **position)
            listed = [_listed(entry) for entry in answer.get("Versions", ())]
            # Some servers begin with the marker's key, and not after it.
            found = kept + [each for each in listed if each.key.encode() > (after or "").encode()]
            if not answer.get("IsTruncated"):
                yield found, None
                return
            position = {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer["NextVersionIdMarker"]}
            # S3 may end a page between two versions of a key.
            kept = [each for each in found if each.key == found[-1].key]
            if whole := found[: len(found) - len(kept)]:
                yield whole, whole[-1].key

    def call(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """An operation of S3 on the bucket."""
        try:
            answer: Mapping[str, Any] = getattr(self._client, operation)(Bucket=self._bucket, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise _unavailable(operation, error) from None
        return answer


def _listed(entry: Mapping[str, Any]) -> ListedVersion:
    # What a bucket without versions keeps has the version "null".
    version = entry.get("VersionId")
    return ListedVersion(entry["Key"], None if version == "null" else version, entry["LastModified"], entry["IsLatest"])


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


def _unavailable(operation: str, error: Exception) -> SluiceError:
    code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
    logger.error("storage failed", extra={"operation": operation, "error": code or type(error).__name__})
    return SluiceError("storage_unavailable", "Storage cannot be reached now: try again.", retry_after=5)


class Writer:
    """Writes an object piece by piece, of which memory holds PART_BYTES and a piece: a context manager.

    At the end of the context it is written; if that ends with an exception, it is not.

    Attributes:
        stored: what was written. Only after the end.
    """

    stored: StoredObject

    def __init__(self, storage: Storage, object_class: ObjectClass, user_id: str, mime_type: str) -> None:
        self._storage = storage
        self._object = StoredObject(uuid4(), object_class, user_id, mime_type, 0, "")
        self._digest = hashlib.sha256()
        self._length = 0
        self._kept = bytearray()
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def __enter__(self) -> "Writer":
        return self

    def write(self, content: bytes) -> None:
        """Add a piece.

        Raises:
            SluiceError: storage_unavailable.
        """
        self._digest.update(content)
        self._length += len(content)
        self._kept += content
        while len(self._kept) >= PART_BYTES:
            # A slice would be one more copy.
            with memoryview(self._kept) as kept:
                part = bytes(kept[:PART_BYTES])
            self._send(part)
            del self._kept[:PART_BYTES]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._abort()
            return
        try:
            self._finish()
        except SluiceError:
            self._abort()
            raise

    def _send(self, part: bytes) -> None:
        if self._upload_id is None:
            begun = self._storage.call(
                "create_multipart_upload",
                Key=self._object.key,
                ContentType=self._object.mime_type,
                ChecksumAlgorithm="SHA256",
            )
            self._upload_id = begun["UploadId"]
        number = len(self._parts) + 1
        checksum = _base64(hashlib.sha256(part).hexdigest())
        sent = self._storage.call(
            "upload_part",
            Key=self._object.key,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=part,
            ChecksumSHA256=checksum,
        )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum})

    def _finish(self) -> None:
        written = replace(self._object, byte_length=self._length, sha256=self._digest.hexdigest())
        if self._upload_id is None:
            self.stored = replace(written, version_id=self._storage.put(written, bytes(self._kept)))
            return
        if self._kept:
            self._send(bytes(self._kept))
        done = self._storage.call(
            "complete_multipart_upload",
            Key=written.key,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": self._parts},
        )
        self.stored = replace(written, version_id=done.get("VersionId"))

    def _abort(self) -> None:
        # If this fails, too, the bucket removes the parts after a day.
        if self._upload_id is not None:
            with suppress(SluiceError):
                self._storage.call("abort_multipart_upload", Key=self._object.key, UploadId=self._upload_id)


def _download(filename: str) -> str:
    """A Content-Disposition (RFC 6266) for a download with this name."""
    if re.fullmatch(r"[ !#-\[\]-~]+", filename):
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
