"""Files and uploads: what their users do through the API.

An object is written before its row, and only for whoever may have one: the database is asked first, and again when the
row is written. If that refuses, nothing refers to the object, and a sweep deletes it.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final
from uuid import UUID, uuid4

from sluice.db.files import FileAnswer, Files, UploadAnswer
from sluice.domain.errors import SluiceError
from sluice.domain.objects import ObjectClass, StoredObject
from sluice.domain.uploads import MAX_IMAGE_BYTES, FileFacts, image_type
from sluice.services.access import refuse_unless_allowed
from sluice.storage import Storage

_UPLOAD_REFUSALS: Final = {
    "upload_not_found": "You have no upload with this id.",
    "upload_part_unknown": "A part that part_ids names is none of this upload.",
    "upload_part_repeated": "part_ids names a part twice.",
}
_OCTETS: Final = "application/octet-stream"
_LINES: Final = "application/jsonl"
# Enough to see of what type an image is.
_BEGINNING: Final = 16


@dataclass(frozen=True)
class FileManager:
    """Does what a caller wants done about files and uploads.

    Attributes:
        storage: asked for when something is written or read.
        max_bytes: of a file.
    """

    files: Files
    storage: Callable[[], Storage]
    max_bytes: int

    def create(self, key_hash: bytes, facts: FileFacts, content: bytes) -> dict[str, Any]:
        """Keep a file.

        Raises:
            SluiceError: file_refused, file_too_large, file_quota_exceeded; what key_check finds; storage_unavailable,
                database_unavailable.
        """
        self._check_size(len(content))
        checked = self._done(self.files.manage(key_hash, "check", byte_length=len(content)))
        mime_type = _type_of(facts, content[:_BEGINNING])
        stored = self._put("files", str(checked.user_id), mime_type, content)
        made: dict[str, Any] = self._done(
            self.files.manage(key_hash, "create", stored=stored.to_row(), **vars(facts))
        ).value
        return made

    def show(self, key_hash: bytes, file_id: UUID | None) -> dict[str, Any]:
        """A file of the caller.

        Raises:
            SluiceError: file_not_found, also for another user's; what key_check finds; database_unavailable.
        """
        found: dict[str, Any] = self._found(key_hash, "show", file_id).value
        return found

    def address(self, key_hash: bytes, file_id: UUID | None) -> tuple[str, StoredObject]:
        """Where a file of the caller can be fetched for some minutes, and what is there.

        Raises:
            SluiceError: as of show(); storage_unavailable.
        """
        found = self._found(key_hash, "show", file_id)
        if found.stored is None:
            raise SluiceError("storage_unavailable", "The file is not where it should be.")
        return self.storage().address(found.stored, found.value["filename"]), found.stored

    def page(self, key_hash: bytes, limit: int, **wanted: Any) -> list[dict[str, Any]]:
        """A page of the caller's files, and one more if there is one.

        Args:
            wanted: after (the file after which to go on), order, purpose.

        Raises:
            SluiceError: what key_check finds; database_unavailable.
        """
        found: list[dict[str, Any]] = self._done(self.files.manage(key_hash, "list", limit=limit + 1, **wanted)).value
        return found

    def delete(self, key_hash: bytes, file_id: UUID | None) -> None:
        """Delete a file of the caller.

        Raises:
            SluiceError: as of show().
        """
        self._found(key_hash, "delete", file_id)

    # Uploads ----------------------------------------------------------------------------------------------------------

    def begin(self, key_hash: bytes, facts: FileFacts, mime_type: str, byte_length: int) -> dict[str, Any]:
        """Announce a file that comes in parts.

        Raises:
            SluiceError: file_too_large, file_quota_exceeded; what key_check finds; database_unavailable.
        """
        self._check_size(byte_length)
        return self._uploaded(
            self.files.upload(key_hash, "create", mime_type=mime_type, byte_length=byte_length, **vars(facts))
        )

    def add_part(self, key_hash: bytes, upload_id: UUID | None, content: bytes) -> dict[str, Any]:
        """Keep a part of an upload.

        Raises:
            SluiceError: upload_not_found, upload_finished, upload_part_too_large, upload_parts_exceeded; what key_check
                finds; storage_unavailable, database_unavailable.
        """
        named = {"upload_id": None if upload_id is None else str(upload_id)}
        checked = self.files.upload(key_hash, "check", byte_length=len(content), **named)
        self._uploaded(checked)
        stored = self._put("uploads", str(checked.user_id), _OCTETS, content)
        return self._uploaded(self.files.upload(key_hash, "add", stored=stored.to_row(), **named))

    def complete(
        self, key_hash: bytes, upload_id: UUID | None, part_ids: Sequence[UUID], md5: str | None
    ) -> dict[str, Any]:
        """Put the parts of an upload together, in this order. Safe to repeat.

        Args:
            md5: that the file must have, in hexadecimal; None: whichever it has.

        Raises:
            SluiceError: upload_not_found, upload_finished, upload_part_unknown, upload_part_repeated,
                upload_incomplete, upload_altered, file_refused; what key_check finds; storage_unavailable,
                database_unavailable.
        """
        named = {
            "upload_id": None if upload_id is None else str(upload_id),
            "part_ids": [str(each) for each in part_ids],
        }
        planned = self.files.upload(key_hash, "plan", **named)
        upload = self._uploaded(planned)
        if planned.parts is None:
            # It is completed already.
            return upload
        stored = self._join(upload, str(planned.user_id), planned.parts, md5)
        return self._uploaded(self.files.upload(key_hash, "complete", stored=stored.to_row(), **named))

    def cancel(self, key_hash: bytes, upload_id: UUID | None) -> dict[str, Any]:
        """Give an upload up. Safe to repeat.

        Raises:
            SluiceError: upload_not_found, upload_finished; what key_check finds; database_unavailable.
        """
        named = {"upload_id": None if upload_id is None else str(upload_id)}
        return self._uploaded(self.files.upload(key_hash, "cancel", **named))

    def _join(
        self, upload: dict[str, Any], user_id: str, parts: Sequence[StoredObject], md5: str | None
    ) -> StoredObject:
        storage = self.storage()
        facts = FileFacts(upload["purpose"], upload["filename"])
        digest = hashlib.md5(usedforsecurity=False)
        contents = (storage.read(part) for part in parts)
        beginning = b""
        while len(beginning) < min(_BEGINNING, upload["byte_length"]):
            beginning += next(contents)
        with storage.writer("files", user_id, _type_of(facts, beginning[:_BEGINNING])) as writer:
            for content in chain((beginning,), contents):
                digest.update(content)
                writer.write(content)
            if md5 is not None and digest.hexdigest() != md5.lower():
                raise SluiceError("upload_altered", "The parts do not have this MD5 together: send them again.")
        return writer.stored

    # Images -----------------------------------------------------------------------------------------------------------

    def image(self, key_hash: bytes, file_id: UUID | None) -> str:
        """An image among the caller's files as a data URL.

        Raises:
            SluiceError: as of show(); file_refused: it is no image; storage_unavailable.
        """
        return data_url(self.storage, self._found(key_hash, "show", file_id).stored)

    def _check_size(self, byte_length: int) -> None:
        if byte_length > self.max_bytes:
            raise SluiceError(
                "file_too_large",
                f"The file has {byte_length} bytes; it may have {self.max_bytes} at most.",
                max_file_bytes=self.max_bytes,
            )
        if byte_length == 0:
            raise SluiceError("file_refused", "The file is empty.")

    def _put(self, object_class: ObjectClass, user_id: str, mime_type: str, content: bytes) -> StoredObject:
        digest = hashlib.sha256(content).hexdigest()
        stored = StoredObject(uuid4(), object_class, user_id, mime_type, len(content), digest)
        return replace(stored, version_id=self.storage().put(stored, content))

    def _found(self, key_hash: bytes, act: str, file_id: UUID | None) -> FileAnswer:
        return self._done(self.files.manage(key_hash, act, file_id=None if file_id is None else str(file_id)))

    @staticmethod
    def _done(answer: FileAnswer) -> FileAnswer:
        refuse_unless_allowed(answer.outcome)
        if answer.outcome == "file_quota_exceeded":
            raise _quota_exceeded(answer.value)
        if answer.outcome != "ok":
            raise file_not_found()
        return answer

    @staticmethod
    def _uploaded(answer: UploadAnswer) -> dict[str, Any]:
        refuse_unless_allowed(answer.outcome)
        value: dict[str, Any] = answer.value or {}
        match answer.outcome:
            case "ok":
                return value
            case "file_quota_exceeded":
                raise _quota_exceeded(value)
            case "upload_finished":
                raise SluiceError(
                    "upload_finished", f"The upload has ended: it is {value['status']}. Begin another one."
                )
            case "upload_part_too_large":
                raise SluiceError(
                    "upload_part_too_large",
                    f"The upload was announced with {value['byte_length']} bytes, of which {value['left']} are left.",
                )
            case "upload_parts_exceeded":
                raise SluiceError("upload_parts_exceeded", f"An upload has {value['most']} parts at most.")
            case "upload_incomplete":
                raise SluiceError(
                    "upload_incomplete",
                    f"The parts that part_ids names do not have {value['byte_length']} bytes, as was announced.",
                )
        raise SluiceError(answer.outcome, _UPLOAD_REFUSALS[answer.outcome])


def image_of(files: Files, storage: Callable[[], Storage], user_id: str, file_id: UUID | None) -> str:
    """An image among the files of a user as a data URL.

    Raises:
        SluiceError: file_not_found, also for another user's; file_refused: it is no image; storage_unavailable,
            database_unavailable.
    """
    return data_url(storage, None if file_id is None else files.stored(user_id, file_id))


def file_not_found() -> SluiceError:
    """The error of a file that is not there, or another user's."""
    return SluiceError("file_not_found", "You have no file with this id.")


