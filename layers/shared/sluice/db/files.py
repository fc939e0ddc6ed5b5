"""Files and uploads in the database: one method for each entry point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from sluice.db.connection import Database
from sluice.domain.objects import StoredObject


@dataclass(frozen=True)
class FileAnswer:
    """What an act made of a file.

    Attributes:
        outcome: ok, or why not.
        user_id: whose key it was.
        value: the file, or a list of them; of a refusal what it is about.
        stored: where the file is.
    """

    outcome: str
    user_id: str | None
    value: Any
    stored: StoredObject | None


@dataclass(frozen=True)
class UploadAnswer:
    """What an act made of an upload.

    Attributes:
        outcome, user_id: as in FileAnswer.
        value: the upload, or the part; of a refusal what it is about.
        parts: where the parts are, in their order.
    """

    outcome: str
    user_id: str | None
    value: Any
    parts: Sequence[StoredObject] | None


class Files:
    """What is done about files. Every method raises SluiceError, database_unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def manage(self, key_hash: bytes, act: str, **arguments: Any) -> FileAnswer:
        """Do something about the files of the caller; see file_manage() in the database."""
        return self._database.row(
            FileAnswer,
            "file_manage",
            readers={"stored": StoredObject.of_json},
            key_hash=key_hash,
            act=act,
            arguments=Jsonb(arguments),
        )

    def upload(self, key_hash: bytes, act: str, **arguments: Any) -> UploadAnswer:
        """Do something about the uploads of the caller; see upload_manage() in the database."""
        return self._database.row(
            UploadAnswer,
            "upload_manage",
            readers={"parts": lambda parts: [StoredObject.of_json(each) for each in parts]},
            key_hash=key_hash,
            act=act,
            arguments=Jsonb(arguments),
        )

    def stored(self, user_id: str, file_id: UUID) -> StoredObject | None:
        """Where a file of a user is; None: there is none."""
        row = self._database.value("file_stored", repeatable=True, user_id=user_id, file_id=file_id)
        return None if row is None else StoredObject.of_json(row)
