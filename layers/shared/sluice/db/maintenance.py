"""The scheduled tasks' door to the database: one method for each entry point. Those for messages are the ledger's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sluice.db.connection import Database
from sluice.db.reports import Statements
from sluice.domain.objects import ListedVersion


@dataclass(frozen=True)
class Recovery:
    """How many requests the recovery task took back or ended."""

    requeued: int
    failed: int
    expired: int
    cancelled: int


@dataclass(frozen=True)
class WebhookRecovery:
    """How many events of webhooks are due, and how many were ended because their last attempt or their time is over."""

    due: int
    dead: int


@dataclass(frozen=True)
class AuditSealing:
    """What a batch of the audit log's chain has sealed.

    Attributes:
        is_more: there is more to seal.
        head: number and hash of the last batch.
    """

    sealed: int
    is_more: bool
    head: str | None


@dataclass(frozen=True)
class AuditVerification:
    """Batches of the chain, compared with the rows that they sealed.

    Attributes:
        batches, row_count: what was in order.
        last_batch: where to go on.
        kind: what is wrong: altered, missing, inserted, chain; None: nothing.
        audit_id, batch_no: what it was found at.
    """

    batches: int
    row_count: int
    last_batch: int | None
    kind: str | None
    audit_id: UUID | None
    batch_no: int | None


@dataclass(frozen=True)
class DoomedObject:
    """An object that nothing refers to any more."""

    object_id: UUID
    key: str
    version_id: str | None


@dataclass(frozen=True)
class ObjectComparison:
    """A part of the bucket's list, compared with the rows.

    Attributes:
        unknown: the positions in it, from 1, of versions without a row.
        missing: how many rows were found to have no object.
    """

    unknown: Sequence[int]
    missing: int


@dataclass(frozen=True)
class LedgerVerification:
    """What breaks an invariant, as of one snapshot.

    Attributes:
        is_full: everything was looked at.
        checked: how much that was, by table.
        violations: each with invariant, user_id, request_id, period, expected, actual.
        seen_to: transactions below this one were seen.
    """

    is_full: bool
    checked: Mapping[str, int]
    violations: Sequence[Mapping[str, Any]]
    seen_to: int


class Maintenance:
    """What the scheduled tasks do in the database. Every method raises SluiceError, database_unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.statements = Statements(database)

    def expire_cached_answers(self, limit: int) -> int:
        """Forget cached answers that are too old, at most so many; returns how many."""
        forgotten: int = self._database.value("cache_expire", repeatable=True, limit=limit)
        return forgotten

    def recover_webhooks(self, limit: int) -> WebhookRecovery:
        """End events whose last attempt was lost or whose time is over, at most so many; count those that are due."""
        return self._database.row(WebhookRecovery, "webhook_recover", repeatable=True, limit=limit)

    def expire_webhooks(self, limit: int) -> int:
        """Delete events that ended long ago, at most so many; returns how many."""
        return int(self._database.value("webhook_expire", repeatable=True, limit=limit))

    def due_batches(self) -> int:
        """How many batches are to be worked on, and nobody does."""
        return int(self._database.value("batches_due", repeatable=True))

    def expire_files(self, limit: int) -> int:
        """Delete files and unfinished uploads whose time is over, at most so many of each; returns how many."""
        return int(self._database.value("files_expire", repeatable=True, limit=limit))

    def expire_batch_lines(self, limit: int) -> int:
        """Delete lines of batches that ended long ago, at most so many; returns how many."""
        return int(self._database.value("batch_lines_expire", repeatable=True, limit=limit))

    def recover(self, limit: int) -> Recovery:
        """Take back expired claims, end requests without attempts or time left: at most so many of each."""
        return self._database.row(Recovery, "request_recover", repeatable=True, limit=limit)

    def rollup_usage(self) -> int:
        """Add what is new to usage, by model, key and tag; returns the rows by model that changed."""
        return int(self._database.value("rollup_usage"))

    def rollup_stats(self) -> int:
        """Add what is new to request_stats; returns the rows that changed."""
        return int(self._database.value("rollup_stats"))

    def ensure_partitions(self) -> list[str]:
        """Make missing partitions of this month and the next; returns their names."""
        return self._database.values("partitions_ensure", repeatable=True)

    def archive_months(self, older_than_days: int) -> list[str]:
        """Move whole months that are old enough to the archive; returns the partitions' names."""
        return self._database.values("archive_months", repeatable=True, older_than_days=older_than_days)

    def expire_idempotency_keys(self, limit: int) -> int:
        """Delete expired idempotency keys, at most so many; returns how many."""
        return int(self._database.value("idempotency_expire", repeatable=True, limit=limit))

    def doomed_objects(self, limit: int) -> list[DoomedObject]:
        """Objects that nothing refers to any more, at most so many."""
        return self._database.rows(DoomedObject, "objects_doomed", repeatable=True, limit=limit)

    def forget_objects(self, ids: Sequence[UUID]) -> int:
        """Forget objects that were deleted from the bucket; returns how many."""
        return int(self._database.value("objects_forget", repeatable=True, ids=list(ids)))

    def begin_object_sweep(self) -> str | None:
        """The key after which to go on comparing the bucket with the rows; None: from the beginning."""
        after: str | None = self._database.value("object_sweep_begin", repeatable=True)
        return after

    def compare_objects(
        self, after: str | None, upto: str | None, found: Sequence[ListedVersion], grace_seconds: int
    ) -> ObjectComparison:
        """Compare every version of every key after one up to another with the rows, and remember how far that is.

        Args:
            upto: None: to the end.
            grace_seconds: a row that is younger may be newer than the list.
        """
        return self._database.row(
            ObjectComparison,
            "objects_compare",
            repeatable=True,
            after=after,
            upto=upto,
            keys=[each.key for each in found],
            versions=[each.version_id for each in found],
            are_current=[each.is_current for each in found],
            grace_seconds=grace_seconds,
        )

    def seal_audit(self, limit: int) -> AuditSealing:
        """Add a batch of at most so many new rows to the audit log's chain."""
        return self._database.row(AuditSealing, "audit_seal", repeatable=True, limit=limit)

    def verify_audit(self, after_batch: int, limit: int) -> AuditVerification:
        """Compare batches with the rows that they sealed, up to the first that is wrong."""
        return self._database.row(
            AuditVerification, "audit_verify", repeatable=True, after_batch=after_batch, limit=limit
        )

    def audit_head(self) -> str | None:
        """Number and hash of the chain's last batch."""
        head: str | None = self._database.value("audit_head", repeatable=True)
        return head

    def audit_chain_since(self, xact_id: int) -> int:
        """The last batch with only rows of transactions below this one; 0: none."""
        return int(self._database.value("audit_chain_since", repeatable=True, xact_id=xact_id))

    def audit_chain_has(self, batch_no: int, digest: str) -> bool:
        """Return True if a head that was noted once is still in the chain."""
        return bool(self._database.value("audit_chain_has", repeatable=True, batch_no=batch_no, hash=digest))

    def verify_ledger(self, *, full: bool) -> LedgerVerification:
        """Ask all invariants in one snapshot."""
        return self._database.row(LedgerVerification, "ledger_verify", repeatable=True, full=full)

    def verified_to(self) -> int:
        """The last clean check has seen every transaction below this one."""
        return int(self._database.value("ledger_verified_to", repeatable=True))

    def note_verified(self, seen_to: int) -> None:
        """Note that a check found nothing up to here."""
        self._database.value("ledger_verified", repeatable=True, seen_to=seen_to)
