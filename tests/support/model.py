"""The reference model of the ledger: its rules on plain records, without counters that could be wrong."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from tests.support.records import (
    ALONE_AFTER,
    PLAN_FIELDS,
    REQUEUES,
    USUAL_WAIT,
    Answer,
    Event,
    Request,
    Scope,
    Size,
    Tier,
    User,
    end_of,
    is_in,
    start_of,
)


@dataclass
class Ledger:
    """The expected state, derived from the requests alone.

    Attributes:
        prices: by model and first day: per million tokens of the prompt and of the completion.
        patient_prices: by model, those of the list for completion windows.
        patient_days: by completion window and first day, whether it is billed by that list.
        waiting_room: how many requests may be dispatched while more of the waiting class are.
        waiting_share: how many of them a user may have dispatched; None: as many as there is room for.
        idempotency_keys: by user and key: the body, the request, and when the cleaning task looks at it next.
        events: of webhooks, in no order.
    """

    now: datetime
    tiers: dict[str, Tier]
    users: dict[str, User]
    prices: dict[str, dict[date, tuple[Decimal, Decimal]]]
    requests: dict[UUID, Request] = field(default_factory=dict)
    idempotency_keys: dict[tuple[str, str], tuple[str, UUID, datetime]] = field(default_factory=dict)
    patient_prices: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
    patient_days: dict[str, dict[date, bool]] = field(default_factory=dict)
    waiting_room: int = 25
    waiting_share: int | None = None
    events: list[Event] = field(default_factory=list)

    def of(self, user: str) -> Iterator[Request]:
        return (request for request in self.requests.values() if request.user == user)

    def key_counts(self, request: Request) -> bool:
        """Whether a repeat of the submission is answered with this request."""
        return request.ended_at is None or request.ended_at + timedelta(days=1) > self.now

    def expire_keys(self) -> int:
        """Delete what counts no longer, but not while an operator could redrive; returns how many."""
        due = [(key, kept) for key, kept in self.idempotency_keys.items() if kept[2] <= self.now]
        deleted = 0
        for key, (body, request_id, _) in due:
            request = self.requests[request_id]
            if self.key_counts(request):
                again = (request.ended_at or self.now) + timedelta(days=1)
            elif request.status == "failed" and not request.is_archived:
                again = self.now + timedelta(days=1)
            else:
                del self.idempotency_keys[key]
                deleted += 1
                continue
            self.idempotency_keys[key] = (body, request_id, again)
        return deleted

    def unfinished(self) -> list[Request]:
        return [request for request in self.requests.values() if not request.is_ended]

    def due(self) -> list[Request]:
        """What workers that receive every message could start."""
        return [request for request in self.requests.values() if request.is_due(self.now)]

    # Quotas

    def used(self, user: str, period: str, at: datetime) -> tuple[int, int, int]:
        """Requests, tokens booked and tokens reserved in the period that contains a time."""
        start, end = start_of(period, at), end_of(period, at)
        inside = [request for request in self.of(user) if start <= request.created_at < end]
        reserved = sum(request.reserved for request in inside if not request.is_ended)
        return len(inside), sum(request.booked for request in inside), reserved

    def time_for(self, user: str) -> datetime:
        """When a request submitted now is created: never before the counters' periods, even if the clock was set back."""
        return max(self.now, self.latest_period(user))

    def latest_period(self, user: str) -> datetime:
        """When the newest period of a user's counters began."""
        who = self.users[user]
        return max(*who.period_starts.values(), *(budget.period_start for budget in who.budgets.values()))

    def tokens_left(self, user: str) -> int | None:
        """Tokens left in every period of a user; None without a limit."""
        at = self.time_for(user)
        limited = [(period, limit[1]) for period, limit in self.users[user].limits.items() if limit[1] is not None]
        return min((limit - sum(self.used(user, period, at)[1:]) for period, limit in limited), default=None)

    def verdict(self, user: str, size: Size, *, has_key: bool = True, window: str | None = None) -> tuple[str, int]:
        """Whether a request is accepted, or the code of its refusal; and the seconds until it may be tried again."""
        who = self.users[user]
        if not who.is_active:
            return "user_inactive", 0
        at, (_, reserved, _) = self.time_for(user), size
        found: list[tuple[str, timedelta]] = []
        for period, (max_requests, max_tokens) in who.limits.items():
            if (max_tokens is not None and reserved > max_tokens) or max_requests == 0:
                return "quota_too_small", 0
            requests, booked, pending = self.used(user, period, at)
            until_reset = end_of(period, at) - at
            if (max_requests is not None and requests + 1 > max_requests) or (
                max_tokens is not None and booked + reserved > max_tokens
            ):
                found.append(("quota_exceeded", until_reset))
            elif max_tokens is not None and booked + pending + reserved > max_tokens:
                holding = [(r, Decimal(r.reserved)) for r in self.since(user, start_of(period, at))]
                wait = self.wait(holding, at, booked + pending + reserved - max_tokens)
                found.append(("quota_reserved", min(wait, until_reset)))
        if not found:
            found = self.budgets_in_the_way(user, size, at, has_key=has_key, window=window)
        if found:
            # The longest wait decides; of equal ones, what is used up.
            code, longest = max(found, key=lambda each: (each[1], each[0].endswith("_exceeded")))
            return code, 0 if code == "budget_too_small" else max(1, -(-longest // timedelta(seconds=1)))
        open_ones = list(self.since(user, datetime.min.replace(tzinfo=UTC)))
        if len(open_ones) >= who.max_unfinished:
            wait = self.wait([(r, Decimal(r.reserved)) for r in open_ones], at, 1)
            return "unfinished_exceeded", -(-wait // timedelta(seconds=1))
        return "accepted", 0

    def since(self, user: str, at: datetime) -> Iterator[Request]:
        """Unfinished requests of a user that were accepted since a time."""
        return (request for request in self.of(user) if not request.is_ended and request.created_at >= at)

    @staticmethod
    def wait(holding: Sequence[tuple[Request, Decimal]], at: datetime, needed: int | Decimal) -> timedelta:
        """How long until these have likely released so much, in the order in which they may start."""
        line = sorted((max(request.not_before or at, at), request.request_id, held) for request, held in holding)
        released = Decimal(0)
        for begins, _, held in line:
            released += held
            if released >= needed:
                return begins - at + USUAL_WAIT
        raise AssertionError("the unfinished requests do not hold so much")

    # Budgets

    def cost(self, model: str, at: datetime, prompt: int, completion: int, window: str | None) -> Decimal:
        """What tokens of a time cost."""
        days = {
            day: is_patient for day, is_patient in self.patient_days.get(window or "", {}).items() if day <= at.date()
        }
        if days and days[max(days)]:
            prices = self.patient_prices[model]
        else:
            prices = self.prices[model][max(first for first in self.prices[model] if first <= at.date())]
        return (prompt * prices[0] + completion * prices[1]) / 1_000_000

    def spent(self, user: str, scope: Scope, start: datetime) -> tuple[Decimal, Decimal]:
        """What a budget's requests have cost in the period that begins then, and the most that unfinished ones can."""
        end = end_of(scope[2], start)
        inside = [r for r in self.of(user) if start <= r.created_at < end and is_in(scope, r.has_key, r.model)]
        ended = [(r, r.tokens) for r in inside if r.is_ended and r.tokens]
        used = sum((self.cost(r.model, r.created_at, *tokens, r.window) for r, tokens in ended), Decimal(0))
        return used, sum((self.bound(r) for r in inside if not r.is_ended), Decimal(0))

    def bound(self, request: Request) -> Decimal:
        """The most that a request can cost."""
        prompt = request.reserved - request.max_tokens
        return self.cost(request.model, request.created_at, prompt, request.max_tokens, request.window)

    def budgets_in_the_way(
        self, user: str, size: Size, at: datetime, *, has_key: bool, window: str | None
    ) -> list[tuple[str, timedelta]]:
        model, reserved, max_tokens = size
        needed = self.cost(model, at, reserved - max_tokens, max_tokens, window)
        found = []
        for scope, budget in self.users[user].budgets.items():
            if not is_in(scope, has_key, model):
                continue
            start = budget.period_start if at < budget.end else start_of(budget.period, at)
            until_reset = end_of(budget.period, start) - at
            if needed > budget.maximum:
                return [("budget_too_small", timedelta())]
            used, pending = self.spent(user, scope, start)
            if used + needed > budget.maximum:
                found.append(("budget_exceeded", until_reset))
            elif used + pending + needed > budget.maximum:
                holding = [(r, self.bound(r)) for r in self.since(user, start) if is_in(scope, r.has_key, r.model)]
                wait = self.wait(holding, at, used + pending + needed - budget.maximum)
                found.append(("budget_reserved", min(wait, until_reset)))
        return found

    def recount(self, users: Collection[str]) -> None:
        """Budgets are counted again, in the period that it is now: never before those of the user's quotas."""
        for user in users:
            for budget in self.users[user].budgets.values():
                budget.move_to(self.budget_time(user))

    def budget_time(self, user: str) -> datetime:
        return max(self.now, *self.users[user].period_starts.values())

    def accept(self, request: Request, *, may_dispatch: bool) -> list[UUID]:
        """Add an accepted request; returns the ids to send."""
        period_starts = self.users[request.user].period_starts
        for period, start in period_starts.items():
            if request.created_at >= end_of(period, start):
                period_starts[period] = start_of(period, request.created_at)
        for scope, budget in self.users[request.user].budgets.items():
            if is_in(scope, request.has_key, request.model):
                budget.move_to(request.created_at)
        is_last = any(
            not other.is_ended and other.dispatched_at is None and other.priority <= request.priority
            for other in self.of(request.user)
        )
        slots = self.waiting_slots(request.user) if request.priority else self.free_slots(request.user)
        may_dispatch &= self.dispatched(request.user) < (
            self.users[request.user].waiting_window if request.priority else self.users[request.user].dispatch_window
        )
        self.requests[request.request_id] = request
        if not may_dispatch:
            return []
        if is_last:
            return self.dispatch_waiting([request.user])
        # The clock may have been set back, so the time is the request's own.
        request.dispatched_at = request.created_at if request.not_before is None and slots else None
        return [request.request_id] if request.dispatched_at else []

    # The dispatch window

    def dispatched(self, user: str) -> int:
        return sum(request.dispatched_at is not None for request in self.of(user))

    def free_slots(self, user: str) -> int:
        return max(0, self.users[user].dispatch_window - self.dispatched(user))

    def room(self) -> int:
        """How many more requests of the waiting class all other requests leave room for."""
        return max(0, self.waiting_room - sum(r.dispatched_at is not None for r in self.requests.values()))

    def waiting_slots(self, user: str) -> int:
        """How many of them a user may get."""
        most = self.users[user].waiting_window
        most = most if self.waiting_share is None else min(most, self.waiting_share)
        return max(0, min(most - self.dispatched(user), self.room()))

    def line(self, user: str, priority: int) -> list[UUID]:
        """Those of a user's requests that wait for a slot, in their order."""
        return sorted(r.request_id for r in self.of(user) if r.can_be_dispatched(self.now) and r.priority == priority)

    def dispatch_waiting(
        self, users: Collection[str], among: Collection[UUID] | None = None, most: int | None = None
    ) -> list[UUID]:
        """Dispatch the next requests of users, or only those among the given ones.

        Args:
            most: of the waiting class and of each user; None: as many as there is room for.
        """
        chosen: list[UUID] = []
        room = self.room()  # before any of them is dispatched
        for user in users:
            lines = [[each for each in self.line(user, n) if among is None or each in among] for n in (0, 1)]
            urgent = lines[0][: self.free_slots(user)]
            limit = self.users[user].waiting_window
            limit = limit if self.waiting_share is None else min(limit, self.waiting_share)
            slots = max(0, min(limit - self.dispatched(user) - len(urgent), room)) if most is None else most
            chosen += urgent + lines[1][:slots]
        for request_id in chosen:
            self.requests[request_id].dispatched_at = self.now
        return chosen

    def dispatch(self) -> list[UUID]:
        """What the recovery task dispatches: the waiting class in turns, first whoever has least."""
        for request in self.unfinished():
            if request.promote_at is not None and request.promote_at <= self.now:
                request.priority = 0
        sent = self.dispatch_waiting(self.users, most=0)
        waiting = [user for user in self.users if self.line(user, 1)]
        self.waiting_share = max(1, self.waiting_room // len(waiting)) if len(waiting) > 1 else None
        room, turns = self.room(), []
        for user in waiting:
            taken = self.dispatched(user)
            own = self.line(user, 1)[: max(0, min(self.users[user].waiting_window - taken, room))]
            turns += [(taken + n, request_id) for n, request_id in enumerate(own, 1)]
        chosen = [request_id for _, request_id in sorted(turns)[:room]]
        return sent + self.dispatch_waiting(waiting, chosen, room)

    # Working

    def claim(self, wanted: Sequence[Request], lease: timedelta) -> dict[UUID, int]:
        """The requests that a worker with these messages may start, and their attempts."""
        self.dispatch_waiting({request.user for request in wanted}, {request.request_id for request in wanted})
        due = sorted((request for request in wanted if request.is_due(self.now)), key=lambda r: r.request_id)
        due = [request for request in due if request.lost_attempts >= ALONE_AFTER][:1] or due
        for request in due:
            request.begin(self.now, lease)
        for request in wanted:
            if request.status == "queued":
                request.dispatched_at = None
        return {request.request_id: request.attempt for request in due}

    def settle(self, flush: Sequence[Mapping[str, Any]]) -> tuple[list[Answer], list[UUID]]:
        """The result of each outcome, and what is dispatched into the slots that become free."""
        users = {r.user for outcome in flush if not (r := self._request_of(outcome)).is_ended}
        current: dict[UUID, int] = {}
        for n, outcome in enumerate(flush):
            request = self._request_of(outcome)
            # A late answer counts, but nothing is requeued twice.
            can_settle = request.status == "processing" or outcome["outcome"] not in REQUEUES
            if can_settle and not request.is_ended and request.attempt == outcome["attempt"]:
                current.setdefault(request.request_id, n)
        answers = [self._settle_current(flush[n]) for n in current.values()]
        answers += [self._settle_late(outcome) for n, outcome in enumerate(flush) if n not in current.values()]
        return answers, self.dispatch_waiting(users)

    def _request_of(self, outcome: Mapping[str, Any]) -> Request:
        return self.requests[UUID(outcome["request_id"])]

    def _settle_current(self, outcome: Mapping[str, Any]) -> Answer:
        request, kind = self._request_of(outcome), outcome["outcome"]
        later = self.now + timedelta(seconds=outcome.get("retry_after", 0))
        is_last = request.failed_attempts + 1 >= request.max_attempts or later >= request.expires_at
        if request.is_cancel_requested or kind not in REQUEUES or (kind == "retry" and is_last):
            has_tokens = "prompt_tokens" in outcome
            request.end(
                self.now,
                "failed" if kind == "retry" else kind,
                outcome.get("error_code") if kind != "cancelled" else None,
                (outcome["prompt_tokens"], outcome["completion_tokens"]) if has_tokens else None,
            )
            return "settled", request.request_id, request.status
        if kind == "retry":
            request.count_failure(outcome["error_code"])
        request.requeue(later if kind == "retry" else None)
        return "requeued", request.request_id, "queued"

    def _settle_late(self, outcome: Mapping[str, Any]) -> Answer:
        request, kind = self._request_of(outcome), outcome["outcome"]
        if request.is_archived:
            return "superseded", request.request_id, None
        reported = outcome.get("prompt_tokens", 0) + outcome.get("completion_tokens", 0)
        if request.attempt == outcome["attempt"]:
            ended_so = request.status in {kind, "cancelled"} or (request.status, kind) == ("failed", "retry")
            if request.is_ended and ended_so and request.booked == reported:
                return "settled", request.request_id, request.status
            if request.status == "queued" and kind in REQUEUES:
                return "requeued", request.request_id, "queued"
        request.audited.append("request.superseded")
        return "superseded", request.request_id, request.status

    # Cancelling and redriving

    def cancel(self, request: Request) -> tuple[str, str]:
        """The outcome, and the status afterwards."""
        if request.is_ended:
            return "ok" if request.status == "cancelled" else "request_finished", request.status
        if request.status == "queued" or request.is_lost(self.now):
            request.end(self.now, "cancelled")
        elif not request.is_cancel_requested:
            request.is_cancel_requested = True
            request.audited.append("request.cancel_requested")
        return "ok", request.status

    def refusal(self, request: Request, active_models: Collection[str]) -> str | None:
        """Why a request cannot be redriven; None if it can."""
        who = self.users[request.user]
        if request.is_archived:
            return "request_archived"
        if request.status != "failed":
            return "request_not_failed"
        if not who.is_active:
            return "user_inactive"
        if request.model not in active_models:
            return "model_unknown"
        for period, (_, max_tokens) in who.limits.items():
            start = who.period_starts[period]
            if max_tokens is not None and start <= request.created_at < end_of(period, start):
                _, booked, pending = self.used(request.user, period, start)
                if booked - request.booked + pending + request.reserved > max_tokens:
                    return "quota_exceeded"
        for scope, budget in who.budgets.items():
            start = budget.period_start
            if is_in(scope, request.has_key, request.model) and start <= request.created_at < budget.end:
                used, pending_cost = self.spent(request.user, scope, start)
                cost = self.cost(request.model, request.created_at, *(request.tokens or (0, 0)), request.window)
                if used - cost + pending_cost + self.bound(request) > budget.maximum:
                    return "budget_exceeded"
        return None

    # The schedules

    def recover(self) -> dict[str, int]:
        done: Counter[str] = Counter(requeued=0, failed=0, expired=0, cancelled=0)
        for request in self.unfinished():
            is_lost, is_over = request.is_lost(self.now), request.expires_at <= self.now
            is_last = request.failed_attempts + 1 >= request.max_attempts
            if is_lost and not request.is_cancel_requested and not is_last and not is_over:
                request.count_failure("worker_lost", with_worker=True)
                request.requeue(None)
                done["requeued"] += 1
            elif is_lost or (request.status == "queued" and is_over):
                if request.status == "queued" and not request.failed_attempts:
                    request.end(self.now, "expired", "request_expired")
                else:
                    request.end(self.now, "failed", "worker_lost" if is_lost and is_last else "request_expired")
                done[request.status] += 1
        return dict(done)

    def resend(self, wanted: Sequence[Request]) -> list[UUID]:
        """Send messages again for requests that wait for theirs."""
        again = [request for request in wanted if request.status == "queued" and request.dispatched_at is not None]
        for request in again:
            request.dispatched_at = self.now
        return [request.request_id for request in again]

    def undispatch(self, wanted: Sequence[Request]) -> None:
        """Their messages could not be sent."""
        for request in wanted:
            if request.status == "queued":
                request.dispatched_at = None

    # Webhooks

    def tell(self) -> None:
        """Write the events of what has ended since the last time: endpoints were the same all the while."""
        for request in self.requests.values():
            endpoints = self.users[request.user].endpoints.items()
            for event_type in request.untold:
                wanted: list[UUID | str] = [
                    each for each, endpoint in endpoints if endpoint.is_enabled and event_type in endpoint.event_types
                ]
                wanted += [] if request.webhook is None else [request.webhook]
                self.events += [Event(request.request_id, event_type, to) for to in wanted]
            request.untold.clear()

    def drop_events(self, endpoint_id: UUID) -> None:
        """What was to be sent to an endpoint is dead."""
        for event in self.events:
            event.is_dead |= event.to == endpoint_id

    # Administration and figures

    def follow(self, names: Sequence[str]) -> None:
        """Users get the limits of their tiers, except for overrides."""
        for member in names:
            user = self.users[member]
            tier = self.tiers[user.tier]
            user.limits |= {period: limit for period, limit in tier.limits.items() if period not in user.overrides}
            for name in PLAN_FIELDS - user.overrides:
                setattr(user, name, getattr(tier, name))

    def usage(self) -> dict[tuple[str, str, date], tuple[int, int, int]]:
        """Requests, prompt tokens and completion tokens by user, model and day."""
        sums: dict[tuple[str, str, date], list[int]] = defaultdict(lambda: [0, 0, 0])
        for (user, model, day, _), part in self.windowed_usage().items():
            figures = sums[user, model, day]
            figures[:] = [figures[n] + part[n] for n in range(3)]
        return {key: (figures[0], figures[1], figures[2]) for key, figures in sums.items()}

    def windowed_usage(self) -> dict[tuple[str, str, date, str], tuple[int, int, int]]:
        """usage(), and by completion window."""
        sums: dict[tuple[str, str, date, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        for request in self.requests.values():
            prompt, completion = request.tokens or (0, 0)
            figures = sums[request.user, request.model, request.created_at.date(), request.window or "soonest"]
            figures[:] = figures[0] + 1, figures[1] + prompt, figures[2] + completion
        return {key: (figures[0], figures[1], figures[2]) for key, figures in sums.items()}

    def promises(self) -> dict[tuple[date, str], tuple[int, int]]:
        """Kept and missed completion windows, by the day of acceptance."""
        found: Counter[tuple[date, str, bool]] = Counter(
            (r.created_at.date(), str(r.window), r.has_kept_its_promise)
            for r in self.requests.values()
            if r.has_kept_its_promise is not None
        )
        return {(day, window): (found[day, window, True], found[day, window, False]) for day, window, _ in found}
