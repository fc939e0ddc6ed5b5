"""The ledger against a model of it: whatever happens in whatever order, both say the same, and the books balance.

Each example is a database of its own in which time stands until a rule moves it. Without SLUICE_EXAMPLES the examples
are the same at every run; with it (SLUICE_EXAMPLES=1000) so many others are tried, and a failure prints how to repeat it.
"""

import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sluice.db.connection import Connection
from sluice.db.queries import query
from sluice.keys import digest
from tests.support.ledger import SMALL, set_clock, stop_the_clock
from tests.support.model import (
    MILLISECOND,
    PERIODS,
    TIERS,
    WINDOW,
    Ledger,
    Limit,
    Request,
    Tier,
    User,
    end_of,
    json_limits,
    start_of,
)

EXAMPLES = int(os.environ.get("SLUICE_EXAMPLES", "0"))
BASE = datetime(2031, 1, 30, 23, 58, tzinfo=UTC)
OVERHEAD = {"nova-micro": 64, "small": 10}
KEYS = {name: "sluice_" + name[0] * 43 for name in ("ann", "bob", "cyd")}
LONGEST = 200_000

# The machine ------------------------------------------------------------------------------------------------------

users = st.sampled_from(sorted(KEYS))
limits = st.dictionaries(
    st.sampled_from(PERIODS),
    st.tuples(
        st.sampled_from([None, 2, 4, 9, 9, 30, 30, 0]), st.sampled_from([None, 200, 400, 900, 900, 3000, 3000, 0])
    ),
    min_size=1,
)
sizes = st.tuples(st.sampled_from(sorted(OVERHEAD)), st.integers(1, 150), st.integers(1, 90))


