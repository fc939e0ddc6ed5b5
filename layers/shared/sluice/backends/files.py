"""Answers that are files: images in base64 inside a JSON answer, and audio as it is.

Whatever a server says, a file gets one of a few types that no browser runs. Nothing is fetched: an answer that says
where the image is, instead of the image, is none that can be read.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import IO, Any, Final

from sluice.backends.parts import UnreadableError
from sluice.domain.documents import ImageOptions
from sluice.domain.files import NO_TYPE

# By the words of output_format; "jpg" is what some servers write.
_IMAGE_TYPES: Final = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg", "webp": "image/webp"}
_AUDIO_TYPES: Final = {
    **dict.fromkeys(("audio/mpeg", "audio/mp3", "audio/x-mp3", "audio/mpeg3"), "audio/mpeg"),
    **dict.fromkeys(("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"), "audio/wav"),
    **dict.fromkeys(("audio/ogg", "audio/opus", "application/ogg"), "audio/ogg"),
    **dict.fromkeys(("audio/aac", "audio/x-aac", "audio/aacp"), "audio/aac"),
    **dict.fromkeys(("audio/flac", "audio/x-flac"), "audio/flac"),
}
# How pages begin, in lower case. A single "<" may also be the first byte of raw audio.
_PAGES: Final = (b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body", b"<!--")


_ENCODED: Final = re.compile(rb'"b64_json"\s*:\s*"')
_CHUNK: Final = 1 << 20
# What an answer says beside its image, in bytes.
_MOST_AROUND: Final = 1 << 20
_BEGINNING: Final = 64


def split_image(body: IO[bytes]) -> tuple[bytes, IO[bytes]]:
    """The JSON of an answer without the first image in it, and that image, decoded on the disk.

    It is read a part at a time, and never mapped into memory, where its pages would count as the function's.

    Raises:
        UnreadableError: there is no image in base64 in it, or too much beside it.
    """
    body.seek(0)
    before = body.read(_MOST_AROUND)
    if (found := _ENCODED.search(before)) is None:
        raise UnreadableError
    body.seek(found.end())
    image = TemporaryFile()  # noqa: SIM115 (it outlives this call)
    try:
        after = _decode(body, image)
        # Read where the image ended, which is somewhere in the last chunk.
        after += body.read(_MOST_AROUND)
        if body.read(1):
            raise UnreadableError
    except BaseException:
        image.close()
        raise
    return before[: found.end()] + after, image


def _decode(encoded: IO[bytes], image: IO[bytes]) -> bytes:
    """Decode up to the quotation mark that ends a text in base64; returns that and what was read after it."""
    left = b""
    while chunk := encoded.read(_CHUNK):
        text, quote, after = chunk.partition(b'"')
        # Some servers write a slash as JSON may: escaped.
        text = left + text.replace(b"\\", b"")
        whole = len(text) if quote else len(text) // 4 * 4
        text, left = text[:whole], text[whole:]
        try:
            image.write(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise UnreadableError from None
        if quote:
            return quote + after
    raise UnreadableError


def read_image(
    document: Mapping[str, Any], asked: ImageOptions, taken_out: IO[bytes] | None = None
) -> tuple[bytes | IO[bytes], str]:
    """The image in an answer and its MIME type.

    The type is what the server says that it is, or else what was asked for, and the first bytes must agree; where
    nobody said anything, the first bytes decide.

    Args:
        taken_out: the image, where it is not in the document any more; see split_image().

    Raises:
        UnreadableError: there is no image in it, or not of the type that it should have.
    """
    data = document.get("data")
    first = data[0] if isinstance(data, list) and data else None
    encoded = first.get("b64_json") if isinstance(first, dict) else None
    if not isinstance(encoded, str):
        raise UnreadableError
    content: bytes | IO[bytes]
    try:
        content = base64.b64decode(encoded, validate=True) if taken_out is None else taken_out
    except (binascii.Error, ValueError):
        raise UnreadableError from None
    found = _image_type(beginning(content))
    said = document.get("output_format") or asked.output_format
    if found is None or (said is not None and _IMAGE_TYPES.get(str(said).lower()) != found):
        raise UnreadableError
    return content, found


def _image_type(content: bytes) -> str | None:
    """What the first bytes say; None: no image of a type that may be kept."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def beginning(content: bytes | IO[bytes]) -> bytes:
    """The first bytes, in which a type shows."""
    if isinstance(content, bytes):
        return content[:_BEGINNING]
    content.seek(0)
    return content.read(_BEGINNING)


def audio_type(content_type: str | None, content: bytes | IO[bytes]) -> str:
    """The MIME type of audio, from the header of the answer.

    Raises:
        UnreadableError: it is empty, or a page or another text.
    """
    named = (content_type or "").partition(";")[0].strip().lower()
    first = beginning(content)
    if not first or _is_text(named) or first.lstrip().lower().startswith(_PAGES):
        raise UnreadableError
    return _AUDIO_TYPES.get(named, NO_TYPE)


def _is_text(named: str) -> bool:
    return named.startswith(("text/", "image/")) or any(word in named for word in ("json", "xml", "html", "javascript"))
