"""What the routes under /v1/batches answer."""

from typing import Annotated, Literal

from pydantic import Field

from openapi.answers import Answer
from sluice.domain.batches import BatchEndpoint, BatchStatus
from sluice.domain.windows import CompletionWindow

BatchId = Annotated[str, Field(pattern="^batch_[0-9a-f]{32}$")]
FileId = Annotated[str, Field(pattern="^file-[0-9a-f]{32}$")]


class BatchFault(Answer):
    """What is wrong with a line."""

    code: str
    line: int | None
    """Its number, from 1; null: it is the file as a whole."""
    message: str
    param: str | None


class BatchFaults(Answer):
    """What is wrong with the lines of a batch that failed: the first hundred faults."""

    object: Literal["list"]
    data: list[BatchFault]


class BatchCounts(Answer):
    """The lines of a batch."""

    total: int
    completed: int
    """They were answered: those of the output file."""
    failed: int
    """They were refused, failed, expired or were cancelled: those of the error file."""


class CachedInput(Answer):
    """Input tokens by where they came from."""

    cached_tokens: int


class ReasonedOutput(Answer):
    """Output tokens by what they were for."""

    reasoning_tokens: int


class BatchUsage(Answer):
    """The tokens of all lines."""

    input_tokens: int
    input_tokens_details: CachedInput
    output_tokens: int
    output_tokens_details: ReasonedOutput
    total_tokens: int


class Batch(Answer):
    """A batch. Times are in seconds since 1970; null: that has not happened."""

    id: BatchId
    object: Literal["batch"]
    endpoint: BatchEndpoint
    errors: BatchFaults | None
    input_file_id: FileId
    completion_window: CompletionWindow
    status: BatchStatus
    output_file_id: FileId | None
    """The answers, in the order of the lines; null: there is none (yet)."""
    error_file_id: FileId | None
    """What became of the other lines, in their order."""
    created_at: int
    in_progress_at: int | None
    expires_at: int
    """What was not started by then is not."""
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None
    usage: BatchUsage | None
    """null until the batch has ended."""
    waits_for: str | None
    """The code of the refusal because of which the next line waits: a limit of the user. null: none."""


class BatchList(Answer):
    """A page of batches, newest first."""

    object: Literal["list"]
    data: list[Batch]
    first_id: BatchId | None
    last_id: BatchId | None
    has_more: bool
