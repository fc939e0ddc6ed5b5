"""Batches: files of requests. What a line must be, and what stands in the files with the answers."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

from sluice.domain.objects import StoredObject
from sluice.domain.requests import RequestDetail

BatchEndpoint = Literal["/v1/responses", "/v1/chat/completions", "/v1/embeddings"]
"""What the lines of a batch are requests to."""
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled"
]
"""As OpenAI's API has them; the last four are ends."""
MAX_LINE_BYTES: Final = 6_000_000
"""Longer than any request that could be sent by itself."""
MAX_CUSTOM_ID: Final = 512
_BATCH: Final = re.compile("batch_([0-9a-f]{32})", re.ASCII)
_BOM: Final = b"\xef\xbb\xbf"
_OTHER_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


def batch_name(batch_id: UUID) -> str:
    """The id of a batch as people see it."""
    return f"batch_{batch_id.hex}"


def batch_of(name: str) -> UUID | None:
    """The batch that an id names; None if it is none."""
    found = _BATCH.fullmatch(name)
    return UUID(found[1]) if found else None


@dataclass(frozen=True)
class BatchClaim:
    """A batch that this worker has, and how far it is.

    Attributes:
        attempt: the fencing token: every step needs the same number.
        is_expired: its completion window has ended.
        stored: the object with its lines; None: it is gone.
        scanned_bytes, scanned_lines: how much of it was looked through.
        fed_to: the last line that was submitted or refused.
        total, fed: how many lines there are, and were submitted or refused.
        running: its requests that are unfinished.
        room: how many more may be, at the moment.
    """

    batch_id: UUID
    attempt: int
    user_id: str
    endpoint: str
    status: str
    is_expired: bool
    stored: StoredObject | None
    scanned_bytes: int
    scanned_lines: int
    fed_to: int
    total: int
    fed: int
    running: int
    room: int


@dataclass(frozen=True)
class BatchProgress:
    """How a batch stands after a step.

    Attributes:
        outcome: ok; superseded: another worker has it; or the code of the refusal because of which a line waits.
        retry_after: seconds until that line is likely to be accepted.
        send: requests whose messages are to be sent now.
        status, fed_to, fed, total, running, room: as in BatchClaim.
    """

    outcome: str
    status: str | None
    fed_to: int | None
    fed: int | None
    total: int | None
    running: int | None
    retry_after: float | None
    send: Sequence[UUID]
    user_id: str | None
    room: int | None


@dataclass(frozen=True)
class LinePlace:
    """Where a line is in its file.

    Attributes:
        line: its number, from 1.
        position, length: in bytes.
    """

    line: int
    position: int
    length: int


@dataclass(frozen=True)
class FoundLine(LinePlace):
    """A line that is well formed."""

    custom_id: str


@dataclass(frozen=True)
class Fault:
    """What is wrong with a line, in the words of OpenAI's API.

    Attributes:
        line: its number; None: it is the file as a whole.
        param: the member that is at fault.
    """

    code: str
    line: int | None
    message: str
    param: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchResult(RequestDetail):
    """What became of a line, with its request.

    Attributes:
        outcome: ok; erased: its content is gone; refused: it is no request, see `error`; expired, cancelled: it was
            never submitted. Only with the first two there is a request.
        error: why it was refused: status_code and body, or outcome and detail of the refusal, and model.
        stored: the object that holds the answer.
    """

    line: int
    custom_id: str
    error: Mapping[str, Any] | None
    stored: StoredObject | None


@dataclass(frozen=True)
class WrittenFiles:
    """What was written for a batch.

    Attributes:
        completed: how many lines the output has.
        expired: how many lines the window ended for.
        usage: the tokens of all lines, by name.
        output, errors: the files; None: there is none.
    """

    completed: int
    expired: int
    usage: Mapping[str, int]
    output: StoredObject | None
    errors: StoredObject | None


