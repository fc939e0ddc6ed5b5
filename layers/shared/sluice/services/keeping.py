"""Answers that are too large for the database are written to the bucket, before their requests are settled.

If the settlement does not follow, nothing refers to the object, and a sweep deletes it (services/tasks/objects.py).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Final
from uuid import uuid4

from sluice.backends.protocol import ModelError
from sluice.domain.documents import Output, OutputFile
from sluice.domain.errors import SluiceError
from sluice.domain.objects import StoredObject
from sluice.domain.requests import Claim, Completion
from sluice.domain.sizes import MAX_FILE_BYTES, fits_an_answer
from sluice.services.inputs import InputKeeper
from sluice.storage import Storage


@dataclass(frozen=True)
class Keeper:
    """Keeps answers where they fit.

    Attributes:
        storage: asked for when the first answer needs it; None: there is none.
        inline_bytes: the longest answer in text that the database keeps, in bytes of UTF-8.
        max_result_bytes: the longest that is kept at all.
        max_stored_bytes: the largest file that the bucket keeps.
    """

    storage: Callable[[], Storage] | None
    inline_bytes: int
    max_result_bytes: int
    max_stored_bytes: int

    def whole(self, claim: Claim) -> Claim:
        """The claim with all of its input.

        Raises:
            ModelError: storage_unavailable.
        """
        if claim.input.stored is None:
            return claim
        try:
            if self.storage is None:
                raise SluiceError("storage_unavailable", "There is no bucket.")
            return replace(claim, input=InputKeeper(self.storage).whole(claim.input))
        except SluiceError:
            raise ModelError("storage_unavailable") from None

    def keep(self, claim: Claim, completion: Completion) -> Completion:
        """The completion, with the object where it is kept if it is too large for the database and not for the bucket.

        Raises:
            ModelError: storage_unavailable.
        """
        if self.storage is None or (large := self._too_large_for_the_database(completion)) is None:
            return completion
        file, content = large
        if file.byte_length > self.max_stored_bytes:
            return completion
        stored = self._put(self.storage(), claim, file, content)
        # Beside the file, what says how the answer ended.
        output = completion.output.model_copy(update={"items": (file,), "result_type": None})
        return replace(completion, output=output, content=None, stored=stored)

    def _too_large_for_the_database(self, completion: Completion) -> tuple[OutputFile, bytes | IO[bytes]] | None:
        """The answer as a file, if it is too large for the database and can be one."""
        output, content = completion.output, completion.content
        if output.file is not None and content is not None:
            return (output.file, content) if output.file.byte_length > MAX_FILE_BYTES else None
        # Calls of tools and refusals are for programs, which look for them in the document.
        if output.tool_calls or output.refusal or output.byte_length > self.max_result_bytes:
            return None
        if output.byte_length <= self.inline_bytes and output_fits_an_answer(output):
            return None
        text, mime_type = output.as_text()
        return OutputFile.of(text, mime_type), text

    @staticmethod
    def _put(storage: Storage, claim: Claim, file: OutputFile, content: bytes | IO[bytes]) -> StoredObject:
        stored = StoredObject(uuid4(), "results", claim.user_id, file.mime_type, file.byte_length, file.sha256)
        if not isinstance(content, bytes):
            content.seek(0)
        try:
            return replace(stored, version_id=storage.put(stored, content))
        except SluiceError:
            raise ModelError("storage_unavailable") from None
        finally:
            if not isinstance(content, bytes):
                content.close()


def output_fits_an_answer(output: Output) -> bool:
    """Return True if Lambda can return the output: as JSON in the body of a JSON answer, it is escaped twice."""
    return fits_an_answer(json.dumps(output.to_json(), ensure_ascii=False))


NOWHERE: Final = Keeper(None, 0, 0, 0)
"""Where there is no bucket."""
