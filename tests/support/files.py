"""Files and uploads as clients send them, to the deployed function openai with a bucket."""

import base64
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.exceptions import EndpointConnectionError

from sluice import bootstrap
from sluice.storage import Storage
from tests.support.bucket import BUCKET
from tests.support.openai_api import Api, Reply
from tests.support.service import Service

BOUNDARY = "0f1e2d3c"
OTHER_KEY = "sluice_" + "b" * 43
Field = tuple[str, bytes, str | None]
"""Its name, its content, and the name of the file; None: it is none."""


def form(*fields: Field) -> bytes:
    """A body of the type multipart/form-data."""
    parts = []
    for name, content, filename in fields:
        said = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
        parts.append(f"--{BOUNDARY}\r\nContent-Disposition: {said}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def texts(**fields: str) -> list[Field]:
    """Fields that are no files; expires_after_seconds stands for expires_after[seconds]."""
    nested = {"expires_after_seconds": "expires_after[seconds]", "expires_after_anchor": "expires_after[anchor]"}
    return [(nested.get(name, name), text.encode(), None) for name, text in fields.items()]


class FileApi:
    """The routes of files and uploads.

    Attributes:
        headers: that every call has beside those of its own.
    """

    def __init__(self, api: Api, service: Service, storage: Storage) -> None:
        self.api, self.service, self.storage = api, service, storage
        self.headers: dict[str, str] = {}

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Reply:
        return self.api.call(method, path, body, self.headers, query)

    def send(self, path: str, body: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> Reply:
        """A body of bytes, as Lambda gets one: in base64."""
        headers = self.headers | {"content-type": content_type}
        return self.api.call("POST", path, base64.b64encode(body).decode(), headers, isBase64Encoded=True)

    def create(
        self, content: bytes = b"{}\n", filename: str = "lines.jsonl", purpose: str = "batch", **fields: str
    ) -> Reply:
        return self.send("/v1/files", form(*texts(purpose=purpose, **fields), ("file", content, filename)))

    def made(self, *given: Any, **fields: Any) -> str:
        """The id of a file that is created."""
        reply = self.create(*given, **fields)
        assert reply.status == 200, reply.text
        return str(reply.body["id"])

    def begin(self, size: int, **changes: Any) -> Reply:
        asked = {"filename": "large.jsonl", "purpose": "batch", "bytes": size, "mime_type": "application/jsonl"}
        return self.call("POST", "/v1/uploads", asked | changes)

    def begun(self, size: int, **changes: Any) -> str:
        """The id of an upload that has begun."""
        reply = self.begin(size, **changes)
        assert reply.status == 200, reply.text
        return str(reply.body["id"])

    def add(self, upload: str, content: bytes) -> Reply:
        return self.send(f"/v1/uploads/{upload}/parts", form(("data", content, "blob")))

    def added(self, upload: str, *contents: bytes) -> list[str]:
        """The ids of parts that are added."""
        replies = [self.add(upload, content) for content in contents]
        assert [reply.status for reply in replies] == [200] * len(contents), replies[-1].text
        return [reply.body["id"] for reply in replies]

    def complete(self, upload: str, parts: Sequence[str], **more: Any) -> Reply:
        return self.call("POST", f"/v1/uploads/{upload}/complete", {"part_ids": list(parts)} | more)

    def cancel(self, upload: str) -> Reply:
        return self.call("POST", f"/v1/uploads/{upload}/cancel")

    def content(self, file_id: str) -> bytes:
        """What is behind the address that a client is sent to."""
        reply = self.call("GET", f"/v1/files/{file_id}/content")
        assert reply.status == 302, reply.text
        address = urlsplit(reply.headers["Location"])
        version = parse_qs(address.query)["versionId"][0]
        found = boto3.client("s3").get_object(Bucket=BUCKET, Key=unquote(address.path[1:]), VersionId=version)
        content: bytes = found["Body"].read()
        return content

    def listed(self, **query: str) -> list[str]:
        reply = self.call("GET", "/v1/files", **query)
        assert reply.status == 200, reply.text
        return [each["id"] for each in reply.body["data"]]

    def left(self) -> dict[str, int]:
        """How many rows say that there is something."""
        return self.service.rows(
            "SELECT (SELECT count(*) FROM files WHERE deleted_at IS NULL) AS files,"
            " (SELECT count(*) FROM uploads WHERE status = 'pending') AS uploads,"
            " (SELECT count(*) FROM upload_parts) AS parts,"
            " (SELECT count(*) FROM objects WHERE deleted_at IS NULL) AS objects"
        )[0]


def in_bucket() -> list[str]:
    """The keys of all versions of objects, and of uploads that did not end."""
    client = boto3.client("s3")
    versions = client.list_object_versions(Bucket=BUCKET).get("Versions", ())
    uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
    return [each["Key"] for each in versions] + [f"unfinished {each['Key']}" for each in uploads]


class FailingClient:
    """A client of S3 of which one operation fails.

    Attributes:
        calls: the operations that were called.
    """

    def __init__(self, client: Any, fails: str = "", at: int = 1) -> None:
        self._client, self._fails, self._at = client, fails, at
        self.calls: list[str] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(*named: Any, **arguments: Any) -> Any:
            self.calls.append(operation)
            if operation == self._fails and self.calls.count(operation) == self._at:
                raise EndpointConnectionError(endpoint_url="https://bucket.example")
            return getattr(self._client, operation)(*named, **arguments)

        return call


def fail(monkeypatch: Any, operation: str, at: int = 1) -> FailingClient:
    """From now on, an operation of the function's bucket fails when it is called for the at-th time."""
    bootstrap.file_manager.cache_clear()
    client = FailingClient(boto3.client("s3"), operation, at)
    monkeypatch.setattr(bootstrap, "storage", lambda: Storage(client, BUCKET))
    return client
