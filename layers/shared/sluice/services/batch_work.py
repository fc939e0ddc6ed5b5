"""Working on batches: a file is looked through, its lines are submitted as far as there is room, and the answers are
written to files. What is decided, and how far a batch is, is in the database: every step is a commit, and whoever comes
after a crash goes on after the last one."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sluice.db.batches import Batches
from sluice.db.ledger import Ledger, submission_json
from sluice.domain.batches import (
    BatchClaim,
    BatchProgress,
    Fault,
    FoundLine,
    Line,
    check_line,
    lines_of,
    read_line,
)
from sluice.domain.errors import DatabaseError, SluiceError
from sluice.domain.objects import StoredObject
from sluice.domain.requests import RequestLimits
from sluice.messaging import Message, Sender
from sluice.services.batch_answers import OUR_SIDE, AnswerWriter, LineApi
from sluice.services.dispatch import send_or_undispatch
from sluice.services.inputs import InputKeeper
from sluice.services.submit import check_submission
from sluice.storage import Storage

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 120.0
"""A worker that is not heard of for so long has crashed. Every step draws the lease out."""
TURN_SECONDS: Final = 20.0
"""After so long, the next batch has its turn."""
WRITE_SECONDS: Final = 300.0
"""Whoever has less time left does not begin to write files, which cannot be written in parts."""
_MARGIN_SECONDS: Final = 10.0
_READ_BYTES: Final = 4 * 2**20
# Of a part of a file whose lines are kept, or submitted, in one commit.
_SCAN_LINES: Final = 1000
FEED_LINES: Final = 100
_CANCELLED_AT_ONCE: Final = 500
# The longest that a batch waits until somebody looks whether it could go on: limits may have been raised.
_LONGEST_PAUSE: Final = 300.0
# Until the requests of a batch are looked at that should have ended, whatever was to tell so.
_RUNNING_PAUSE: Final = 60.0
_CANCELLING_PAUSE: Final = 5.0
_STORAGE_PAUSE: Final = 30.0


@dataclass
class BatchReport:
    """What an invocation did.

    Attributes:
        counts: by name: turns, lines that were submitted (or refused) and batches that ended.
        is_more: batches are due that it had no time for.
        next_seconds: until the first of those is due that it gave back; None: there are none.
    """

    counts: Counter[str] = field(default_factory=Counter)
    is_more: bool = False
    next_seconds: float | None = None


@dataclass(frozen=True)
class BatchWorker:
    """Works on batches for as long as an invocation lasts.

    Attributes:
        api: reads lines and makes answers.
        remaining_seconds: how long this invocation still has.
    """

    batches: Batches
    ledger: Ledger
    queue: Sender
    storage: Callable[[], Storage]
    inputs: InputKeeper
    api: LineApi
    limits: RequestLimits
    remaining_seconds: Callable[[], float]

    def run(self) -> BatchReport:
        """Work until nothing is due, or the time is up; raises nothing.

        What fails is tried again by whoever claims the batch next.
        """
        report = BatchReport()
        try:
            while self.remaining_seconds() > TURN_SECONDS + _MARGIN_SECONDS:
                claim = self.batches.claim(LEASE_SECONDS)
                if claim is None:
                    return report
                report.counts["turns"] += 1
                _Turn(self, claim, report).take()
        except SluiceError as error:
            logger.warning("batches not worked on", extra={"code": error.code})
        report.is_more = True
        return report


class _Turn:
    """What is done with a batch until it is given back."""

    def __init__(self, worker: BatchWorker, claim: BatchClaim, report: BatchReport) -> None:
        self._worker = worker
        self._batches = worker.batches
        self._claim = claim
        self._report = report
        self._ends_at = time.monotonic() + TURN_SECONDS
        self._status = claim.status

    def take(self) -> None:
        try:
            self._go_on()
        except SluiceError as error:
            logger.warning("batch waits", extra={"batch": str(self._claim.batch_id), "code": error.code})
            if error.code != "storage_unavailable":
                raise
            if self._claim.is_expired and self._status == "validating":
                # Whoever waits for it has waited long enough.
                self._note(self._batches.unreadable(self._claim))
            else:
                self._put_back(_STORAGE_PAUSE)

    def _go_on(self) -> None:
        claim = self._claim
        if claim.status == "validating" and claim.stored is not None:
            self._scan(claim.stored)
        elif claim.status == "validating":
            self._note(self._batches.unreadable(claim))
        elif claim.status == "cancelling":
            self._cancel()
        elif claim.status == "finalizing" or (claim.running == 0 and (claim.is_expired or claim.fed == claim.total)):
            self._write()
        elif claim.is_expired or claim.fed == claim.total:
            self._put_back(_RUNNING_PAUSE, refill_at=0)
        else:
            self._feed()

    def _time_is_up(self) -> bool:
        return time.monotonic() > self._ends_at or self._worker.remaining_seconds() < _MARGIN_SECONDS

    def _put_back(self, seconds: float, *, refill_at: int = -1) -> None:
        due = self._batches.put_back(self._claim, self._status, seconds, refill_at)
        if due is not None:
            self._report.next_seconds = min(due, self._report.next_seconds or due)

    # Looking through the file -----------------------------------------------------------------------------------------

    def _scan(self, stored: StoredObject) -> None:
        lines: list[FoundLine] = []
        faults: list[Fault] = []
        count, read = self._claim.scanned_lines, self._claim.scanned_bytes
        for line in lines_of(self._chunks(stored, read), read, count, is_last=True):
            found = check_line(line, self._claim.endpoint)
            if isinstance(found, FoundLine):
                lines.append(found)
            elif found is not None:
                faults.append(found)
            count, read = line.place.line, line.place.position + line.place.length
            if len(lines) + len(faults) < _SCAN_LINES:
                continue
            progress = self._batches.scan(self._claim, lines, faults, read, count, is_end=False)
            lines, faults = [], []
            if not self._note(progress):
                return
            if self._time_is_up():
                self._put_back(0)
                return
        if self._note(self._batches.scan(self._claim, lines, faults, stored.byte_length, count, is_end=True)):
            self._put_back(0)

    def _chunks(self, stored: StoredObject, position: int) -> Iterator[bytes]:
        storage = self._worker.storage()
        for start in range(position, stored.byte_length, _READ_BYTES):
            yield storage.read_range(stored, start, min(start + _READ_BYTES, stored.byte_length))

    def _note(self, progress: BatchProgress) -> bool:
        """Whether the batch is still this worker's, and has not ended."""
        if progress.outcome == "superseded":
            return False
        self._status = str(progress.status)
        if self._status in ("completed", "failed", "expired", "cancelled"):
            self._report.counts[self._status] += 1
            return False
        return True

    # Submitting lines -------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        fed_to, room, fed = self._claim.fed_to, self._claim.room, self._claim.fed
        running = self._claim.running
        while room and fed < self._claim.total:
            lines = self._next_lines(fed_to, min(room, FEED_LINES))
            progress = self._submit([self._entry(line) for line in lines])
            if not self._note(progress):
                return
            messages = [Message(one, self._claim.user_id) for one in progress.send]
            send_or_undispatch(self._worker.ledger, self._worker.queue, messages)
            self._report.counts["lines"] += (progress.fed or 0) - fed
            fed_to, room, fed = int(progress.fed_to or 0), int(progress.room or 0), int(progress.fed or 0)
            running = int(progress.running or 0)
            if progress.outcome != "ok":
                # What is reserved comes back when requests end; what is used up, with time alone.
                is_reserved = progress.outcome in ("quota_reserved", "budget_reserved", "unfinished_exceeded")
                pause = min(max(progress.retry_after or 0, 1), _LONGEST_PAUSE)
                self._put_back(pause, refill_at=running // 2 if is_reserved and running else -1)
                return
            if self._status != "in_progress" or self._time_is_up():
                break
        if self._status == "in_progress" and fed == self._claim.total:
            self._put_back(_RUNNING_PAUSE, refill_at=0)
        elif self._status == "in_progress" and not room:
            self._put_back(_RUNNING_PAUSE, refill_at=running // 2)
        else:
            self._put_back(0)

    def _submit(self, entries: Sequence[Mapping[str, Any]]) -> BatchProgress:
        """Submit lines, or only the first one where the database cannot take them together."""
        try:
            return self._batches.feed(self._claim, entries)
        except DatabaseError as error:
            first = entries[0]
            logger.error(
                "lines cannot be stored",
                extra={"batch": str(self._claim.batch_id), "line": first["line"], "sqlstate": error.sqlstate},
            )
            # A line that the database can never take must not hold up the others.
            return self._submit([first]) if len(entries) > 1 else self._batches.feed(self._claim, [self._broken(first)])

    def _broken(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        status, body = self._worker.api.error(SluiceError("internal_error", OUR_SIDE))
        return {"line": entry["line"], "error": {"status_code": status, "body": body}}

    def _next_lines(self, after: int, limit: int) -> Sequence[Line]:
        """The next lines, read in one piece."""
        if self._claim.stored is None:
            raise SluiceError("storage_unavailable", "The file of the batch is gone.")
        places = self._batches.next_lines(self._claim, after, limit)
        start = places[0].position
        chosen = [
            each
            for number, each in enumerate(places)
            if not number or each.position + each.length <= start + _READ_BYTES
        ]
        end = chosen[-1].position + chosen[-1].length
        content = self._worker.storage().read_range(self._claim.stored, start, end)
        return [Line(each, content[each.position - start : each.position - start + each.length]) for each in chosen]

    def _entry(self, line: Line) -> Mapping[str, Any]:
        """A line as the database takes it."""
        claim, worker = self._claim, self._worker
        try:
            body = read_line(line)["body"]
            submission = worker.api.submission(claim.endpoint, body, claim.user_id)
            check_submission(submission, worker.limits)
            stored = worker.inputs.keep_of(claim.user_id, submission.input)
        except SluiceError as error:
            if not error.is_refusal:
                raise
            status, answer = worker.api.error(error)
            return {"line": line.place.line, "error": {"status_code": status, "body": answer}}
        except Exception as error:  # noqa: BLE001  (a line that nobody has thought of must not hold up the others)
            logger.error("line not read", extra={"batch": str(claim.batch_id), "error": type(error).__name__})
            return self._broken({"line": line.place.line})
        return {"line": line.place.line, "submission": submission_json(submission, worker.limits, stored)}

    # Cancelling -------------------------------------------------------------------------------------------------------

    def _cancel(self) -> None:
        running = self._claim.running
        while running:
            progress = self._batches.cancel_waiting(self._claim, _CANCELLED_AT_ONCE)
            if not self._note(progress):
                return
            messages = [Message(one, self._claim.user_id) for one in progress.send]
            send_or_undispatch(self._worker.ledger, self._worker.queue, messages)
            left = int(progress.running or 0)
            if left and (left == running or self._time_is_up()):
                # The others are at workers.
                self._put_back(_CANCELLING_PAUSE, refill_at=0)
                return
            running = left
        self._write()

    # Writing files ----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._worker.remaining_seconds() < WRITE_SECONDS:
            self._put_back(0)
            return
        progress = self._batches.finalize(self._claim)
        if not self._note(progress):
            return
        if progress.running or progress.fed != progress.total:
            self._put_back(_RUNNING_PAUSE, refill_at=0)
            return
        worker = self._worker
        written = AnswerWriter(self._batches, worker.storage(), worker.inputs, worker.api, self._claim).write()
        self._note(self._batches.finish(self._claim, written))
