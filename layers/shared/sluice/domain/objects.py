"""Objects: what is too large for the database, and is kept in the bucket."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, Self
from urllib.parse import quote
from uuid import UUID

ObjectClass = Literal["inputs", "results", "files", "uploads"]
"""What an object is; keys begin with it, so that rules of the bucket can name it."""


@dataclass(frozen=True)
class StoredObject:
    """An object, as its row in the table `objects` describes it.

    Attributes:
        object_id: made by whoever writes the object, each time anew: an object is written once and never replaced.
        sha256: of its bytes, in hexadecimal.
        version_id: the version in the bucket that was written; None: the bucket keeps no versions.
    """

    object_id: UUID
    object_class: ObjectClass
    user_id: str
    mime_type: str
    byte_length: int
    sha256: str
    version_id: str | None = None

    @property
    def key(self) -> str:
        """Its name in the bucket."""
        # An id of a user may have any characters: a slash in it, or two dots, must lead nowhere else.
        user = quote(self.user_id, safe="").replace(".", "%2E")
        return f"{self.object_class}/{user}/{self.object_id}"

    def to_json(self) -> dict[str, Any]:
        """As documents have it."""
        return vars(self) | {"object_id": str(self.object_id)}

    def to_row(self) -> dict[str, Any]:
        """As the database takes it."""
        return self.to_json() | {"key": self.key}

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Self:
        """As documents and the database have it; members that are not known here are ignored.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        known = {each.name: row[each.name] for each in fields(cls) if each.name in row}
        return cls(**known | {"object_id": UUID(row["object_id"])})


@dataclass(frozen=True)
class Version:
    """A version of an object in the bucket; None as its id: the bucket keeps no versions."""

    key: str
    version_id: str | None


@dataclass(frozen=True)
class ListedVersion(Version):
    """A version as the bucket lists it.

    Attributes:
        is_current: nothing was put in its place, and it was not deleted. If it is not, the bucket will remove it.
    """

    modified_at: datetime
    is_current: bool
