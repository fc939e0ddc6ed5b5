"""Images that a body refers to by the id of a file: they are put into it, so that the request holds all that it asks,
whatever becomes of the file later."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from sluice.api.openai.errors import invalid, unsupported
from sluice.domain.errors import SluiceError
from sluice.domain.uploads import file_of
from sluice.services.submit import MAX_IMAGES_BYTES

FindImage = Callable[[UUID | None], str]
"""Finds an image among the files of the caller, and gives it as a data URL. Raises SluiceError, file_not_found or
file_refused."""


def put_images(body: dict[str, Any], find: FindImage) -> None:
    """Put images in the place of the files that parts of a body name: input_image of the Responses API with a file_id,
    and file of the Chat Completions API.

    Raises:
        SluiceError: file_not_found, file_refused, parameter_unsupported, with the part at fault in `param`;
            prompt_too_long, storage_unavailable.
    """
    find = _once(find)
    for part, param in _parts(body):
        if part.get("type") == "input_image" and isinstance(part.get("file_id"), str):
            if part.get("image_url") is not None:
                raise invalid("An image has either an image_url or a file_id.", f"{param}.file_id")
            part["image_url"] = _image(part.pop("file_id"), f"{param}.file_id", find)
        elif part.get("type") == "file" and isinstance(part.get("file"), Mapping):
            named = part.pop("file")
            if set(named) != {"file_id"} or not isinstance(named["file_id"], str):
                raise unsupported(f"{param}.file", "only a file_id may be given, that of an image")
            part["type"] = "image_url"
            part["image_url"] = {"url": _image(named["file_id"], f"{param}.file.file_id", find)}


def _once(find: FindImage) -> FindImage:
    """Reads each image once, and no more of them than a request may have."""
    found: dict[UUID | None, str] = {}
    total = 0

    def image(file_id: UUID | None) -> str:
        nonlocal total
        if file_id not in found:
            found[file_id] = find(file_id)
        total += len(found[file_id])
        if total > MAX_IMAGES_BYTES:
            raise SluiceError(
                "prompt_too_long",
                f"The images have more than {MAX_IMAGES_BYTES} bytes in base64, which is the most that is accepted.",
            )
        return found[file_id]

    return image


def _image(name: str, param: str, find: FindImage) -> str:
    try:
        return find(file_of(name))
    except SluiceError as error:
        if error.code in ("file_not_found", "file_refused"):
            raise SluiceError(error.code, error.detail, param=param) from None
        raise


def _parts(body: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Whatever may be a part of a message, of a body that was not looked at yet."""
    for member in ("messages", "input"):
        for number, message in _objects(body.get(member)):
            for content in ("content", "output"):
                for index, part in _objects(message.get(content)):
                    yield part, f"{member}[{number}].{content}[{index}]"


def _objects(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(value, list):
        for number, each in enumerate(value):
            if isinstance(each, dict):
                yield number, each
