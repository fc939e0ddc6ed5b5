"""Answers that are too large for the database are written to the bucket, before their requests are settled.

If the settlement does not follow, nothing refers to the object, and a sweep deletes it (services/tasks/objects.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Final
from uuid import uuid4

from sluice.backends.protocol import ModelError
from sluice.domain.documents import OutputFile
from sluice.domain.errors import SluiceError
from sluice.domain.objects import StoredObject
from sluice.domain.requests import Claim, Completion
from sluice.domain.sizes import MAX_FILE_BYTES
from sluice.storage import Storage


@dataclass(frozen=True)
class Keeper:
    """Keeps answers where they fit.

    Attributes:
        storage: asked for when the first answer needs it; None: there is none.
        max_stored_bytes: the largest answer that is kept there.
    """

    storage: Callable[[], Storage] | None
    max_stored_bytes: int

    def keep(self, claim: Claim, completion: Completion) -> Completion:
        """The completion, with the object where it is kept if it is too large for the database and not for the bucket.

        Raises:
            ModelError: storage_unavailable.
        """
        file, content = completion.output.file, completion.content
        if self.storage is None or file is None or content is None:
            return completion
        if not MAX_FILE_BYTES < file.byte_length <= self.max_stored_bytes:
            return completion
        return replace(completion, content=None, stored=self._put(self.storage(), claim, file, content))

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


NOWHERE: Final = Keeper(None, 0)
"""Where there is no bucket."""
