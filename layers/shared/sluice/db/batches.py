"""Batches in the database: one method for each entry point."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psycopg.types.json import Jsonb

from sluice.db.connection import Database
from sluice.domain.batches import BatchClaim, BatchProgress, BatchResult, Fault, FoundLine, LinePlace, WrittenFiles
from sluice.domain.documents import Input, Output
from sluice.domain.objects import StoredObject
from sluice.domain.states import Status


@dataclass(frozen=True)
class BatchAnswer:
    """What an act made of a batch.

    Attributes:
        outcome: ok, or why not.
        value: the batch, or a list of them; of a refusal what it is about.
    """

    outcome: str
    value: Any


class Batches:
    """What is done about batches. Every method raises SluiceError, database_unavailable.

    A step may be repeated: the claim's number says whether it still counts, and how far the batch is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def manage(self, key_hash: bytes, act: str, **arguments: Any) -> BatchAnswer:
        """Do something about the batches of the caller; see batch_act() in the database."""
        return self._database.row(BatchAnswer, "batch_manage", key_hash=key_hash, act=act, arguments=Jsonb(arguments))

    def claim(self, lease_seconds: float) -> BatchClaim | None:
        """Claim the batch that has been due for the longest time; None: none is due."""
        claimed = self._database.rows(
            BatchClaim, "batch_claim", readers={"stored": StoredObject.of_json}, lease_seconds=lease_seconds
        )
        return claimed[0] if claimed else None

    def scan(
        self,
        claim: BatchClaim,
        lines: Sequence[FoundLine],
        faults: Sequence[Fault],
        read_bytes: int,
        read_lines: int,
        *,
        is_end: bool,
    ) -> BatchProgress:
        """Keep what was found in a part of the file.

        Args:
            read_bytes, read_lines: how far it was read.
            is_end: to its end.
        """
        return self._database.row(
            BatchProgress,
            "batch_scan",
            repeatable=True,
            batch_id=claim.batch_id,
            attempt=claim.attempt,
            lines=Jsonb([asdict(each) for each in lines]),
            faults=Jsonb([asdict(each) for each in faults]),
            bytes=read_bytes,
            count=read_lines,
            is_end=is_end,
        )

    def unreadable(self, claim: BatchClaim) -> BatchProgress:
        """End a batch whose file is gone before a line was submitted."""
        return self._database.row(
            BatchProgress, "batch_unreadable", repeatable=True, batch_id=claim.batch_id, attempt=claim.attempt
        )

    def next_lines(self, claim: BatchClaim, after: int, limit: int) -> list[LinePlace]:
        """Where the lines after this one are."""
        return self._database.rows(
            LinePlace, "batch_next_lines", repeatable=True, batch_id=claim.batch_id, after=after, limit=limit
        )

    def feed(self, claim: BatchClaim, lines: Sequence[Mapping[str, Any]]) -> BatchProgress:
        """Submit lines; see batch_feed() in the database."""
        return self._database.row(
            BatchProgress,
            "batch_feed",
            repeatable=True,
            batch_id=claim.batch_id,
            attempt=claim.attempt,
            lines=Jsonb(list(lines)),
        )

    def cancel_waiting(self, claim: BatchClaim, limit: int) -> BatchProgress:
        """Cancel requests of a batch that is being cancelled, as far as no worker has them."""
        return self._database.row(
            BatchProgress,
            "batch_cancel_waiting",
            repeatable=True,
            batch_id=claim.batch_id,
            attempt=claim.attempt,
            limit=limit,
        )

    def put_back(self, claim: BatchClaim, status: str, seconds: float, refill_at: int) -> float | None:
        """Let a batch be worked on again later; returns in how many seconds. None: another worker has it.

        Args:
            status: as this worker saw it last.
            refill_at: sooner, when no more than so many of its requests are unfinished; -1: no sooner.
        """
        due: float | None = self._database.value(
            "batch_put_back",
            repeatable=True,
            batch_id=claim.batch_id,
            attempt=claim.attempt,
            status=status,
            seconds=seconds,
            refill_at=refill_at,
        )
        return due

    def finalize(self, claim: BatchClaim) -> BatchProgress:
        """Begin to write the files of a batch of which nothing is unfinished."""
        return self._database.row(
            BatchProgress, "batch_finalize", repeatable=True, batch_id=claim.batch_id, attempt=claim.attempt
        )

    def results(self, claim: BatchClaim, after: int, limit: int, most_bytes: int) -> list[BatchResult]:
        """What became of the lines after this one.

        Args:
            most_bytes: no more lines than those whose answers have so many bytes, but at least one.
        """
        return self._database.rows(
            BatchResult,
            "batch_results",
            repeatable=True,
            readers={
                "status": Status,
                "output": Output.model_validate,
                "input": Input.model_validate,
                "stored": StoredObject.of_json,
            },
            batch_id=claim.batch_id,
            attempt=claim.attempt,
            after=after,
            limit=limit,
            bytes=most_bytes,
        )

    def finish(self, claim: BatchClaim, written: WrittenFiles) -> BatchProgress:
        """End a batch whose files were written."""
        return self._database.row(
            BatchProgress,
            "batch_finish",
            repeatable=True,
            batch_id=claim.batch_id,
            attempt=claim.attempt,
            completed=written.completed,
            expired=written.expired,
            usage=Jsonb(written.usage),
            output=None if written.output is None else Jsonb(written.output.to_row()),
            errors=None if written.errors is None else Jsonb(written.errors.to_row()),
        )
