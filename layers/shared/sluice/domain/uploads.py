"""Files and uploads."""

import re
from typing import Final
from uuid import UUID

_FILE: Final = re.compile("file-([0-9a-f]{32})", re.ASCII)


def file_name(file_id: UUID) -> str:
    """The id of a file as people see it."""
    return f"file-{file_id.hex}"


def file_of(name: str) -> UUID | None:
    """The file that an id names; None if it is none."""
    found = _FILE.fullmatch(name)
    return UUID(found[1]) if found else None