@dataclass(frozen=True)
class Place:
    """Where examples happen: a server, and the database with which each of them begins."""

    server_dsn: str
    template: str


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self.steps = 0
        self.name = f"{place.template}_{uuid.uuid4().hex[:8]}"
        self.admin: Connection = psycopg.connect(place.server_dsn, autocommit=True, row_factory=dict_row)
        self.admin.execute(f'CREATE DATABASE "{self.name}" TEMPLATE "{place.template}" STRATEGY file_copy')
        self.sql: Connection = psycopg.connect(
            make_conninfo(place.server_dsn, dbname=self.name),
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
        )
        created = {period: start_of(period, BASE) for period in PERIODS}
        tiers = {name: Tier(dict(tier.limits), tier.max_unfinished) for name, tier in TIERS.items()}
        who = {
            name: User("small", dict(tiers["small"].limits), tiers["small"].max_unfinished, dict(created))
            for name in KEYS
        }
        self.ledger = Ledger(BASE, tiers, who)
        self.months = {BASE.month}

    # Calls

    def rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        cursor = self.sql.execute(query(name), parameters)
        return cursor.fetchall() if cursor.description else []

    def values(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.sql.execute(sql, parameters).fetchall()]

    def act(self, operation: str, **arguments: Any) -> None:
        self.rows("admin_act", operation=operation, arguments=Jsonb(arguments), invocation=None)

    def move_to(self, at: datetime) -> None:
        self.ledger.now = at
        set_clock(self.sql, at)

    # Submitting

    def submit(
        self,
        user: str,
        size: tuple[str, int, int],
        ttl: int,
        max_attempts: int,
        key: str | None = None,
        ahead: int = 0,
    ) -> None:
        model, length, max_tokens = size
        body = repr(size)
        ledger, reserved = self.ledger, length + OVERHEAD[model] + max_tokens
        verdict, wait = ledger.verdict(user, reserved)
        earlier = ledger.repeats.get((user, key or ""))
        if verdict != "user_inactive" and earlier is not None and earlier[2] > ledger.now:
            verdict, wait = "replayed" if earlier[0] == body else "idempotency_conflict", 0
        (row,) = self.rows(
            "request_create",
            key_hash=digest(KEYS[user]),
            prompt="x" * length,
            model=model,
            parameters=Jsonb({"max_tokens": max_tokens}),
            metadata=None,
            idempotency_key=key,
            body_hash=None if key is None else digest(body),
            ttl_seconds=ttl,
            ends_at=None,
            begins_at=ledger.now + timedelta(seconds=ahead) if ahead else None,
            longest_seconds=LONGEST,
            max_attempts=max_attempts,
        )
        assert (row["outcome"], (row["detail"] or {}).get("retry_after", 0)) == (verdict, wait)
        if verdict == "replayed":
            assert earlier is not None
            assert row["request_id"] == earlier[1]
        if verdict == "accepted":
            room = sum(other.is_dispatched for other in ledger.of(user)) < WINDOW
            line = any(not other.is_dispatched and not other.is_ended for other in ledger.of(user))
            request = self.accepted(row["request_id"], user, model, reserved, timedelta(seconds=ttl), max_attempts)
            begins = ledger.now + timedelta(seconds=ahead)
            if ahead and begins > request.created_at:
                request.not_before, request.expires_at = begins, begins + timedelta(seconds=ttl)
            request.is_dispatched = room and not line and request.not_before is None
            sent = [request.request_id] if request.is_dispatched else ledger.fill(user) if room and line else []
            assert sorted(row["send"]) == sorted(sent)
            for quota in row["detail"]["quotas"]:
                requests, booked, pending = ledger.used(user, quota["period"], request.created_at)
                assert (quota["requests_used"], quota["tokens_used"]) == (requests, booked + pending)
            if key is not None:
                ledger.repeats[user, key] = (body, request.request_id, request.created_at + timedelta(days=1))

    def accepted(
        self, request_id: UUID, user: str, model: str, reserved: int, ttl: timedelta, max_attempts: int
    ) -> Request:
        expected = max(self.ledger.now, latest := max(self.ledger.users[user].starts.values()))
        request = Request(request_id, user, model, reserved, expected, max_attempts)
        # Where the clock was set back, as soon after the newest counter's start as the server is fast.
        assert timedelta() <= request.created_at - expected <= timedelta(seconds=1 if expected == latest else 0)
        request.expires_at = request.created_at + ttl
        self.ledger.accept(request)
        return request

    @rule(
        user=users,
        some=st.lists(sizes, min_size=1, max_size=4),
        ttl=st.sampled_from([100_000, 3600, 90]),
        attempts=st.integers(1, 4),
        ahead=st.sampled_from([0, 0, 0, 40]),
    )
    def submits(self, user: str, some: list[tuple[str, int, int]], ttl: int, attempts: int, ahead: int) -> None:
        for size in some:
            self.submit(user, size, ttl, attempts, ahead=ahead)

    @rule(user=users, over=st.integers(0, 1))
    def submits_what_just_fits(self, user: str, over: int) -> None:
        """Or needs one token more than that."""
        room = self.ledger.room(user)
        if room is not None and room > OVERHEAD["small"] + 1:
            self.submit(user, ("small", room - OVERHEAD["small"] - 1 + over, 1), 3600, 2)

    @rule(
        user=users,
        key=st.sampled_from("ab"),
        size=st.sampled_from([("small", 5, 5), ("small", 6, 5)]),
        twice=st.booleans(),
    )
    def submits_with_a_key(self, user: str, key: str, size: tuple[str, int, int], twice: bool) -> None:
        for _ in range(1 + twice):
            self.submit(user, size, 3600, 2, key)

    @rule(user=users, size=sizes)
    def writes_from_outside(self, user: str, size: tuple[str, int, int]) -> None:
        model, length, max_tokens = size
        reserved = length + OVERHEAD[model] + max_tokens
        verdict, _ = self.ledger.verdict(user, reserved)
        statement = "INSERT INTO submissions (user_id, prompt, model_id, parameters) VALUES (%s, %s, %s, %s) RETURNING request_id"
        parameters = (user, "x" * length, model, Jsonb({"max_tokens": max_tokens}))
        if verdict != "accepted":
            with pytest.raises(psycopg.Error) as refused:
                self.sql.execute(statement, parameters)
            state = {"user_inactive": "SL403", "quota_too_small": "SL422"}.get(verdict, "SL429")
            assert (refused.value.diag.constraint_name, refused.value.sqlstate) == (verdict, state)
            return
        ((request_id,),) = self.values(statement, *parameters)
        self.accepted(request_id, user, model, reserved, timedelta(days=1), 20)

    # Working

    @precondition(lambda self: self.ledger.requests)
    @rule(data=st.data(), lease=st.sampled_from([10, 10, 60, 4000]))
    def claims(self, data: st.DataObject, lease: int) -> None:
        self.claim(data.draw(self.some_requests(lambda request: not request.is_ended, lambda _: True)), lease)

    def some_requests(
        self, preferred: Callable[[Request], bool], others: Callable[[Request], bool]
    ) -> st.SearchStrategy[list[Request]]:
        """Of those that something can be done with, where there are any; of others now and then."""
        everything = [request for request in self.ledger.requests.values() if others(request)]
        likely = [request for request in everything if preferred(request)] or everything
        few, any_of = (
            st.lists(st.sampled_from(them), min_size=1, max_size=6, unique_by=id) for them in (likely, everything)
        )
        return st.one_of(few, few, any_of)

    def claim(self, wanted: Sequence[Request], lease: int) -> None:
        due = self.ledger.claim(wanted, lease)
        rows = self.rows("request_claim", ids=[request.request_id for request in wanted], lease_seconds=lease)
        assert {row["request_id"]: row["attempt"] for row in rows} == {r.request_id: r.attempt for r in due}
        assert len(rows) == len(due)

    def settle(self, flush: Sequence[dict[str, Any]]) -> None:
        named = [self.ledger.requests[UUID(outcome["request_id"])] for outcome in flush]
        users = {request.user for request in named if not request.is_ended}
        expected = Counter(self.ledger.settle(outcome) for outcome in flush)
        expected += Counter(("dispatch", sent, "queued") for user in users for sent in self.ledger.fill(user))
        rows = self.rows("request_settle", outcomes=Jsonb(flush), actor="worker")
        assert Counter((row["kind"], row["request_id"], row["status"]) for row in rows) == expected

    def outcome(self, data: st.DataObject, request: Request) -> dict[str, Any]:
        attempt = request.attempt - (request.attempt > 1 and data.draw(st.integers(0, 4)) == 0)
        kinds = ["completed", "retry", "overrun", "failed", "retry", "too_large", "cancelled", "retry", "handed_back"]
        if request.is_ended and request.status in kinds:
            kinds = [request.status, request.status, "retry", "completed", "cancelled"]  # the same again, or too late
        kind = data.draw(st.sampled_from(kinds))
        told: dict[str, Any] = {"request_id": str(request.request_id), "attempt": attempt, "outcome": kind}
        if kind in {"completed", "overrun", "too_large"}:
            spent = data.draw(st.integers(0, request.reserved))
            spent = request.reserved + 1 + 10 * spent if kind == "overrun" else spent
            told |= {"prompt_tokens": spent // 2, "completion_tokens": spent - spent // 2}
        if kind in {"completed", "overrun"}:
            return told | {"outcome": "completed", "content": "an answer", "fingerprint": "00" * 32}
        if kind == "handed_back":
            return told
        if kind == "retry":
            told |= {"retry_after": data.draw(st.sampled_from([0, 30, 1000, 100_000]))}
        return told | ({"outcome": "failed"} if kind == "too_large" else {}) | {"error_code": "x", "error_message": "x"}

    @precondition(lambda self: any(not request.is_ended for request in self.ledger.requests.values()))
    @rule(
        data=st.data(),
        by=st.sampled_from([MILLISECOND, MILLISECOND, timedelta(), -MILLISECOND]),
        does=st.sampled_from(["claim", "sweep", ""]),
    )
    def a_time_comes(self, data: st.DataObject, by: timedelta, does: str) -> None:
        """The end of a lease, of a pause or of a lifetime, to the millisecond; and somebody is there at once."""
        open_ones = [request for request in self.ledger.requests.values() if not request.is_ended]
        begun = [request for request in open_ones if request.attempt] or open_ones
        request = data.draw(st.sampled_from(begun) | st.sampled_from(open_ones))
        next_moment = request.lease_until or request.not_before or request.expires_at
        at = data.draw(st.sampled_from([next_moment, next_moment, request.expires_at])) + by
        if at <= self.ledger.now:
            return
        self.move_to(at)
        self.month_may_be_new()
        if does == "claim":
            self.claim([request], 60)
        elif does == "sweep":
            self.recovers()

    @precondition(lambda self: any(request.attempt for request in self.ledger.requests.values()))
    @rule(data=st.data(), twice=st.booleans(), early=st.booleans())
    def settles(self, data: st.DataObject, twice: bool, early: bool) -> None:
        """And the messages come again at once, for what is finished or has to wait."""
        chosen = data.draw(
            self.some_requests(lambda request: request.status == "processing", lambda request: request.attempt > 0)
        )
        flush = [self.outcome(data, request) for request in chosen]
        for _ in range(1 + twice):
            self.settle(flush)
        if early:
            self.claim(chosen, 60)

    @precondition(lambda self: any(request.attempt > 1 for request in self.ledger.requests.values()))
    @rule(data=st.data())
    def answers_late(self, data: st.DataObject) -> None:
        """An answer to an attempt that others have followed."""
        request = data.draw(
            st.sampled_from([request for request in self.ledger.requests.values() if request.attempt > 1])
        )
        self.settle([self.outcome(data, request) | {"attempt": request.attempt - 1}])

    @precondition(lambda self: any(not request.is_ended for request in self.ledger.requests.values()))
    @rule(data=st.data(), twice=st.booleans())
    def cancels(self, data: st.DataObject, twice: bool) -> None:
        """Its client does, who may be deactivated."""
        request = data.draw(
            st.sampled_from([request for request in self.ledger.requests.values() if not request.is_ended])
        )
        for _ in range(1 + twice):
            if not self.ledger.users[request.user].is_active:
                (row,) = self.rows("request_cancel", key_hash=digest(KEYS[request.user]), request_id=request.request_id)
                assert row["outcome"] == "user_inactive"
                continue
            sent = self.ledger.fill(request.user) if request.is_ended else self.ledger.cancel(request)
            (row,) = self.rows("request_cancel", key_hash=digest(KEYS[request.user]), request_id=request.request_id)
            assert (row["outcome"], row["status"], sorted(row["send"])) == ("ok", request.status, sorted(sent))

    @precondition(lambda self: any(request.is_ended for request in self.ledger.requests.values()))
    @rule(data=st.data(), ttl=st.sampled_from([90, 100_000]), attempts=st.integers(1, 3))
    def redrives(self, data: st.DataObject, ttl: int, attempts: int) -> None:
        ended = [request for request in self.ledger.requests.values() if request.is_ended]
        failures = [request for request in ended if request.status == "failed"] or ended
        request = data.draw(st.sampled_from(failures) | st.sampled_from(ended))
        refusal = self.ledger.redrive(request, timedelta(seconds=ttl), attempts)
        arguments = {"request_id": str(request.request_id), "ttl_seconds": ttl, "max_attempts": attempts}
        if refusal is None:
            self.act("request.redrive", **arguments)
            return
        with pytest.raises(psycopg.Error) as refused:
            self.act("request.redrive", **arguments)
        assert refused.value.diag.constraint_name == refusal

    @precondition(lambda self: self.ledger.requests)
    @rule(data=st.data(), how=st.sampled_from(["dispatch", "dispatch", "undispatch", "redispatch", "resend"]))
    def messages_are_sent(self, data: st.DataObject, how: str) -> None:
        """Or could not be, or are missing, or dead."""
        ledger = self.ledger
        queued = {r.request_id for r in ledger.requests.values() if r.status == "queued" and r.is_dispatched}
        some = data.draw(st.lists(st.sampled_from(list(ledger.requests)), unique=True))
        match how:
            case "dispatch":
                sent = [request_id for user in ledger.users for request_id in ledger.fill(user)]
                rows = self.rows("request_dispatch", at_most=1000)
                assert sorted(row["request_id"] for row in rows) == sorted(sent)
            case "undispatch":
                self.rows("request_undispatch", ids=some)
                for request_id in queued.intersection(some):
                    ledger.requests[request_id].is_dispatched = False
            case "redispatch":
                rows = self.rows("request_redispatch", queue_depth=0, grace_seconds=0, long_seconds=900, at_most=1000)
                assert {row["request_id"] for row in rows} <= queued
            case "resend":
                rows = self.rows("request_resend", ids=some)
                assert {row["request_id"] for row in rows} == queued.intersection(some)

    @precondition(lambda self: any(request.is_due(self.ledger.now) for request in self.ledger.requests.values()))
    @rule(data=st.data())
    def works(self, data: st.DataObject) -> None:
        """What a worker does with a batch, without a pause; some of it is lost."""
        due = [request for request in self.ledger.requests.values() if request.is_due(self.ledger.now)][:10]
        self.claim(due, 60)
        begun = [request for request in due if request.status == "processing"]
        answered = [request for request in begun if data.draw(st.integers(0, 3))]
        if answered:
            self.settle([self.outcome(data, request) for request in answered])

    @precondition(lambda self: any(request.is_due(self.ledger.now) for request in self.ledger.requests.values()))
    @rule(until=st.sampled_from([-MILLISECOND, timedelta(), MILLISECOND]), again=st.booleans())
    def a_worker_is_lost(self, until: timedelta, again: bool) -> None:
        """And the sweep, or the message again, comes about when its lease ends."""
        lost = [request for request in self.ledger.requests.values() if request.is_due(self.ledger.now)][:3]
        self.claim(lost, 10)
        self.move_to(self.ledger.now + timedelta(seconds=10) + until)
        self.month_may_be_new()
        if again:
            self.claim(lost, 10)
        else:
            self.recovers()

    # Time

    @rule(by=st.one_of(*[st.integers(0, 59)] * 3, *[st.integers(60, 300)] * 2, st.sampled_from([3600, 100_000])))
    def time_passes(self, by: int) -> None:
        self.move_to(self.ledger.now + timedelta(seconds=by))
        self.month_may_be_new()

    @rule(
        period=st.sampled_from(["minute", "daily", "daily", "monthly"]),
        by=st.sampled_from([timedelta(), MILLISECOND, timedelta(seconds=1)]),
    )
    def a_period_ends(self, period: str, by: timedelta) -> None:
        """Just so, or just not."""
        end = end_of(period, self.ledger.now)
        if end - self.ledger.now > timedelta(days=20):
            # With a sweep on the way, as there is one every minute.
            self.move_to(self.ledger.now + timedelta(days=2))
            self.recovers()
        self.move_to(max(self.ledger.now, end - by))
        self.month_may_be_new()

    @rule(user=users, by=st.sampled_from([MILLISECOND, timedelta(seconds=70), timedelta(hours=30)]), size=sizes)
    def the_clock_is_set_back(self, user: str, by: timedelta, size: tuple[str, int, int]) -> None:
        """Before the newest period of a user, who comes at once."""
        self.move_to(min(self.ledger.now, max(self.ledger.users[user].starts.values()) - by))
        self.submit(user, size, 3600, 2)

    def month_may_be_new(self) -> None:
        if self.ledger.now.month not in self.months:
            self.months.add(self.ledger.now.month)
            self.rows("partitions_ensure")

    # The schedules

    @rule()
    def recovers(self) -> None:
        assert self.rows("request_sweep", at_most=1000) == [self.ledger.recover()]

    @rule(
        task=st.sampled_from(["usage", "stats", "seal", "archive", "expire", "verify"]),
        at_most=st.sampled_from([20, 1000]),
    )
    def runs_a_task(self, task: str, at_most: int) -> None:
        match task:
            case "usage" | "stats":
                self.rows(f"rollup_{task}")
            case "seal":
                self.rows("audit_seal", at_most=at_most)
            case "archive":
                names = {row["name"] for row in self.rows("archive_months", older_than_days=1)}
                for request in self.ledger.requests.values():
                    request.is_archived |= f"requests_{request.created_at:y%Ym%m}" in names
                    assert not request.is_archived or request.is_ended
            case "expire":
                old = [key for key, (_, _, expires_at) in self.ledger.repeats.items() if expires_at <= self.ledger.now]
                assert self.rows("idempotency_expire", at_most=at_most) == [{"expired": len(old)}]
                for key in old:
                    del self.ledger.repeats[key]
            case "verify":
                self.checks_what_is_new()

    def checks_what_is_new(self) -> None:
        (found,) = self.rows("books_check", every=False)
        assert found["violations"] == []
        self.rows("books_checked", seen_to=found["seen_to"])

    # Administration

    @rule(user=users, tier=st.sampled_from(sorted(TIERS)), data=st.data())
    def administers(self, user: str, tier: str, data: st.DataObject) -> None:
        ledger = self.ledger
        who = ledger.users[user]
        match data.draw(st.sampled_from(["quota.set", "quota.set", "quota.clear", "tier.set", "tier", "is_active"])):
            case "quota.set":
                changes = data.draw(
                    limits | st.sampled_from(PERIODS).map(lambda period: {period: self.about(user, period)})
                )
                max_unfinished = data.draw(st.none() | st.integers(1, 6))
                who.limits |= changes
                who.own |= set(changes)
                plan = {} if max_unfinished is None else {"max_unfinished": max_unfinished}
                if max_unfinished is not None:
                    who.max_unfinished = max_unfinished
                    who.own.add("plan")
                self.act("quota.set", user_id=user, limits=json_limits(changes), **plan)
            case "quota.clear":
                periods = data.draw(st.none() | st.lists(st.sampled_from(PERIODS), min_size=1, unique=True))
                who.own -= {*PERIODS, "plan"} if periods is None else set(periods)
                ledger.follow([user])
                self.act("quota.clear", user_id=user, periods=periods)
            case "tier.set":
                changes, max_unfinished = data.draw(limits), data.draw(st.integers(2, 8))
                ledger.tiers[tier].limits |= changes
                ledger.tiers[tier].max_unfinished = max_unfinished
                ledger.follow([name for name, member in ledger.users.items() if member.tier == tier])
                self.act("tier.set", tier=tier, limits=json_limits(changes), max_unfinished=max_unfinished)
            case "tier":
                if who.tier != tier:
                    who.tier = tier
                    ledger.follow([user])
                self.act("user.update", user_id=user, tier=tier)
            case "is_active":
                who.is_active = data.draw(st.sampled_from([True, True, False]))
                self.act("user.update", user_id=user, is_active=who.is_active)

    def about(self, user: str, period: str) -> Limit:
        """Limits just below what is used."""
        requests, booked, pending = self.ledger.used(user, period, self.ledger.users[user].starts[period])
        return max(0, requests - 1), max(0, booked + pending - 1)

    # What must be so at any time

    @invariant()
    def the_counters_are_the_models(self) -> None:
        expected = []
        for name, user in sorted(self.ledger.users.items()):
            for period, start in sorted(user.starts.items()):
                figures = self.ledger.used(name, period, start)
                expected.append(
                    (name, period, *user.limits[period], period in user.own, *figures, start, end_of(period, start))
                )
        assert expected == self.values(
            "SELECT user_id, quota_period, max_requests, max_tokens, is_override, requests_used, tokens_used, tokens_reserved,"
            " period_start, reset_at FROM quotas ORDER BY 1, 2"
        )

    @invariant()
    def the_plans_are_the_models(self) -> None:
        expected = [(name, u.tier, u.max_unfinished, "plan" in u.own) for name, u in sorted(self.ledger.users.items())]
        assert expected == self.values("SELECT user_id, tier, max_unfinished, is_override FROM quota_plans ORDER BY 1")

    @invariant()
    def the_requests_are_the_models(self) -> None:
        found = self.values(
            "SELECT r.request_id, r.status, r.attempts, r.reserved_tokens, r.prompt_tokens, r.completion_tokens,"
            " i.attempt, i.lease_until, i.not_before, i.expires_at, i.failures, i.lost,"
            " i.dispatched_at IS NOT NULL AS is_dispatched, i.cancelled_at IS NOT NULL AS is_cancelled"
            " FROM requests_all r LEFT JOIN inflight i ON i.request_id = r.request_id"
        )
        nothing = (None, None, None, None, None, None, False, False)
        assert {row[0]: row[1:] for row in found} == {
            r.request_id: (r.status, r.attempt, r.reserved, *(r.tokens or (None, None)))
            + (
                nothing
                if r.is_ended
                else (
                    r.attempt,
                    r.lease_until,
                    r.not_before,
                    r.expires_at,
                    r.failures,
                    r.lost,
                    r.is_dispatched,
                    r.is_cancelled,
                )
            )
            for r in self.ledger.requests.values()
        }

    @invariant()
    def the_books_balance_now_and_then(self) -> None:
        self.steps += 1
        if self.steps % 8 == 0:
            self.the_books_balance()

    def the_books_balance(self) -> None:
        assert self.values("SELECT violations FROM books_check(true)") == [([],)]
        shown = self.values(
            "SELECT u.user_id::text, n.model_id, n.day, n.requests_count, n.prompt_tokens, n.completion_tokens"
            " FROM users u, usage_now(u.user_id, '2031-01-01', '2039-12-31') AS n"
        )
        assert {row[:3]: row[3:] for row in shown} == self.ledger.usage(), "usage as of now, rolled up or not"

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.the_end_is_as_it_should_be()
        finally:
            self.sql.close()
            self.admin.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')
            self.admin.close()

    def the_end_is_as_it_should_be(self) -> None:
        self.the_books_balance()
        self.checks_what_is_new()
        for task in ("rollup_usage", "rollup_stats"):
            self.rows(task)
        self.the_books_balance()
        figures = self.ledger.usage()
        for period in ("daily", "monthly"):
            sums: Counter[tuple[str, date]] = Counter()
            for (user, _, day), (_, prompt, completion) in figures.items():
                sums[user, day if period == "daily" else day.replace(day=1)] += prompt + completion
            kept = self.values("SELECT user_id, period_start, tokens_used FROM usage WHERE period = %s", period)
            assert {(user, start): tokens for user, start, tokens in kept} == dict(sums)
        counted = self.values(
            "SELECT user_id, model_id, (day AT TIME ZONE 'UTC')::date, request_count, failure_count FROM request_stats"
        )
        failures = Counter(
            (r.user, r.model, r.created_at.date()) for r in self.ledger.requests.values() if r.status == "failed"
        )
        assert {row[:3]: row[3:] for row in counted} == {key: (n, failures[key]) for key, (n, _, _) in figures.items()}
        audited = self.values(
            "SELECT request_id, array_agg(action::text ORDER BY audit_id) FROM audit_log WHERE request_id IS NOT NULL GROUP BY 1"
        )
        assert dict(audited) == {request.request_id: request.audited for request in self.ledger.requests.values()}
        self.rows("audit_seal", at_most=10_000)
        assert self.values("SELECT kind FROM audit_verify(0, 1000)") == [(None,)]


@pytest.fixture(scope="module")
def place(server_dsn: str, create_database: Callable[..., str], template_database: str) -> Place:
    name = create_database(template_database)
    with closing(
        psycopg.connect(make_conninfo(server_dsn, dbname=name), autocommit=True, row_factory=dict_row)
    ) as owner:
        stop_the_clock(owner, BASE)
        acts = [("model.set", SMALL)]
        acts += [
            (
                "tier.set",
                {
                    "tier": tier,
                    "limits": json_limits(plan.limits),
                    "max_unfinished": plan.max_unfinished,
                    "dispatch_window": 2,
                },
            )
            for tier, plan in TIERS.items()
        ]
        acts += [("user.create", {"user_id": user, "tier": "small"}) for user in KEYS]
        acts += [
            (
                "key.create",
                {"user_id": user, "key_hash": digest(key).hex(), "key_prefix": key[:13], "scopes": ["submit", "read"]},
            )
            for user, key in KEYS.items()
        ]
        for operation, arguments in acts:
            owner.execute("SELECT admin_act(%s, %s, NULL)", (operation, Jsonb(arguments)))
    return Place(server_dsn, name)


def test_the_ledger_does_what_its_model_does(place: Place) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(place),
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
