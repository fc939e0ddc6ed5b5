"""The ledger and its reference model agree in any sequence of steps, and the books balance.

Each example has a database of its own with a clock that only rules move; at the end every request must finish. Without
SLUICE_EXAMPLES every run has the same examples; with it (SLUICE_EXAMPLES=1000) so many other examples are tried, and a
failure prints how to repeat it.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from psycopg.types.json import Jsonb

from tests.support.choices import ANSWER, lifetimes, limits, scopes, sizes, users, windows
from tests.support.machine import KEYS, OVERHEAD, ExampleSource
from tests.support.records import (
    MILLISECOND,
    PERIODS,
    PLAN_FIELDS,
    WINDOWS,
    Budget,
    Lifetime,
    Limit,
    Request,
    end_of,
    json_limits,
    start_of,
)
from tests.support.webhook_machine import WebhookMachine

EXAMPLES = int(os.environ.get("SLUICE_EXAMPLES", "0"))


class LedgerMachine(WebhookMachine):
    """The steps of clients, workers, schedules and operators, in any order."""

    # Submitting

    @rule(
        user=users,
        some=st.lists(sizes, min_size=1, max_size=4),
        lifetime=lifetimes,
        attempts=st.integers(1, 4),
        window=windows,
        webhook=st.sampled_from([None, None, None, "https://example.com/mine"]),
    )
    def submits(
        self,
        user: str,
        some: list[tuple[str, int, int]],
        lifetime: Lifetime,
        attempts: int,
        window: str | None,
        webhook: str | None,
    ) -> None:
        for size in some:
            self.submit(user, size, lifetime, attempts, window=window, webhook=webhook)

    @rule(user=users, size=sizes, window=st.sampled_from(sorted(WINDOWS)), others=st.booleans())
    def can_wait(self, user: str, size: tuple[str, int, int], window: str, others: bool) -> None:
        """And somebody else, or the same user, cannot."""
        self.submit(user, size, Lifetime(), window=window)
        if others:
            self.submit(user, size)

    @rule(user=users, over=st.integers(0, 1))
    def submits_up_to_the_limit(self, user: str, over: int) -> None:
        """Or exceeds it by one token."""
        tokens_left = self.ledger.tokens_left(user)
        if tokens_left is not None and tokens_left > OVERHEAD["small"] + 1:
            self.submit(user, ("small", tokens_left - OVERHEAD["small"] - 1 + over, 1))

    @rule(
        user=users,
        key=st.sampled_from("ab"),
        size=st.sampled_from([("small", 5, 5), ("small", 6, 5)]),
        twice=st.booleans(),
    )
    def submits_with_a_key(self, user: str, key: str, size: tuple[str, int, int], twice: bool) -> None:
        for _ in range(1 + twice):
            self.submit(user, size, key=key)

    @rule(user=users, size=sizes)
    def inserts_directly(self, user: str, size: tuple[str, int, int]) -> None:
        model, length, max_tokens = size
        reserved = length + OVERHEAD[model] + max_tokens
        verdict, _ = self.ledger.verdict(user, (model, reserved, max_tokens), has_key=False)
        statement = "INSERT INTO submissions (user_id, prompt, model_id, parameters) VALUES (%s, %s, %s, %s) RETURNING request_id"
        parameters = (user, "x" * length, model, Jsonb({"max_tokens": max_tokens}))
        if verdict != "accepted":
            too_small = {"quota_too_small": "SL422", "budget_too_small": "SL422"}
            state = ({"user_inactive": "SL403"} | too_small).get(verdict, "SL429")
            with self.refused(verdict, state):
                self.sql.execute(statement, parameters)
            return
        ((request_id,),) = self.values(statement, *parameters)
        request = Request(request_id, user, model, reserved, None, self.ledger.now, 20, max_tokens, has_key=False)
        request.expires_at = request.created_at + timedelta(days=1)
        self.accept(request, [], may_dispatch=False)

    # Working

    @precondition(lambda self: self.ledger.requests)
    @rule(data=st.data(), lease=st.sampled_from([10, 10, 60, 4000]))
    def claims(self, data: st.DataObject, lease: int) -> None:
        """Any message may arrive: of a retry, of a waiting request, or a duplicate."""
        self.claim(data.draw(self.some_requests(lambda request: not request.is_ended, lambda _: True)), lease)

    def some_requests(
        self, preferred: Callable[[Request], bool], others: Callable[[Request], bool]
    ) -> st.SearchStrategy[list[Request]]:
        """Mostly preferred requests, if there are any; sometimes others."""
        everything = [request for request in self.ledger.requests.values() if others(request)]
        likely = [request for request in everything if preferred(request)] or everything
        few, any_of = (
            st.lists(st.sampled_from(them), min_size=1, max_size=6, unique_by=id) for them in (likely, everything)
        )
        return st.one_of(few, few, any_of)

    def outcome(self, data: st.DataObject, request: Request) -> dict[str, Any]:
        attempt = request.attempt - (request.attempt > 1 and data.draw(st.integers(0, 4)) == 0)
        kinds = ["completed", "retry", "overrun", "failed", "retry", "too_large", "cancelled", "retry", "released"]
        if request.is_ended and request.status in kinds:
            kinds = [request.status, request.status, "retry", "completed", "released"]  # repeated, or too late
        kind = data.draw(st.sampled_from(kinds))
        reported: dict[str, Any] = {"request_id": str(request.request_id), "attempt": attempt, "outcome": kind}
        if kind in {"completed", "overrun", "too_large"}:
            spent = data.draw(st.integers(0, request.reserved))
            spent = request.reserved + 1 + 10 * spent if kind == "overrun" else spent
            reported |= {"prompt_tokens": spent // 2, "completion_tokens": spent - spent // 2}
            # They have no prices of their own here, so they cost what the others cost.
            reported |= {"cached_tokens": spent // 3, "reasoning_tokens": spent // 4}
        if kind in {"completed", "overrun"}:
            return reported | {"outcome": "completed", "output": ANSWER, "fingerprint": "00" * 32}
        if kind in {"cancelled", "released"}:
            return reported
        if kind == "retry":
            reported |= {"retry_after": data.draw(st.sampled_from([0, 30, 1000, 100_000]))}
        return (
            reported
            | ({"outcome": "failed"} if kind == "too_large" else {})
            | {"error_code": "x", "error_message": "x"}
        )

    @precondition(lambda self: self.ledger.unfinished())
    @rule(
        data=st.data(),
        by=st.sampled_from([MILLISECOND, MILLISECOND, timedelta(), -MILLISECOND]),
        does=st.sampled_from(["claim", "recover", "cancel", ""]),
    )
    def a_deadline_passes(self, data: st.DataObject, by: timedelta, does: str) -> None:
        """The end of a lease, delay or lifetime, to the millisecond, and possibly a call right then."""
        open_ones = self.ledger.unfinished()
        begun = [request for request in open_ones if request.attempt] or open_ones
        request = data.draw(st.sampled_from(begun) | st.sampled_from(open_ones))
        next_moment = request.lease_until or request.not_before or request.expires_at
        moments = [next_moment, next_moment, request.expires_at]
        moments += [] if request.promote_at is None or request.due_at is None else [request.promote_at, request.due_at]
        at = data.draw(st.sampled_from(moments)) + by
        if at <= self.ledger.now:
            return
        self.move_to(at)
        match does:
            case "claim":
                self.claim([request], 60)
            case "recover":
                self.recover()
            case "cancel":
                self.cancel(request, request.user)

    @precondition(lambda self: any(request.attempt for request in self.ledger.requests.values()))
    @rule(data=st.data(), times=st.sampled_from([1, 1, 2]), mixed=st.booleans(), early=st.booleans())
    def settles(self, data: st.DataObject, times: int, mixed: bool, early: bool) -> None:
        """A flush may be sent twice or name a request twice, and messages may be delivered again."""
        chosen = data.draw(
            self.some_requests(lambda request: request.status == "processing", lambda request: request.attempt > 0)
        )
        flush = [self.outcome(data, request) for request in chosen + chosen[:1] * mixed]
        for _ in range(times):
            self.settle(flush)
        if early:
            self.claim(chosen, 60)

    @precondition(lambda self: any(request.attempt > 1 for request in self.ledger.requests.values()))
    @rule(data=st.data())
    def answers_late(self, data: st.DataObject) -> None:
        """An answer to an attempt that is no longer the current one."""
        request = data.draw(
            st.sampled_from([request for request in self.ledger.requests.values() if request.attempt > 1])
        )
        self.settle([self.outcome(data, request) | {"attempt": request.attempt - 1}])

    @precondition(lambda self: any(request.is_lost(self.ledger.now) for request in self.ledger.requests.values()))
    @rule(data=st.data(), recovered=st.booleans())
    def answers_after_its_lease(self, data: st.DataObject, recovered: bool) -> None:
        """Before or after recovery has requeued the request, and a second time."""
        late = [request for request in self.ledger.requests.values() if request.is_lost(self.ledger.now)]
        flush = [self.outcome(data, request) | {"attempt": request.attempt} for request in late[:4]]
        if recovered:
            self.recover()
        for _ in range(2):
            self.settle(flush)

    @precondition(lambda self: self.ledger.due())
    @rule(data=st.data())
    def a_worker_answers(self, data: st.DataObject) -> None:
        """A worker claims and answers a batch; some answers are lost."""
        due = self.ledger.due()[:10]
        self.claim(due, 60)
        answered = [request for request in due if request.attempt and data.draw(st.integers(0, 3))]
        if answered:
            self.settle([self.outcome(data, request) for request in answered])

    @precondition(lambda self: self.ledger.due())
    @rule(
        until=st.sampled_from([-MILLISECOND, timedelta(), MILLISECOND, MILLISECOND]),
        again=st.booleans(),
        times=st.sampled_from([1, 1, 3]),
    )
    def a_worker_is_lost(self, until: timedelta, again: bool, times: int) -> None:
        """Recovery or a repeated message comes around the end of its lease; a request may kill its workers repeatedly."""
        lost = self.ledger.due()[:3]
        for _ in range(times):
            self.claim(lost, 10)
            self.move_to(self.ledger.now + timedelta(seconds=10) + until)
            if not again:
                self.recover()
        self.claim(lost, 10)

    # Cancelling and redriving

    @precondition(lambda self: self.ledger.requests)
    @rule(data=st.data(), by=st.sampled_from(["owner", "owner", "operator", *KEYS]), answered=st.booleans())
    def cancels(self, data: st.DataObject, by: str, answered: bool) -> None:
        """A worker that runs the request may answer."""
        (request, *_) = data.draw(self.some_requests(lambda request: not request.is_ended, lambda _: True))
        self.cancel(request, request.user if by == "owner" else by)
        if answered and request.attempt:
            self.settle([self.outcome(data, request)])

    @precondition(lambda self: any(request.status == "failed" for request in self.ledger.requests.values()))
    @rule(data=st.data())
    def redrives(self, data: st.DataObject) -> None:
        chosen = data.draw(self.some_requests(lambda request: request.status == "failed", lambda _: True))
        for request in chosen[:2]:
            self.redrive(request)

    @precondition(lambda self: any(request.status == "failed" for request in self.ledger.requests.values()))
    @rule(error=st.sampled_from(["x", "worker_lost", "request_expired"]), user=st.none() | users, dry=st.booleans())
    def redrives_all(self, error: str, user: str | None, dry: bool) -> None:
        """All that failed for a reason, of one user or of all."""
        chosen = [
            request
            for request in self.ledger.requests.values()
            if (request.status, request.error) == ("failed", error) and user in {None, request.user}
        ]
        expected = []
        for request in sorted(chosen, key=lambda request: request.request_id):
            refusal = self.ledger.refusal(request, OVERHEAD)
            if refusal is None and not dry:
                request.reopen(self.ledger.now, self.ledger.now + timedelta(seconds=90), 1)
            expected.append((str(request.request_id), refusal or ("found" if dry else "redriven")))
        # Audit rows have the server's time, not the stopped clock's.
        now = datetime.now(UTC)
        done = self.act(
            "request.redrive",
            request_id=None,
            error_code=error,
            user_id=user,
            start=(now - timedelta(days=1)).isoformat(),
            end=(now + timedelta(days=1)).isoformat(),
            limit=1000,
            dry_run=dry,
            ttl_seconds=90,
            max_attempts=1,
        )
        assert [(reported["request_id"], reported["outcome"]) for reported in done["requests"]] == expected
        assert (done["redriven"], done["next_cursor"]) == (sum(what == "redriven" for _, what in expected), None)

    # Time

    @rule(by=st.one_of(*[st.integers(0, 59)] * 3, *[st.integers(60, 300)] * 2, st.sampled_from([3600, 100_000])))
    def time_passes(self, by: int) -> None:
        self.move_to(self.ledger.now + timedelta(seconds=by))

    @rule(
        period=st.sampled_from(["minute", "daily", "daily", "monthly"]),
        by=st.sampled_from([timedelta(), MILLISECOND, timedelta(seconds=1)]),
    )
    def a_period_ends(self, period: str, by: timedelta) -> None:
        """Exactly, or just before."""
        end = end_of(period, self.ledger.now)
        if end - self.ledger.now > timedelta(days=20):
            # With a recovery on the way, since it runs every minute.
            self.move_to(self.ledger.now + timedelta(days=2))
            self.recover()
        self.move_to(max(self.ledger.now, end - by))

    @rule(user=users, by=st.sampled_from([MILLISECOND, timedelta(seconds=70), timedelta(hours=30)]), size=sizes)
    def the_clock_is_set_back(self, user: str, by: timedelta, size: tuple[str, int, int]) -> None:
        """To before the newest period of a user, who then submits."""
        self.move_to(min(self.ledger.now, max(self.ledger.users[user].period_starts.values()) - by))
        self.submit(user, size)

    # Schedules and messages

    @rule()
    def recovers(self) -> None:
        self.recover()

    @rule()
    def dispatches(self) -> None:
        """A recovery task that only dispatched."""
        self.dispatch()

    @precondition(lambda self: self.ledger.unfinished())
    @rule(data=st.data(), failed=st.booleans())
    def a_message_is_lost(self, data: st.DataObject, failed: bool) -> None:
        """It could not be sent, as its sender reports, or it became a dead letter, which recovery finds."""
        chosen = data.draw(self.some_requests(lambda request: request.dispatched_at is not None, lambda _: True))
        ids = [request.request_id for request in chosen]
        if failed:
            self.ledger.undispatch(chosen)
            self.rows("request_undispatch", ids=ids)
        else:
            again = {row["request_id"] for row in self.rows("request_resend", ids=ids)}
            assert again == set(self.ledger.resend(chosen))

    @precondition(lambda self: any(request.dispatched_at for request in self.ledger.requests.values()))
    @rule(
        depth=st.integers(0, 4),
        grace=st.sampled_from([0, 30, 200]),
        long=st.sampled_from([50, 900]),
        at_most=st.sampled_from([1, 1000]),
    )
    def messages_are_missing(self, depth: int, grace: int, long: int, at_most: int) -> None:
        """As many as are missing are sent again, those that have waited longest first."""
        now = self.ledger.now
        out = [
            (now - request.dispatched_at, request)
            for request in self.ledger.unfinished()
            if request.dispatched_at is not None and now - request.dispatched_at > timedelta(seconds=grace)
        ]
        waiting = {request.request_id: age for age, request in out if request.status == "queued"}
        has_stale = any(age > timedelta(seconds=long) for age in _waiting_times(self.ledger.unfinished(), now))
        wanted = min(at_most, max(len(out) - depth, int(has_stale)), len(waiting))
        rows = self.rows("request_redispatch", queue_depth=depth, grace_seconds=grace, long_seconds=long, limit=at_most)
        again = {row["request_id"] for row in rows}
        assert len(again) == wanted
        left = [age for request_id, age in waiting.items() if request_id not in again]
        assert max(left, default=timedelta()) <= min((waiting[each] for each in again), default=timedelta.max)
        self.ledger.resend([self.ledger.requests[request_id] for request_id in again])

    @rule(
        task=st.sampled_from(["usage", "stats", "seal", "archive", "expire", "verify", "close"]),
        at_most=st.sampled_from([20, 1000]),
    )
    def runs_a_task(self, task: str, at_most: int) -> None:
        match task:
            case "usage" | "stats":
                self.rows(f"rollup_{task}")
            case "close":
                self.rows("rollup_usage")
                self.close_months()
            case "seal":
                self.rows("audit_seal", limit=at_most)
            case "archive":
                names = {row["archive_months"] for row in self.rows("archive_months", older_than_days=1)}
                for request in self.ledger.requests.values():
                    request.is_archived |= f"requests_{request.created_at:y%Ym%m}" in names
                    assert not request.is_archived or request.is_ended
            case "expire":
                deleted = self.rows("idempotency_expire", limit=at_most)
                assert deleted == [{"idempotency_expire": self.ledger.expire_keys()}]
            case "verify":
                self.verify_incrementally()

    # Administration

    @rule(user=users, tier=st.sampled_from(["small", "tiny"]), data=st.data())
    def administers(self, user: str, tier: str, data: st.DataObject) -> None:
        ledger = self.ledger
        who = ledger.users[user]
        match data.draw(st.sampled_from(["quota.set", "quota.set", "quota.clear", "tier.set", "tier", "is_active"])):
            case "quota.set":
                changes = data.draw(
                    limits
                    | st.sampled_from(PERIODS).map(lambda period: {period: self.limits_below_usage(user, period)})
                )
                plan = data.draw(
                    st.fixed_dictionaries(
                        {}, optional={"max_unfinished": st.integers(1, 6), "dispatch_window": st.integers(1, 4)}
                    )
                )
                who.limits |= changes
                who.overrides |= set(changes) | set(plan)
                who.max_unfinished = plan.get("max_unfinished", who.max_unfinished)
                who.dispatch_window = plan.get("dispatch_window", who.dispatch_window)
                self.act("quota.set", user_id=user, limits=json_limits(changes), **plan)
            case "quota.clear":
                periods = data.draw(st.none() | st.lists(st.sampled_from(PERIODS), min_size=1, unique=True))
                who.overrides -= {*PERIODS, *PLAN_FIELDS} if periods is None else set(periods)
                ledger.follow([user])
                self.act("quota.clear", user_id=user, periods=periods)
            case "tier.set":
                changes = data.draw(limits)
                plan = {"max_unfinished": data.draw(st.integers(2, 8)), "dispatch_window": data.draw(st.integers(1, 4))}
                ledger.tiers[tier].limits |= changes
                ledger.tiers[tier].max_unfinished = plan["max_unfinished"]
                ledger.tiers[tier].dispatch_window = plan["dispatch_window"]
                ledger.follow([name for name, member in ledger.users.items() if member.tier == tier])
                self.act("tier.set", tier=tier, limits=json_limits(changes), **plan)
            case "tier":
                if who.tier != tier:
                    who.tier = tier
                    ledger.follow([user])
                    ledger.recount([user])
                self.act("user.update", user_id=user, tier=tier)
            case "is_active":
                who.is_active = data.draw(st.sampled_from([True, True, False]))
                self.act("user.update", user_id=user, is_active=who.is_active)

    @rule(user=users, scope=scopes, maximum=st.sampled_from([None, "0", "0.0002", "0.0006", "0.002"]))
    def sets_a_budget(self, user: str, scope: tuple[bool, str | None, str], maximum: str | None) -> None:
        """Or removes it."""
        has_key, model, period = scope
        who = self.ledger.users[user]
        if maximum is None:
            who.budgets.pop(scope, None)
        elif scope in who.budgets:
            who.budgets[scope].maximum = Decimal(maximum)
        else:
            who.budgets[scope] = Budget(period, Decimal(maximum), start_of(period, self.ledger.budget_time(user)))
        self.ledger.recount([user])
        self.act(
            "budget.set",
            user_id=user,
            key_id=str(self.keys[user]) if has_key else None,
            model_id=model,
            limits={period: maximum},
        )

    @rule(model=st.sampled_from(sorted(OVERHEAD)), price=st.sampled_from(["0", "1", "7.25"]))
    def sets_todays_price(self, model: str, price: str) -> None:
        """Budgets that count the model are counted again."""
        prices, today = self.ledger.prices[model], self.ledger.now.date()
        present = prices[max(day for day in prices if day <= today)]
        if present[0] != Decimal(price):
            prices[today] = (Decimal(price), present[1])
        for user, who in self.ledger.users.items():
            for (_, of_model, _), budget in who.budgets.items():
                if of_model in (None, model):
                    budget.move_to(self.ledger.budget_time(user))
        self.act("price.set", price_list="standard", model_id=model, prompt=price)

    @rule(window=st.sampled_from(sorted(WINDOWS)), is_patient=st.booleans())
    def sets_todays_window_list(self, window: str, is_patient: bool) -> None:
        """All budgets are counted again."""
        days, today = self.ledger.patient_days.setdefault(window, {}), self.ledger.now.date()
        past = [day for day in days if day <= today]
        if (days[max(past)] if past else False) != is_patient:
            days[today] = is_patient
            self.ledger.recount(self.ledger.users)
        self.act(
            "price.window", price_list="standard", window=window, window_list="patient" if is_patient else "standard"
        )

    def limits_below_usage(self, user: str, period: str) -> Limit:
        """Limits just below current usage."""
        requests, booked, pending = self.ledger.used(user, period, self.ledger.users[user].period_starts[period])
        return max(0, requests - 1), max(0, booked + pending - 1)


def _waiting_times(requests: list[Request], now: datetime) -> list[timedelta]:
    """How long queued requests have waited for their messages."""
    return [now - r.dispatched_at for r in requests if r.status == "queued" and r.dispatched_at is not None]


@pytest.fixture(scope="module")
def source(server_dsn: str, create_database: Callable[..., str], template_database: str) -> ExampleSource:
    source = ExampleSource(server_dsn, create_database(template_database))
    source.prepare()
    return source


def test_the_ledger_equals_its_model(source: ExampleSource) -> None:
    class Example(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(source)

    run_state_machine_as_test(
        Example,
        settings=settings(
            max_examples=EXAMPLES or 30,
            stateful_step_count=50,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
