"""GET /results/{request_id}: an answer by itself, whole or in part, with a type of its own."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from aws_lambda_powertools.event_handler import Response

from sluice.api.exchange import HEADERS
from sluice.api.ranges import UnsatisfiableError, has_tag, is_current, may_have_tag, wanted_span
from sluice.domain.documents import JSON_TYPE, TEXT_TYPE
from sluice.domain.errors import SluiceError
from sluice.domain.files import FILE_TYPES, safe_type
from sluice.domain.objects import StoredObject
from sluice.domain.requests import StoredResult
from sluice.domain.sizes import MAX_FILE_BYTES
from sluice.services.read import Reader

_EXTENSIONS: Final = {**FILE_TYPES, TEXT_TYPE: "txt", JSON_TYPE: "json"}
# A client may keep an answer, which never changes, and has to ask whether it is still there: it may have been erased.
CACHED: Final = "private, no-cache"


def get_result(
    reader: Reader, key_hash: bytes, request_id: UUID | None, asked: Mapping[str, str | None]
) -> Response[Any]:
    """The answer of one request of the caller by itself.

    Args:
        asked: the headers Range, If-Range, If-Match and If-None-Match, by their names in lower case.

    Raises:
        SluiceError: etag_differs, range_not_satisfiable; as Reader.result().
    """
    found = reader.result(key_hash, request_id)
    content, kind = content_of(found)
    if found.stored is not None:
        # Range goes there with the client, and conditions too: they are about the ETag that the bucket gives it.
        address = reader.address(found.stored, f"{found.request_id}.{_EXTENSIONS[kind]}")
        return redirect(302, address, found.stored)
    tag = f'"{_digest(found, content)}"'
    filename = f"{found.request_id}.{_EXTENSIONS[kind]}"
    headers = HEADERS | {
        "Cache-Control": CACHED,
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    if not may_have_tag(asked.get("if-match"), tag):
        raise SluiceError(
            "etag_differs", f"The result has the ETag {tag}, which If-Match does not name: fetch it anew."
        )
    if has_tag(asked.get("if-none-match"), tag):
        return Response(304, None, "", headers)
    try:
        span = wanted_span(asked.get("range"), len(content)) if is_current(asked.get("if-range"), tag) else None
    except UnsatisfiableError:
        raise SluiceError(
            "range_not_satisfiable",
            f"The result has {len(content)} bytes: ask for some of these, or leave Range out.",
            byte_length=len(content),
        ) from None
    if span is None:
        return Response(200, kind, _body(found, content), headers | {"Content-Length": str(len(content))})
    # In base64, Lambda answers with no more than this. A part may be shorter than was asked for.
    part = content[span.first : min(span.last + 1, span.first + MAX_FILE_BYTES)]
    where = f"bytes {span.first}-{span.first + len(part) - 1}/{len(content)}"
    return Response(206, kind, part, headers | {"Content-Range": where, "Content-Length": str(len(part))})


def redirect(status: int, address: str, stored: StoredObject) -> Response[Any]:
    """Sends a client to where an answer is kept, and tells what it will be.

    Args:
        status: 302; 303, where the client has sent a body.
    """
    digest = base64.b64encode(bytes.fromhex(stored.sha256)).decode()
    headers = {"Location": address, "Cache-Control": "no-store", "Repr-Digest": f"sha-256=:{digest}:"}
    return Response(status, None, "", HEADERS | headers)


def content_of(found: StoredResult) -> tuple[bytes, str]:
    """An answer as bytes, and their MIME type; no bytes of one that is in the bucket."""
    output = found.output
    if output.file is not None:
        return found.content or b"", safe_type(output.file.mime_type)
    return output.as_text()


def _body(found: StoredResult, content: bytes) -> str | bytes:
    # Text needs no base64, with which a long one would be more than Lambda takes.
    return content if found.output.file is not None else content.decode()


def _digest(found: StoredResult, content: bytes) -> str:
    return found.output.file.sha256 if found.output.file else hashlib.sha256(content).hexdigest()
