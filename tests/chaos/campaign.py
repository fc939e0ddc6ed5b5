"""A campaign: one stack and several seeds, each with its own users, clients, faults and verdict."""

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psycopg

from local.ports import port_in_use
from local.stack import Stack
from tests.chaos import judge
from tests.chaos.batch import Batch
from tests.chaos.faults import UNAVAILABLE, Aws, FaultInjector, RecoveryLoop
from tests.chaos.load import MODEL, Clients, Ledger
from tests.chaos.model import MAX_TOKENS, TIMEOUT_SECONDS, ScriptedModel
from tests.chaos.plan import DISPATCH_WINDOWS, make_plan
from tests.chaos.webhooks import Webhooks

MAX_ATTEMPTS = 30
# Short times, so that losses are noticed soon, and many attempts, since many are made to fail.
_PARAMETERS = {
    "WorkerTimeout": "10",
    "WorkerConcurrency": "6",
    "RetryBaseSeconds": "1",
    "MaxAttempts": str(MAX_ATTEMPTS),
    "LeaseMarginSeconds": "2",
    "RedispatchGraceSeconds": "3",
    "LogLevel": "WARN",
}
_DRAIN_SECONDS = 180.0
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Size:
    """The size of a run."""

    requests: int = 500
    faults: int = 3
    users: int = 25
    lines: int = 200
    clients: int = 4


