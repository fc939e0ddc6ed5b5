"""A database and the model of its ledger: each step is done on both, and both must agree."""

import sys
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sluice.db.connection import Connection
from sluice.domain.documents import Input, Output
from sluice.domain.keys import digest
from tests.support.database import call, with_schema
from tests.support.ledger import SMALL, set_clock, stop_the_clock
from tests.support.model import Ledger
from tests.support.records import PERIODS, PLAN_FIELDS, Lifetime, Request, Tier, User, end_of, json_limits, start_of

BASE = datetime(2031, 1, 30, 23, 58, tzinfo=UTC)
OVERHEAD = {"nova-micro": 64, "small": 10}
# Per million tokens, of the prompt and of the completion.
PRICES = {"nova-micro": (Decimal("0.035"), Decimal("0.14")), "small": (Decimal(1), Decimal("2.5"))}
KEYS = {name: "sluice_" + name[0] * 43 for name in ("ann", "bob", "cyd")}
TIERS = {
    "tiny": Tier({"minute": (2, 250), "daily": (5, 700), "monthly": (6, 900)}, 2, 1),
    "small": Tier({"minute": (5, 900), "daily": (12, 2500), "monthly": (16, 3000)}, 6, 3),
}
# Those of the waiting class have one of half the price, which they are billed by at first if they wait a day.
PATIENT = {model: (prompt / 2, completion / 2) for model, (prompt, completion) in PRICES.items()}
WAITING_ROOM = 4
AN_HOUR = Lifetime(3600)
# The longest lifetime that submit allows.
LONGEST = 200_000
# Every request, with the inflight row of the unfinished ones.
_STATES = """
    SELECT r.request_id, r.status, r.attempts, r.reserved_tokens, r.prompt_tokens, r.completion_tokens, r.error_code,
           i.attempt, i.failed_attempts, i.lost_attempts, i.last_error, i.dispatched_at, i.lease_until, i.not_before, i.expires_at,
           i.cancel_requested_at IS NOT NULL, r.completion_window, r.due_at, i.priority, i.promote_at
    FROM requests_all r LEFT JOIN inflight i ON i.request_id = r.request_id
"""
# Requests without a message that their dispatch window has a free slot for, but for those of the waiting class.
_UNDISPATCHED = """
    SELECT i.request_id FROM inflight i JOIN quota_plans p ON p.user_id = i.user_id
    WHERE i.status = 'queued' AND i.dispatched_at IS NULL AND i.priority = 0 AND i.expires_at > clock_now()
      AND coalesce(i.not_before, '-infinity') <= clock_now()
      AND (SELECT count(*) FROM inflight d WHERE d.user_id = i.user_id AND d.dispatched_at IS NOT NULL) < p.dispatch_window
"""


def named(prices: tuple[Decimal, Decimal]) -> dict[str, str]:
    """Prices as arguments of price.set."""
    return {"prompt": str(prices[0]), "completion": str(prices[1])}


@dataclass(frozen=True)
class ExampleSource:
    """A server, and the template database that each example starts from."""

    server_dsn: str
    template: str

    def prepare(self) -> None:
        """Create what the model assumes: a stopped clock, tiers, users and their keys."""
        acts: list[tuple[str, dict[str, Any]]] = [("model.set", SMALL)]
        for model, prices in PRICES.items():
            acts.append(
                (
                    "price.set",
                    {"price_list": "standard", "model_id": model, "valid_from": "2020-01-01", **named(prices)},
                )
            )
            patient = {"price_list": "patient", "model_id": model, "valid_from": "2020-01-01"}
            acts.append(("price.set", patient | named(PATIENT[model])))
        acts.append(("price.window", {"price_list": "standard", "window": "24h", "window_list": "patient"}))
        for name, tier in TIERS.items():
            plan = {"max_unfinished": tier.max_unfinished, "dispatch_window": tier.dispatch_window}
            acts.append(("tier.set", {"tier": name, "limits": json_limits(tier.limits), **plan}))
        for user, key in KEYS.items():
            acts.append(("user.create", {"user_id": user, "tier": "small"}))
            shown = {"key_hash": digest(key).hex(), "key_prefix": key[:13], "scopes": ["submit", "read"]}
            acts.append(("key.create", {"user_id": user, **shown}))
        dsn = with_schema(self.server_dsn, self.template)
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as owner:
            stop_the_clock(owner, BASE)
            for operation, arguments in acts:
                owner.execute("SELECT admin_run(%s, %s, NULL)", (operation, Jsonb(arguments)))
            owner.execute("UPDATE dispatch_capacity SET waiting_room = %s", (WAITING_ROOM,))


