"""The records of the reference model of the ledger: tiers, users, budgets and requests as plain objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

MILLISECOND = timedelta(milliseconds=1)
PERIODS = ("minute", "daily", "monthly")
PLAN_FIELDS = {"max_unfinished", "dispatch_window"}
ENDED = ("completed", "failed", "cancelled", "expired")
# The event of each end, where no answer is cut off.
TOLD_AS = {"completed": "response.completed", "cancelled": "response.cancelled"} | dict.fromkeys(
    ("failed", "expired"), "response.failed"
)
# Outcomes that put a request back into the queue.
REQUEUES = ("retry", "released")
# After so many lost attempts a request is tried alone.
ALONE_AFTER = 2

# Completion windows, and how long before their end a request that still waits is promoted.
WINDOWS = {"2h": timedelta(hours=2), "8h": timedelta(hours=8), "24h": timedelta(hours=24)}
LEADS = {name: length / 4 for name, length in WINDOWS.items()}

# How long a reservation is likely to last, where no request has ended lately.
USUAL_WAIT = timedelta(seconds=5)

Limit = tuple[int | None, int | None]  # requests, tokens
Scope = tuple[bool, str | None, str]  # of a budget: only the user's key, the model, the period
Size = tuple[str, int, int]  # of a request: its model, reserved tokens, and max_tokens, which are among them
Answer = tuple[str, UUID, str | None]  # the result of an outcome: kind, request, its status now


@dataclass
class Tier:
    limits: dict[str, Limit]
    max_unfinished: int
    dispatch_window: int


@dataclass
class Budget:
    """A limit in money, of one period; period_start is that of its counters."""

    period: str
    maximum: Decimal
    period_start: datetime

    @property
    def end(self) -> datetime:
        return end_of(self.period, self.period_start)

    def move_to(self, at: datetime) -> None:
        """Begin the period that contains a time, if the present one is over."""
        if at >= self.end:
            self.period_start = start_of(self.period, at)


@dataclass
class Endpoint:
    """Where a user wants to be told how requests end, and of which ends."""

    event_types: set[str]
    is_enabled: bool = True


@dataclass
class Event:
    """That a request has ended, to be sent to an endpoint, or to the URL that the request itself named."""

    request_id: UUID
    event_type: str
    to: UUID | str
    is_dead: bool = False


@dataclass
class User:
    """A user.

    Attributes:
        period_starts: when the periods of the counters began.
        overrides: periods, and fields of the plan, that do not follow the tier.
    """

    tier: str
    limits: dict[str, Limit]
    max_unfinished: int
    dispatch_window: int
    period_starts: dict[str, datetime]
    overrides: set[str] = field(default_factory=set)
    budgets: dict[Scope, Budget] = field(default_factory=dict)
    endpoints: dict[UUID, Endpoint] = field(default_factory=dict)
    is_active: bool = True

    @property
    def waiting_window(self) -> int:
        """How much of the dispatch window the waiting class may fill."""
        return self.dispatch_window - self.dispatch_window // 4


@dataclass(frozen=True)
class Lifetime:
    """A request's lifetime in seconds.

    Attributes:
        ttl: how long it lives once it may start.
        begins: when it may start, from now.
        ends: when it expires, from now.
    """

    ttl: int | None = None
    begins: int | None = None
    ends: int | None = None


@dataclass
class Request:
    """A request.

    Attributes:
        webhook: the URL that is told how it ended.
        untold: the ends of which there are no events yet.
    """

    request_id: UUID
    user: str
    model: str
    reserved: int
    not_before: datetime | None
    expires_at: datetime
    max_attempts: int
    max_tokens: int
    has_key: bool = True
    webhook: str | None = None
    status: str = "queued"
    attempt: int = 0
    failed_attempts: int = 0
    lost_attempts: int = 0
    last_error: str | None = None
    error: str | None = None
    dispatched_at: datetime | None = None
    lease_until: datetime | None = None
    is_cancel_requested: bool = False
    tokens: tuple[int, int] | None = None
    is_archived: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    untold: list[str] = field(default_factory=list)
    audited: list[str] = field(default_factory=lambda: ["request.queued"])
    window: str | None = None
    due_at: datetime | None = None
    promote_at: datetime | None = None
    priority: int = 0

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + int.from_bytes(self.request_id.bytes[:6]) * MILLISECOND

    def wait_for(self, window: str | None, at: datetime) -> None:
        """Give it a completion window, or none, from its beginning on."""
        self.window = window
        if window is not None:
            self.due_at = max(self.created_at, self.not_before or self.created_at) + WINDOWS[window]
            self.join_the_waiting_class(at)

    def join_the_waiting_class(self, at: datetime) -> None:
        if self.window is not None and self.due_at is not None:
            self.promote_at = self.due_at - LEADS[self.window]
            self.priority = int(self.promote_at > at)

    @property
    def has_kept_its_promise(self) -> bool | None:
        """Whether it ended within its window; None: it has none, or its client did not want it any more."""
        if self.due_at is None or self.ended_at is None or self.status == "cancelled":
            return None
        return self.status != "expired" and self.ended_at <= self.due_at

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def booked(self) -> int:
        return sum(self.tokens or ())

    def can_be_dispatched(self, now: datetime) -> bool:
        """Whether it only waits for a free slot of its user's dispatch window."""
        has_time = self.expires_at > now and (self.not_before is None or self.not_before <= now)
        return self.status == "queued" and self.dispatched_at is None and has_time

    def is_lost(self, now: datetime) -> bool:
        return self.lease_until is not None and self.lease_until < now

    def is_due(self, now: datetime) -> bool:
        """Whether a worker that receives its message may start it."""
        if self.is_ended or self.dispatched_at is None or self.is_cancel_requested or self.expires_at <= now:
            return False
        if self.status == "queued":
            return self.not_before is None or self.not_before <= now
        return self.is_lost(now) and self.failed_attempts + 1 < self.max_attempts

    def count_failure(self, error: str | None, *, with_worker: bool = False) -> None:
        """Count a failed attempt."""
        self.failed_attempts += 1
        self.lost_attempts += with_worker
        self.last_error = error

    def begin(self, now: datetime, lease: timedelta) -> None:
        if self.status == "processing":
            self.count_failure("worker_lost", with_worker=True)
        self.status, self.attempt, self.started_at = "processing", self.attempt + 1, max(now, self.created_at)
        self.lease_until, self.not_before = now + lease, None
        self.audited.append("request.processing")

    def requeue(self, not_before: datetime | None) -> None:
        self.status, self.lease_until, self.dispatched_at, self.not_before = "queued", None, None, not_before
        self.audited.append("request.requeued")

    def end(self, now: datetime, status: str, error: str | None = None, tokens: tuple[int, int] | None = None) -> None:
        # The clock may have been set back since.
        self.ended_at = max(now, self.started_at or self.created_at)
        if self.is_cancel_requested:
            status, error = "cancelled", None
        self.status, self.error, self.tokens, self.lease_until, self.dispatched_at = status, error, tokens, None, None
        self.audited.append(f"request.{status}")
        self.untold.append(TOLD_AS[status])

    def reopen(self, now: datetime, expires_at: datetime, max_attempts: int) -> None:
        self.attempt += 1  # answers to earlier attempts no longer count
        self.status, self.error, self.tokens, self.last_error = "queued", None, None, None
        self.failed_attempts, self.lost_attempts, self.not_before = 0, 0, None
        self.started_at, self.ended_at = None, None
        self.expires_at, self.max_attempts = expires_at, max_attempts
        self.join_the_waiting_class(now)
        self.audited.append("request.redriven")


def is_in(scope: Scope, has_key: bool, model: str) -> bool:
    """Whether a budget counts a request: each user has one key."""
    only_key, only_model, _ = scope
    return (has_key or not only_key) and only_model in {None, model}


def start_of(period: str, at: datetime) -> datetime:
    at = at.replace(second=0, microsecond=0)
    if period != "minute":
        at = at.replace(hour=0, minute=0)
    return at.replace(day=1) if period == "monthly" else at


def end_of(period: str, at: datetime) -> datetime:
    start = start_of(period, at)
    if period == "monthly":
        return (start + timedelta(days=32)).replace(day=1)
    return start + (timedelta(days=1) if period == "daily" else timedelta(minutes=1))


def json_limits(limits: Mapping[str, Limit]) -> dict[str, dict[str, int | None]]:
    return {period: {"max_requests": limit[0], "max_tokens": limit[1]} for period, limit in limits.items()}
