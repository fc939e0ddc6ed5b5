"""Files that users upload, at once or in parts: what they are for, and their ids."""

import re
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

FilePurpose = Literal["batch", "vision", "user_data"]
"""What a user may upload a file for: the lines of a batch, or an image that requests refer to (user_data: which may be
one)."""
StoredPurpose = Literal["batch", "vision", "user_data", "batch_output"]
"""What a file may be for: batches make files too."""
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]
MIN_EXPIRY_SECONDS: Final = 3600
MAX_EXPIRY_SECONDS: Final = 2_592_000
"""The shortest and the longest time after which a file may expire, as OpenAI's API has them."""
MAX_FILENAME: Final = 255
MAX_IMAGE_BYTES: Final = 4_000_000
"""Of an image in a request, also one that is a file. With its encoding and the rest of a body, less than the 6 MB that
Lambda takes."""
_FILE: Final = re.compile("file-([0-9a-f]{32})", re.ASCII)
_UPLOAD: Final = re.compile("upload_([0-9a-f]{32})", re.ASCII)
_PART: Final = re.compile("part_([0-9a-f]{32})", re.ASCII)
# How images of these types begin; see https://mimesniff.spec.whatwg.org/#matching-an-image-type-pattern.
_IMAGES: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBPVP", re.DOTALL), "image/webp"),
)


@dataclass(frozen=True)
class FileFacts:
    """What a user says of a file.

    Attributes:
        expires_seconds: after so long it is as good as deleted; None: as its purpose has it.
    """

    purpose: FilePurpose
    filename: str
    expires_seconds: int | None = None


def image_type(beginning: bytes) -> str | None:
    """The MIME type of an image that begins so; None: it is none that models take."""
    return next((name for pattern, name in _IMAGES if pattern.match(beginning)), None)


def check_filename(name: str) -> str:
    """A name under which a file can be kept and downloaded.

    Raises:
        ValueError: it cannot.
    """
    if not 1 <= len(name) <= MAX_FILENAME or not name.isprintable() or name in (".", ".."):
        raise ValueError(f"must be 1 to {MAX_FILENAME} printable characters")
    if "/" in name or "\\" in name:
        raise ValueError("must be the name of a file without the path to it")
    return name


def file_name(file_id: UUID) -> str:
    """The id of a file as people see it."""
    return f"file-{file_id.hex}"


def file_of(name: str) -> UUID | None:
    """The file that an id names; None if it is none."""
    return _id(_FILE, name)


def upload_name(upload_id: UUID) -> str:
    """The id of an upload as people see it."""
    return f"upload_{upload_id.hex}"


def upload_of(name: str) -> UUID | None:
    """The upload that an id names; None if it is none."""
    return _id(_UPLOAD, name)


def part_name(part_id: UUID) -> str:
    """The id of a part as people see it."""
    return f"part_{part_id.hex}"


def part_of(name: str) -> UUID | None:
    """The part that an id names; None if it is none."""
    return _id(_PART, name)


def _id(pattern: re.Pattern[str], name: str) -> UUID | None:
    found = pattern.fullmatch(name)
    return UUID(found[1]) if found else None
