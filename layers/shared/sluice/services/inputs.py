"""Inputs that are too large for the database: written to the bucket before their requests are accepted, and read by
whoever needs all of them. The request itself has the beginning, and where all of it is."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

from sluice.db.ledger import Ledger
from sluice.domain.documents import Input
from sluice.domain.errors import SluiceError
from sluice.domain.objects import StoredObject
from sluice.domain.requests import RequestLimits, Submission
from sluice.storage import Storage

logger = logging.getLogger(__name__)

INLINE_BYTES: Final = 65_536
"""The database keeps inputs of up to so many bytes of text and images."""


@dataclass(frozen=True)
class InputKeeper:
    """Writes and reads large inputs.

    Attributes:
        storage: asked for when the first large input comes.
    """

    storage: Callable[[], Storage]

    def keep(
        self, ledger: Ledger, key_hash: bytes, submission: Submission, limits: RequestLimits
    ) -> StoredObject | None:
        """Write the input of a submission, if it is large and would be accepted; None: it is not written.

        If it is refused in the end, nothing refers to the object, and a sweep deletes it.

        Raises:
            SluiceError: storage_unavailable, database_unavailable.
        """
        if not _is_large(submission.input):
            return None
        # Nobody without a key, and nobody whose request is refused, writes to the bucket.
        quotation = ledger.quote(key_hash, submission, limits)
        if quotation.outcome != "accepted" or quotation.user_id is None:
            return None
        return self.keep_of(quotation.user_id, submission.input)

    def keep_of(self, user_id: str, asked: Input) -> StoredObject | None:
        """Write the input of a user who may, if it is large; None: it is not written.

        Raises:
            SluiceError: storage_unavailable.
        """
        if not _is_large(asked):
            return None
        content = json.dumps(asked.to_json(), ensure_ascii=False).encode()
        digest = hashlib.sha256(content).hexdigest()
        stored = StoredObject(uuid4(), "inputs", user_id, "application/json", len(content), digest)
        return replace(stored, version_id=self.storage().put(stored, content))

    def whole(self, asked: Input) -> Input:
        """All of an input, of which a request may have the beginning only.

        Raises:
            SluiceError: storage_unavailable.
        """
        if asked.stored is None:
            return asked
        try:
            return Input.model_validate_json(self.storage().read(StoredObject.of_json(asked.stored)))
        except (KeyError, TypeError, ValueError) as error:
            # Only its type: what is wrong with an input may quote it.
            logger.error("input unreadable", extra={"error": type(error).__name__})
            raise SluiceError("storage_unavailable", "What is stored is no input.") from None


def _is_large(asked: Input) -> bool:
    return asked.byte_length + asked.image_bytes > INLINE_BYTES
