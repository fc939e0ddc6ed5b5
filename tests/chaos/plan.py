"""The plan of a run, derived from its seed: the requests, and after how many of them each fault happens.

The plan of a seed is always the same; its execution depends on the timing of threads, processes and sockets. So a
repetition does the same in the same order, and usually, but not always, finds the same errors.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

# Each is a method of FaultInjector in faults.py.
KINDS = ("kill", "cut", "postgres", "emulator", "duplicate", "reorder", "rollup", "unreadable")

# Dispatch windows of users: with small ones many requests wait in the database.
DISPATCH_WINDOWS = (50, 20, 5)

_WAITING_SHARE = 0.2
# Questions that several requests ask, which may share an answer; each is asked about so often.
_EQUAL_SHARE = 0.2
_ASKED_AGAIN = 8
_TOPICS = ("rivers", "mountains", "engines", "letters", "spices", "planets", "bridges", "clocks", "ferries", "bees")


@dataclass(frozen=True)
class Order:
    """A request as its client submits it.

    Attributes:
        number: its position in the plan; with the seed, its idempotency key.
        repeated: whether the client sends it again after it was accepted.
        cancelled_after: how many further requests its client submits before cancelling it; None: it is not cancelled.
        waits: its client waits for the answer, through /v1/chat/completions; it neither cancels nor sends a key.
        may_share: other requests ask the same, and it takes an equal one's answer from the cache or waits for it.
    """

    number: int
    user: int
    prompt: str
    ttl_seconds: int | None
    repeated: bool
    cancelled_after: int | None
    waits: bool
    may_share: bool


@dataclass(frozen=True)
class Fault:
    """A fault: its kind, its random seed, and after how many requests it happens (Ledger.wait_for)."""

    kind: str
    after: int
    seed: str


@dataclass(frozen=True)
class Plan:
    seed: int
    users: int
    orders: Sequence[Order]
    faults_by_kind: Mapping[str, Sequence[Fault]]

    def user_id(self, user: int) -> str:
        return f"chaos-{self.seed}-{user}"

    def dispatch_window(self, user: int) -> int:
        return DISPATCH_WINDOWS[user % len(DISPATCH_WINDOWS)]

    @property
    def user_ids(self) -> list[str]:
        return [self.user_id(user) for user in range(self.users)]


def make_plan(seed: int, requests: int, faults: int, users: int) -> Plan:
    """The plan of a seed: its requests, and the faults of each kind."""
    rng = random.Random(seed)
    # A few users make most of the requests.
    weights = list(accumulate(1 / (4 + user) for user in range(users)))
    orders = [
        _order(rng, seed, number, rng.choices(range(users), cum_weights=weights)[0]) for number in range(requests)
    ]
    faults_by_kind = {kind: _faults_of_kind(rng, seed, kind, requests, faults) for kind in KINDS}
    return Plan(seed, users, orders, faults_by_kind)


def _order(rng: random.Random, seed: int, number: int, user: int) -> Order:
    prompt = f"Seed {seed}, question {number}: what is to be said about {rng.choice(_TOPICS)}?"
    may_share = rng.random() < _EQUAL_SHARE
    if may_share:
        # Of those that may share, so many in a row have the same question; a user may have only one of them.
        prompt = f"Seed {seed}, question from {number - number % round(_ASKED_AGAIN / _EQUAL_SHARE)}: what is equal?"
    if rng.random() < _WAITING_SHARE:
        return Order(number, user, prompt, None, repeated=False, cancelled_after=None, waits=True, may_share=may_share)
    return Order(
        number,
        user,
        prompt,
        ttl_seconds=rng.randint(1, 5) if rng.random() < 0.03 else None,
        repeated=rng.random() < 0.05,
        cancelled_after=rng.choice((0, 0, 1, 4)) if rng.random() < 0.05 else None,
        waits=False,
        may_share=may_share,
    )


def _faults_of_kind(rng: random.Random, seed: int, kind: str, requests: int, faults: int) -> list[Fault]:
    """Faults of one kind, spread evenly over the run."""
    part = requests / faults if faults else 0
    after = [int((number + rng.uniform(0.1, 0.9)) * part) for number in range(faults)]
    if kind == "emulator" and after:
        # The last crash comes when the last request has been accepted: from then on only the rows in PostgreSQL
        # show what is left to do.
        after[-1] = requests
    return [Fault(kind, count, f"{seed}/{kind}/{number}") for number, count in enumerate(after)]