class Machine(RuleBasedStateMachine):
    """A database of its own with a stopped clock, and its model."""

    def __init__(self, source: ExampleSource) -> None:
        super().__init__()
        self.steps = 0
        self.name = f"{source.template}_{uuid.uuid4().hex[:8]}"
        self.admin: Connection = psycopg.connect(source.server_dsn, autocommit=True, row_factory=dict_row)
        self.admin.execute(f'CREATE DATABASE "{self.name}" TEMPLATE "{source.template}" STRATEGY file_copy')
        self.sql: Connection = psycopg.connect(
            with_schema(source.server_dsn, self.name),
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
        )
        created = {period: start_of(period, BASE) for period in PERIODS}
        tiers = {
            name: Tier(dict(tier.limits), tier.max_unfinished, tier.dispatch_window) for name, tier in TIERS.items()
        }
        small = tiers["small"]
        who = {
            name: User("small", dict(small.limits), small.max_unfinished, small.dispatch_window, dict(created))
            for name in KEYS
        }
        self.ledger = Ledger(BASE, tiers, who, {model: {date.min: prices} for model, prices in PRICES.items()})
        self.ledger.patient_prices, self.ledger.waiting_room = PATIENT, WAITING_ROOM
        self.ledger.patient_days = {"24h": {BASE.date(): True}}
        self.keys = {row[0]: row[1] for row in self.values("SELECT user_id::text, key_id FROM api_keys")}
        self.months = {BASE.month}
        self.dispatched_before: Counter[str] = Counter()
        self.statements: dict[tuple[str, date], Any] = {}

    # Calls

    def rows(self, name: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        return call(self.sql, name, **parameters)

    def values(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.sql.execute(sql, parameters).fetchall()]

    def act(self, operation: str, **arguments: Any) -> Any:
        (row,) = self.rows("admin_run", operation=operation, arguments=Jsonb(arguments), invocation=None)
        return row["admin_run"]

    @contextmanager
    def refused(self, constraint: str, state: str) -> Iterator[None]:
        with pytest.raises(psycopg.Error) as refusal:
            yield
        assert (refusal.value.diag.constraint_name, refusal.value.sqlstate) == (constraint, state)

    def move_to(self, at: datetime) -> None:
        self.ledger.now = at
        set_clock(self.sql, at)
        if at.month not in self.months:
            self.months.add(at.month)
            self.rows("partitions_ensure")

    # Steps on both

    def submit(
        self,
        user: str,
        size: tuple[str, int, int],
        lifetime: Lifetime = AN_HOUR,
        max_attempts: int = 2,
        key: str | None = None,
        window: str | None = None,
        webhook: str | None = None,
    ) -> None:
        model, length, max_tokens = size
        body = repr(size)
        ledger, reserved = self.ledger, length + OVERHEAD[model] + max_tokens
        # From the request's time, which may be later than now; no lifetime is within the second that the server may need.
        at = ledger.time_for(user)
        begins, ends = (
            None if seconds is None else at + timedelta(seconds=seconds) for seconds in (lifetime.begins, lifetime.ends)
        )
        verdict, wait = ledger.verdict(user, (model, reserved, max_tokens), window=window)
        if verdict != "user_inactive" and not self.is_valid(lifetime):
            verdict, wait = "lifetime_invalid", 0
        earlier = ledger.idempotency_keys.get((user, key or ""))
        if verdict != "user_inactive" and earlier is not None and ledger.key_counts(ledger.requests[earlier[1]]):
            verdict, wait = "replayed" if earlier[0] == body else "idempotency_conflict", 0
        (row,) = self.rows(
            "request_submit",
            key_hash=digest(KEYS[user]),
            submission=Jsonb(
                {
                    "input": Input.of_prompt("x" * length).to_json(),
                    "model": model,
                    "parameters": {"max_tokens": max_tokens},
                    "idempotency_key": key,
                    "body_hash": None if key is None else digest(body).hex(),
                    "ttl_seconds": lifetime.ttl,
                    "expires_at": ends and ends.isoformat(),
                    "not_before": begins and begins.isoformat(),
                    "longest_seconds": LONGEST,
                    "max_attempts": max_attempts,
                }
                | ({} if window is None else {"window": window})
                | ({} if webhook is None else {"webhook": webhook})
            ),
        )
        detail = row["detail"] or {}
        assert (detail.get("code", row["outcome"]), detail.get("retry_after", 0)) == (verdict, wait)
        if verdict == "replayed":
            assert earlier is not None
            assert row["request_id"] == earlier[1]
        if verdict != "accepted":
            assert not row["send"]
            return
        ttl = timedelta(seconds=lifetime.ttl or LONGEST)
        request = Request(
            row["request_id"], user, model, reserved, begins, at, max_attempts, max_tokens, webhook=webhook
        )
        request.expires_at = ends or (begins or request.created_at) + ttl
        request.wait_for(window, request.created_at)
        self.accept(request, row["send"], may_dispatch=True)
        for quota in row["detail"]["quotas"]:
            requests, booked, pending = ledger.used(user, quota["period"], request.created_at)
            assert (quota["requests_used"], quota["tokens_used"]) == (requests, booked + pending)
        if key is not None:
            ledger.idempotency_keys[user, key] = (body, request.request_id, request.created_at + timedelta(days=1))

    @staticmethod
    def is_valid(lifetime: Lifetime) -> bool:
        begins = lifetime.begins or 0
        ends = begins + (lifetime.ttl or LONGEST) if lifetime.ends is None else lifetime.ends
        return begins <= LONGEST and begins < ends <= begins + LONGEST

    def accept(self, request: Request, sent: Collection[UUID], *, may_dispatch: bool) -> None:
        at, latest = self.ledger.time_for(request.user), self.ledger.latest_period(request.user)
        # If the clock was set back: right after the newest period's start, within the server's response time.
        assert timedelta() <= request.created_at - at <= timedelta(seconds=1 if at == latest else 0)
        assert set(sent) == set(self.ledger.accept(request, may_dispatch=may_dispatch))

    def claim(self, wanted: Sequence[Request], lease: int) -> None:
        begun = self.ledger.claim(wanted, timedelta(seconds=lease))
        rows = self.rows("request_claim", ids=[request.request_id for request in wanted], lease_seconds=lease)
        assert {row["request_id"]: row["attempt"] for row in rows} == begun
        assert len(rows) == len(begun)

    def settle(self, flush: Sequence[dict[str, Any]]) -> None:
        answers, dispatched = self.ledger.settle(flush)
        rows = self.rows("request_settle", outcomes=Jsonb(flush), actor="worker")
        reported = Counter((row["kind"], row["request_id"], row["status"]) for row in rows)
        assert reported == Counter(answers) + Counter(("dispatch", request_id, "queued") for request_id in dispatched)

    def cancel(self, request: Request, by: str) -> None:
        """With a user's key, or as an operator."""
        if by == "operator":
            outcome, status = self.ledger.cancel(request)
            if outcome == "ok":
                done = self.act("request.cancel", request_id=str(request.request_id))
                assert (done["user_id"], done["status"]) == (request.user, status)
            else:
                with self.refused(outcome, "SL409"):
                    self.act("request.cancel", request_id=str(request.request_id))
            return
        expected: tuple[str, str | None] = ("request_not_found", None)
        sent: list[UUID] = []
        if not self.ledger.users[by].is_active:
            expected = ("user_inactive", None)
        elif by == request.user:
            expected = self.ledger.cancel(request)
            sent = self.ledger.dispatch_waiting([by])
        (row,) = self.rows("request_cancel", key_hash=digest(KEYS[by]), request_id=request.request_id)
        assert (row["outcome"], row["status"]) == expected
        assert set(row["send"]) == set(sent)

    def redrive(self, request: Request) -> None:
        refusal = self.ledger.refusal(request, OVERHEAD)
        arguments = {"request_id": str(request.request_id), "ttl_seconds": 3600, "max_attempts": 2, "dry_run": False}
        if refusal is None:
            request.reopen(self.ledger.now, self.ledger.now + timedelta(seconds=3600), 2)
            assert self.act("request.redrive", **arguments)["redriven"] == 1
        else:
            with self.refused(refusal, "SL409"):
                self.act("request.redrive", **arguments)

    def recover(self) -> None:
        """Run recovery; afterwards every request that could start has a message."""
        assert self.rows("request_recover", limit=1000) == [self.ledger.recover()]
        self.dispatch()
        assert self.values(_UNDISPATCHED) == []

    def dispatch(self) -> None:
        dispatched = self.rows("request_dispatch", limit=1000)
        assert {row["request_id"] for row in dispatched} == set(self.ledger.dispatch())

    # Invariants

    @invariant()
    def counters_equal_the_model(self) -> None:
        expected = []
        for name, user in sorted(self.ledger.users.items()):
            for period, start in sorted(user.period_starts.items()):
                figures = self.ledger.used(name, period, start)
                expected.append(
                    (
                        name,
                        period,
                        *user.limits[period],
                        period in user.overrides,
                        *figures,
                        start,
                        end_of(period, start),
                    )
                )
        assert expected == self.values(
            "SELECT user_id, quota_period, max_requests, max_tokens, is_override, requests_used, tokens_used, tokens_reserved,"
            " period_start, reset_at FROM quotas ORDER BY 1, 2"
        )

    @invariant()
    def plans_equal_the_model(self) -> None:
        expected = [
            (name, user.tier, user.max_unfinished, user.dispatch_window, bool(PLAN_FIELDS & user.overrides))
            for name, user in sorted(self.ledger.users.items())
        ]
        assert expected == self.values(
            "SELECT user_id, tier, max_unfinished, dispatch_window, is_override FROM quota_plans ORDER BY 1"
        )

    @invariant()
    def budgets_equal_the_model(self) -> None:
        expected = {
            (name, *scope): (
                budget.maximum,
                *self.ledger.spent(name, scope, budget.period_start),
                budget.period_start,
                budget.end,
            )
            for name, user in self.ledger.users.items()
            for scope, budget in user.budgets.items()
        }
        found = self.values(
            "SELECT user_id::text, key_id IS NOT NULL, model_id::text, quota_period::text, max_amount, amount_used,"
            " amount_reserved, period_start, reset_at FROM budgets"
        )
        assert {row[:4]: row[4:] for row in found} == expected

    @invariant()
    def requests_equal_the_model(self) -> None:
        found = {row[0]: row[1:] for row in self.values(_STATES)}
        assert found == {request.request_id: _state(request) for request in self.ledger.requests.values()}

    @invariant()
    def dispatch_windows_hold(self) -> None:
        """Only a lowered dispatch window may be exceeded, and never further; running requests count."""
        found = self.values(
            "SELECT user_id, count(dispatched_at) AS dispatched,"
            " count(*) FILTER (WHERE status = 'processing' AND dispatched_at IS NULL) AS without FROM inflight GROUP BY 1"
        )
        for user, dispatched, without in found:
            assert dispatched <= max(self.ledger.users[user].dispatch_window, self.dispatched_before[user])
            assert without == 0
        self.dispatched_before = Counter({user: dispatched for user, dispatched, _ in found})

    @invariant()
    def books_balance_regularly(self) -> None:
        self.steps += 1
        if self.steps % 8 == 0:
            self.books_balance()

    def books_balance(self) -> None:
        assert self.values("SELECT violations FROM ledger_verify(true)") == [([],)]
        shown = self.values(
            "SELECT u.user_id::text, n.model_id, n.day, n.requests_count, n.prompt_tokens, n.completion_tokens, n.completion_window"
            " FROM users u, usage_now(u.user_id, '2031-01-01', '2039-12-31') AS n"
        )
        found = {(*row[:3], row[6]): row[3:6] for row in shown}
        assert found == self.ledger.windowed_usage(), "usage as of now, rolled up or not"

    def close_months(self) -> None:
        """Give out every invoice that is due; none that was given out ever changes."""
        for due in self.rows("statements_due", limit=100):
            month = {"user_id": due["user_id"], "month": due["month"]}
            (found,) = self.rows("statement_show", **month, attribute="")
            if not found["usage"]:
                self.rows("statement_skip", user_id=due["user_id"])
                continue
            document, usage = Jsonb({"lines": found["usage"], "total": "0"}), Jsonb(found["usage"])
            (kept,) = self.rows(
                "statement_close", **month, document=document, usage=usage, actor="rollup", invocation=None
            )
            self.statements[due["user_id"], due["month"]] = kept["statement_close"]

    @invariant()
    def statements_never_change(self) -> None:
        for (user, month), document in self.statements.items():
            (found,) = self.rows("statement_show", user_id=user, month=month, attribute="")
            assert found["document"] == document

    def everything_is_billed_once(self) -> None:
        """What statements have billed and what they have not is the usage."""
        sides = self.values(
            "SELECT (SELECT sum(b.prompt_tokens + b.completion_tokens) FROM billed_usage b"
            "        WHERE b.user_id = u.user_id AND b.attribute = '') AS billed,"
            " (SELECT sum(n.prompt_tokens + n.completion_tokens) FROM usage_unbilled(u.user_id, '') AS n) AS unbilled,"
            " (SELECT sum(n.prompt_tokens + n.completion_tokens) FROM usage_now(u.user_id, '-infinity', 'infinity') AS n) AS used"
            " FROM users u"
        )
        for billed, unbilled, used in sides:
            assert (billed or 0) + (unbilled or 0) == (used or 0)

    def verify_incrementally(self) -> None:
        (found,) = self.rows("ledger_verify", full=False)
        assert found["violations"] == []
        self.rows("ledger_verified", seen_to=found["seen_to"])

    # The end

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.finish_everything()
                self.final_state_equals_the_model()
        finally:
            self.sql.close()
            self.admin.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')
            self.admin.close()

    def finish_everything(self) -> None:
        """Recovery and workers that answer finish every request."""
        left = self.ledger.unfinished()
        # At most one delay and one end for each of them.
        for _ in range(3 * len(left)):
            self.recover()
            self.claim(left, 60)
            at_work = [request for request in left if request.status == "processing"]
            if at_work:
                self.settle([completed(request) for request in at_work])
            left = self.ledger.unfinished()
            moments = [request.not_before for request in left if request.not_before is not None]
            if left and not at_work:
                self.move_to(max(self.ledger.now, min(moments)))
        self.requests_equal_the_model()
        assert left == []

    def final_state_equals_the_model(self) -> None:
        self.books_balance()
        self.verify_incrementally()
        for task in ("rollup_usage", "rollup_stats"):
            self.rows(task)
        self.close_months()
        self.books_balance()
        self.everything_is_billed_once()
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
        promises = self.values("SELECT day, completion_window, kept, missed FROM window_stats WHERE kept + missed > 0")
        assert {row[:2]: row[2:] for row in promises} == self.ledger.promises()
        audited = self.values(
            "SELECT request_id, array_agg(action::text ORDER BY audit_id) FROM audit_log WHERE request_id IS NOT NULL GROUP BY 1"
        )
        assert dict(audited) == {request.request_id: request.audited for request in self.ledger.requests.values()}
        self.rows("audit_seal", limit=10_000)
        assert self.values("SELECT kind FROM audit_verify(0, 1000)") == [(None,)]


def _state(r: Request) -> tuple[Any, ...]:
    """The columns of _STATES except the id."""
    figures = (r.status, r.attempt, r.reserved, *(r.tokens or (None, None)), r.error)
    if r.is_ended:
        return (*figures, *[None] * 8, False, r.window, r.due_at, None, None)
    attempts = (r.attempt, r.failed_attempts, r.lost_attempts, r.last_error)
    times = (r.dispatched_at, r.lease_until, r.not_before, r.expires_at, r.is_cancel_requested)
    return (*figures, *attempts, *times, r.window, r.due_at, r.priority, r.promote_at)


def completed(request: Request) -> dict[str, Any]:
    """An outcome: answered, with one token of the completion."""
    return {
        "request_id": str(request.request_id),
        "attempt": request.attempt,
        "outcome": "completed",
        "output": Output.of_text("an answer").to_json(),
        "fingerprint": "00" * 32,
        "prompt_tokens": 0,
        "completion_tokens": 1,
    }
