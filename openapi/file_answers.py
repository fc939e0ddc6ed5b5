"""What the routes under /v1/files and /v1/uploads answer, and the forms that they take."""

from typing import Annotated, Literal

from pydantic import Field

from openapi.answers import Answer, Nothing
from openapi.batch_answers import FileId
from sluice.domain.fields import Strict
from sluice.domain.uploads import (
    MAX_EXPIRY_SECONDS,
    MIN_EXPIRY_SECONDS,
    FilePurpose,
    StoredPurpose,
    UploadStatus,
)

UploadId = Annotated[str, Field(pattern="^upload_[0-9a-f]{32}$")]
PartId = Annotated[str, Field(pattern="^part_[0-9a-f]{32}$")]
Binary = Annotated[str, Field(json_schema_extra={"contentMediaType": "application/octet-stream"})]


class FileCreation(Strict):
    """The form of POST /v1/files."""

    purpose: FilePurpose
    file: Binary
    """With its name."""
    expires_anchor: Literal["created_at"] = Field(default=Nothing, alias="expires_after[anchor]")
    expires_seconds: int = Field(
        default=Nothing, alias="expires_after[seconds]", ge=MIN_EXPIRY_SECONDS, le=MAX_EXPIRY_SECONDS
    )


class PartAddition(Strict):
    """The form of POST /v1/uploads/{upload_id}/parts."""

    data: Binary


class File(Answer):
    """A file. Times are in seconds since 1970."""

    id: FileId
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    """From then on it is gone; null: it stays until it is deleted."""
    filename: str
    purpose: StoredPurpose
    status: Literal["processed"]
    status_details: None


class FileList(Answer):
    """A page of files."""

    object: Literal["list"]
    data: list[File]
    first_id: FileId | None
    last_id: FileId | None
    has_more: bool


class DeletedFile(Answer):
    """A file that was deleted."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class Upload(Answer):
    """An upload. Times are in seconds since 1970."""

    id: UploadId
    object: Literal["upload"]
    bytes: int
    """That were announced: its parts have so many together."""
    created_at: int
    expires_at: int
    """What is not completed by then is not."""
    filename: str
    purpose: FilePurpose
    status: UploadStatus
    file: File | None
    """null: it is not completed."""


class UploadPart(Answer):
    """A part of an upload."""

    id: PartId
    object: Literal["upload.part"]
    created_at: int
    upload_id: UploadId
