"""The ledger's door for the functions that handle requests: one method for each entry point of the database.

An entry point is a function of sql/functions that a database role may call; sql/functions/roles/roles.sql says which.
Each method calls the SQL function that it names. Tests hold both sides together.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from sluice.db.connection import Database
from sluice.db.reports import UsageReport, priced_usage
from sluice.domain.calls import Plan
from sluice.domain.documents import Input, Output
from sluice.domain.fingerprint import question_digest, submission_digest
from sluice.domain.history import HistoryQuery
from sluice.domain.objects import StoredObject
from sluice.domain.requests import (
    Admission,
    CachePurging,
    Cancellation,
    Claim,
    DispatchedRequest,
    ModelOffer,
    Outcome,
    QueueState,
    Quotation,
    RequestDetail,
    RequestLimits,
    RequestState,
    RequestSummary,
    Run,
    Settled,
    StoredResult,
    Submission,
)
from sluice.domain.states import Status


class Ledger:
    """Requests in the database.

    Every method raises SluiceError, database_unavailable: nothing is known to have been written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # Clients ----------------------------------------------------------------------------------------------------------

    def submit(
        self, key_hash: bytes, submission: Submission, limits: RequestLimits, stored: StoredObject | None = None
    ) -> Admission:
        """Accept one request or say why not: one statement, one commit.

        Args:
            stored: the object that holds the input; None: the database is to keep it.
        """
        return self._database.row(
            Admission,
            "request_submit",
            key_hash=key_hash,
            submission=Jsonb(submission_json(submission, limits, stored)),
        )

    def quote(self, key_hash: bytes, submission: Submission, limits: RequestLimits) -> Quotation:
        """What would become of a submission now; nothing is accepted."""
        return self._database.row(
            Quotation,
            "request_quote",
            repeatable=True,
            key_hash=key_hash,
            submission=Jsonb(submission_json(submission, limits)),
        )

    def run(
        self,
        key_hash: bytes,
        submission: Submission,
        limits: RequestLimits,
        lease_seconds: float,
        stored: StoredObject | None = None,
    ) -> Run:
        """Accept one request and claim it where it may run at once: one statement, one commit.

        Args:
            stored: as of submit().
        """
        return self._database.row(
            Run,
            "request_run",
            key_hash=key_hash,
            submission=Jsonb(submission_json(submission, limits, stored)),
            lease_seconds=lease_seconds,
        )

    def ended(self, request_id: UUID) -> bool:
        """Whether a request is no longer unfinished; the cheapest look there is."""
        return bool(self._database.value("request_ended", repeatable=True, request_id=request_id))

    def begin_waiting(self) -> int | None:
        """Take one of the slots in which callers may wait; None: all are taken."""
        slot: int | None = self._database.value("wait_begin")
        return slot

    def end_waiting(self, slot: int) -> None:
        """Give a slot back. One whose connection was lost is free already."""
        self._database.value("wait_end", slot=slot)

    def cancel(self, key_hash: bytes, request_id: UUID | None) -> Cancellation:
        """Cancel one request of the caller, now or when its worker answers."""
        return self._database.row(
            Cancellation,
            "request_cancel",
            repeatable=True,
            readers={"status": Status},
            key_hash=key_hash,
            request_id=request_id,
        )

    def purge_cache(self, key_hash: bytes) -> CachePurging:
        """Let no answer of the caller's requests be found again."""
        return self._database.row(CachePurging, "cache_purge", repeatable=True, key_hash=key_hash)

    def show(self, key_hash: bytes, request_id: UUID | None) -> RequestState:
        """One request of the caller, with its queue position, its answer and its cost."""
        return self._database.row(
            RequestState,
            "request_show",
            repeatable=True,
            readers={"status": Status, "output": Output.model_validate, "queue": _queue_state},
            key_hash=key_hash,
            request_id=request_id,
        )

    def detail(self, key_hash: bytes, request_id: UUID | None) -> RequestDetail:
        """One request of the caller, with what was asked; an erased one is not found."""
        return self._database.row(
            RequestDetail,
            "request_detail",
            repeatable=True,
            readers={"status": Status, "output": Output.model_validate, "input": Input.model_validate},
            key_hash=key_hash,
            request_id=request_id,
        )

    def result(self, key_hash: bytes, request_id: UUID | None) -> StoredResult:
        """The answer of one request of the caller, with its bytes where it is a file."""
        return self._database.row(
            StoredResult,
            "result_read",
            repeatable=True,
            readers={"output": Output.model_validate, "stored": StoredObject.of_json},
            key_hash=key_hash,
            request_id=request_id,
        )

    def erase(self, key_hash: bytes, request_id: UUID | None) -> Cancellation:
        """Erase the content of one request of the caller; cancels it first if it is unfinished."""
        return self._database.row(
            Cancellation,
            "request_erase",
            readers={"status": Status},
            key_hash=key_hash,
            request_id=request_id,
        )

    def history(self, key_hash: bytes, query: HistoryQuery) -> list[RequestSummary]:
        """The caller's requests that a query asks for, newest first, and a last row that tells whether there are more.

        The last row's outcome is end; more, with the id after which to go on; or what key_check found.
        """
        return self._database.rows(
            RequestSummary,
            "request_history_v2",
            repeatable=True,
            readers={"status": Status},
            key_hash=key_hash,
            query=Jsonb(query.model_dump(mode="json", exclude_none=True)),
        )

    def models(self, key_hash: bytes) -> list[ModelOffer]:
        """The models that the caller may name."""
        return self._database.rows(ModelOffer, "model_offers", repeatable=True, key_hash=key_hash)

    def usage(self, key_hash: bytes, first_day: date, last_day: date, attribute: str | None = None) -> UsageReport:
        """The caller's limits, and usage by day, model and token class with the prices of each day.

        Args:
            attribute: as in Reports.usage().
        """
        return self._database.row(
            UsageReport,
            "usage_show_v3",
            repeatable=True,
            readers={"usage": priced_usage},
            key_hash=key_hash,
            first_day=first_day,
            last_day=last_day,
            attribute=attribute,
        )

    def ping(self) -> None:
        """Make sure that the database answers."""
        self._database.ping()

    # Workers ----------------------------------------------------------------------------------------------------------

    def claim(self, ids: Sequence[UUID], lease_seconds: float) -> list[Claim]:
        """Take those of a batch that are due, with all that their models need."""
        return self._database.rows(
            Claim,
            "request_claim",
            repeatable=True,
            readers={"input": Input.model_validate, "plan": Plan.of_json},
            ids=list(ids),
            lease_seconds=lease_seconds,
        )

    def settle(self, outcomes: Sequence[Outcome], actor: str = "worker") -> list[Settled]:
        """End or requeue what has finished.

        Returns:
            what became of each outcome, and the requests to be sent next.

        Raises:
            DatabaseError: a value cannot be stored.
        """
        return self._database.rows(
            Settled,
            "request_settle",
            repeatable=True,
            outcomes=Jsonb([outcome.to_json() for outcome in outcomes]),
            actor=actor,
        )

    # The recovery task ------------------------------------------------------------------------------------------------

    def undispatch(self, ids: Sequence[UUID]) -> None:
        """Note that these messages were not sent: the recovery task is to send them."""
        self._database.value("request_undispatch", repeatable=True, ids=list(ids))

    def dispatch(self, limit: int) -> list[DispatchedRequest]:
        """Mark and return requests that wait without a message and have room in their users' dispatch windows."""
        return self._database.rows(DispatchedRequest, "request_dispatch", repeatable=True, limit=limit)

    def redispatch(
        self, queue_depth: int, *, grace_seconds: int, long_seconds: int, limit: int
    ) -> list[DispatchedRequest]:
        """Mark and return requests whose messages the queue seems to have lost."""
        return self._database.rows(
            DispatchedRequest,
            "request_redispatch",
            queue_depth=queue_depth,
            grace_seconds=grace_seconds,
            long_seconds=long_seconds,
            limit=limit,
        )

    def resend(self, ids: Sequence[UUID]) -> list[DispatchedRequest]:
        """Mark and return those of the dead letters' requests that still wait for their message."""
        return self._database.rows(DispatchedRequest, "request_resend", repeatable=True, ids=list(ids))


def submission_json(
    submission: Submission, limits: RequestLimits, stored: StoredObject | None = None
) -> dict[str, Any]:
    """A submission as request_submit() takes it."""
    content = submission.to_json() | {
        "longest_seconds": limits.longest_seconds,
        "max_attempts": limits.max_attempts,
        "question": question_digest(submission.input, submission.parameters),
    }
    if stored is not None:
        content["stored"] = stored.to_row()
        content["beginning"] = submission.input.beginning(stored.to_json()).to_json()
    if submission.idempotency_key is not None:
        content["body_hash"] = submission_digest(submission).hex()
    return content


def _queue_state(queue: dict[str, Any]) -> QueueState:
    times = ("until", "expires_at", "cancel_requested_at")
    return QueueState(
        **queue | {name: None if queue[name] is None else datetime.fromisoformat(queue[name]) for name in times}
    )