# Lines ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a file, without its end.

    Attributes:
        content: None: it is too long to be a request, and was not kept.
    """

    place: LinePlace
    content: bytes | None = field(repr=False)


def lines_of(chunks: Iterable[bytes], position: int, line: int, *, is_last: bool) -> Iterator[Line]:
    """The lines in a part of a file; they end with LF or CRLF. Memory holds the longest allowed line and a chunk.

    Args:
        chunks: what follows the position, in order.
        position: where the part begins, in bytes.
        line: how many lines are before it.
        is_last: the file ends with the part: what follows its last LF is a line too. Otherwise that is left out.
    """
    kept, length = bytearray(), 0
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            length += end + 1 - start
            line += 1
            if length <= MAX_LINE_BYTES:
                kept += chunk[start:end]
                yield Line(LinePlace(line, position, length), bytes(kept).removesuffix(b"\r"))
            else:
                yield Line(LinePlace(line, position, length), None)
            position += length
            kept.clear()
            length, start = 0, end + 1
        length += len(chunk) - start
        if length <= MAX_LINE_BYTES:
            kept += chunk[start:]
        else:
            kept.clear()
    if is_last and length:
        whole = None if length > MAX_LINE_BYTES else bytes(kept).removesuffix(b"\r")
        yield Line(LinePlace(line + 1, position, length), whole)


def check_line(line: Line, endpoint: str) -> FoundLine | Fault | None:
    """What a line is: a request to this endpoint, something that is wrong, or nothing, if it is empty.

    Its body is looked at when it is submitted.
    """
    place = line.place
    if line.content is None:
        return Fault("line_too_large", place.line, f"A line may have {MAX_LINE_BYTES} bytes at most.")
    content = line.content.removeprefix(_BOM) if place.position == 0 else line.content
    if not content.strip():
        return None
    if place.position == 0 and content.startswith(_OTHER_BOMS):
        return Fault("invalid_encoding", place.line, "The file must be in UTF-8, and seems to be in UTF-16.")
    try:
        given = read_line(line)
    except UnicodeDecodeError:
        return Fault("invalid_encoding", place.line, "The line is not UTF-8.")
    except RecursionError:
        return Fault("invalid_json_line", place.line, "The line is nested too deeply.")
    except RepeatedMemberError:
        return Fault("invalid_json_line", place.line, "The line has an object with two members of the same name.")
    except ValueError:
        return Fault("invalid_json_line", place.line, "The line is not a JSON object.")
    custom_id = given.get("custom_id")
    for param in ("custom_id", "method", "url", "body"):
        if given.get(param) is None:
            return Fault("missing_required_parameter", place.line, f"The line has no {param!r}.", param)
    if unknown := sorted(set(given) - {"custom_id", "method", "url", "body"}):
        name = unknown[0][:64]
        return Fault("unknown_parameter", place.line, f"The line has an unknown member {name!r}.", name)
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID or not _is_storable(custom_id):
        message = f"custom_id must be a text of 1 to {MAX_CUSTOM_ID} characters, without U+0000."
        return Fault("invalid_custom_id", place.line, message, "custom_id")
    if given["method"] != "POST":
        return Fault("invalid_method", place.line, "The method must be POST.", "method")
    if given["url"] != endpoint:
        return Fault("mismatched_url", place.line, f"The url must be that of the batch: {endpoint}.", "url")
    if not isinstance(given["body"], dict):
        return Fault("invalid_type", place.line, "The body must be a JSON object.", "body")
    return FoundLine(place.line, place.position, place.length, custom_id)


class RepeatedMemberError(ValueError):
    """An object has two members of the same name: nobody could say which one counts."""


def read_line(line: Line) -> dict[str, Any]:
    """A line as the object that it is.

    Raises:
        ValueError (UnicodeDecodeError, RepeatedMemberError among them), RecursionError: it is none.
    """
    content = line.content or b""
    if line.place.position == 0:
        content = content.removeprefix(_BOM)
    given = json.loads(content.decode(), parse_constant=_refuse_constant, object_pairs_hook=_members)
    if not isinstance(given, dict):
        raise ValueError("not an object")  # noqa: TRY004  (what somebody sent is no argument of a wrong type)
    return given


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise RepeatedMemberError
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_storable(text: str) -> bool:
    try:
        return "\x00" not in text and bool(text.encode())
    except UnicodeEncodeError:
        return False