def data_url(storage: Callable[[], Storage], stored: StoredObject | None) -> str:
    """An image as a data URL.

    Raises:
        SluiceError: file_not_found; file_refused: it is no image; storage_unavailable.
    """
    if stored is None:
        raise file_not_found()
    if not stored.mime_type.startswith("image/"):
        raise SluiceError("file_refused", "The file is no image. Upload an image with the purpose 'vision'.")
    if stored.byte_length > MAX_IMAGE_BYTES:
        raise SluiceError("file_refused", f"An image may have {MAX_IMAGE_BYTES} bytes at most.")
    content = base64.b64encode(storage().read(stored)).decode()
    return f"data:{stored.mime_type};base64,{content}"


def _type_of(facts: FileFacts, beginning: bytes) -> str:
    found = image_type(beginning)
    if facts.purpose == "batch":
        return _LINES
    if facts.purpose == "vision" and found is None:
        raise SluiceError("file_refused", "The file is no image: PNG, JPEG, GIF and WebP are taken.")
    return found or _OCTETS


def _quota_exceeded(facts: dict[str, Any]) -> SluiceError:
    return SluiceError(
        "file_quota_exceeded",
        f"Your files have {facts['used']} of the {facts['maximum']} bytes that they may have, and this one needs "
        f"{facts['bytes_needed']}. Delete some.",
        **facts,
    )