@dataclass
class Report:
    """The result of a run."""

    seed: int
    accepted: int = 0
    states: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    model: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """The stack with a scripted model; seeds run on it one after the other."""

    def __init__(self, state_dir: Path, say: Callable[[str], None] = lambda sentence: None) -> None:
        self._model = ScriptedModel()
        # Of all seeds: such a message may reach the dead-letter queue during the next one.
        self._unreadable: set[str] = set()
        self.stack = Stack(
            state_dir,
            api_port=steady_port(),
            database_port=steady_port(),
            llm_url=self._model.url,
            parameters=_PARAMETERS,
            durable=False,
            restartable=True,
            report=say,
        )

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.stop()
        self._model.stop()

    def _start(self) -> None:
        self.stack.start()
        self._aws = Aws(self.stack)
        model: dict[str, Any] = {"backend": "openai", "backend_model": "scripted", "endpoint": self._model.url}
        model["prices"] = {"prompt": "1", "completion": "2"}
        model |= {"max_tokens_default": MAX_TOKENS, "max_tokens_limit": MAX_TOKENS, "timeout_seconds": TIMEOUT_SECONDS}
        self._aws.admin("model.set", model_id=MODEL, **model)
        unlimited = {period: {"max_requests": None, "max_tokens": None} for period in ("minute", "daily", "monthly")}
        for dispatch_window in DISPATCH_WINDOWS:
            plan = {"max_unfinished": 10**6, "dispatch_window": dispatch_window, "limits": unlimited}
            self._aws.admin("tier.set", tier=_tier(dispatch_window), **plan)

    def run(self, seed: int, size: Size) -> Report:
        """Run one seed, from creating its users to its verdict."""
        with Webhooks(seed) as webhooks:
            return self._run(seed, size, webhooks)

    def _run(self, seed: int, size: Size, webhooks: Webhooks) -> Report:
        report = Report(seed)
        plan = make_plan(seed, size.requests, size.faults, size.users)
        did, began = self._model.did.copy(), time.monotonic()

        def lap(name: str) -> None:
            nonlocal began
            now = time.monotonic()
            report.seconds[name], began = now - began, now

        with ThreadPoolExecutor(4) as pool:
            keys = dict(
                pool.map(
                    lambda user: (user, self._make_user(plan.user_id(user), plan.dispatch_window(user))),
                    range(plan.users),
                )
            )
            list(
                pool.map(
                    lambda user: webhooks.subscribe(self.stack.info.api_url, plan.user_id(user), keys[user]),
                    range(plan.users),
                )
            )
        batch = Batch(seed, size.lines, MODEL)
        batch.begin(self.stack.info.api_url, self._make_user(batch.user_id, DISPATCH_WINDOWS[0]))
        lap("users")
        ledger = Ledger()
        clients = Clients(plan, self.stack.info.api_url, keys, ledger, size.clients)
        fault_log = FaultLog(self.stack.logs_dir / "chaos.log", seed, ledger)
        injector = FaultInjector(
            self.stack, self._aws, plan, ledger, self._unreadable, lambda: self._model.busy, fault_log.note
        )
        recovery_loop = RecoveryLoop(self._aws)
        recovery_loop.start()
        try:
            injector.start()
            clients.start()
            clients.join()
            lap("load")
            injector.join()
            lap("faults")
            self._drain(plan.user_ids, report)
            report.wrong += batch.drain(self.stack.info.database_url, _DRAIN_SECONDS)
            lap("drain")
            report.wrong += webhooks.drain(self.stack.info.database_url, plan)
            lap("webhooks")
        finally:
            injector.stop()
            recovery_loop.stop()
        self._twice(lambda: self._aws.invoke("rollup", {"tasks": ["usage", "stats", "audit"]}))
        books = judge.read_books(self.stack.info.database_url, plan.user_ids)
        injector.collect_dead_letters()
        report.wrong += [*ledger.troubles, *injector.troubles]
        report.wrong += judge.judge(plan, ledger, books, self._model.calls, MAX_ATTEMPTS)
        report.wrong += judge.dead_letters(injector.dead, self._unreadable)
        report.wrong += judge.reported(plan, ledger, books, self.stack.info.api_url, keys)
        waits = {name: order.waits for order in plan.orders for name in ledger.ids.get(order.number, ())}
        report.wrong += webhooks.judge(self.stack.info.database_url, plan, waits)
        report.wrong += batch.judge(self.stack.info.database_url, self._model.calls)
        report.wrong += judge.verify(self.stack.state_dir)
        lap("judgement")
        report.accepted, report.states = ledger.accepted, judge.states(books)
        report.faults, report.killed = injector.happened, injector.killed
        report.model, report.answers = self._model.did - did, ledger.answers
        return report

    def _make_user(self, user_id: str, dispatch_window: int) -> str:
        self._aws.admin("user.create", user_id=user_id, tier=_tier(dispatch_window))
        # Never reached: reserved and settled with each request all the same.
        for scope in ({}, {"model_id": MODEL}):
            self._aws.admin("budget.set", user_id=user_id, limits={"daily": "1000", "monthly": "1000"}, **scope)
        return str(self._aws.admin("key.create", user_id=user_id)["api_key"])

    def _drain(self, user_ids: list[str], report: Report) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while (left := self._unfinished(user_ids)) != 0:
            if time.monotonic() > deadline:
                report.wrong.append(f"{left} requests are not finished {_DRAIN_SECONDS:.0f} s after the last fault")
                return
            time.sleep(_LOOK_SECONDS)

    def _unfinished(self, user_ids: list[str]) -> int | None:
        try:
            return judge.unfinished(self.stack.info.database_url, user_ids)
        except psycopg.OperationalError:
            return None

    def _twice(self, act: Callable[[], object]) -> None:
        """Try again once: the first failure may be due to a fault that is just ending."""
        try:
            act()
        except UNAVAILABLE:
            act()


class FaultLog:
    """A log of every fault and its time, for finding the cause of an error."""

    def __init__(self, log: Path, seed: int, ledger: Ledger) -> None:
        self._log = log
        self._seed = seed
        self._ledger = ledger

    def note(self, sentence: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{at} seed {self._seed}, {self._ledger.accepted} accepted: {sentence}\n")


def _tier(dispatch_window: int) -> str:
    return f"chaos-{dispatch_window}"


def steady_port() -> int:
    """A free port outside of the ephemeral range.

    A server with an ephemeral port may not get it back after a restart: while it is down, the system may give the port to
    a client that tries to connect, which then connects to itself.
    """
    rng = random.SystemRandom()
    while port_in_use(port := rng.randrange(16_384, 32_768)):
        pass
    return port
