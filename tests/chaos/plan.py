"""What a run is going to do, from its seed alone: who asks what, and after how many accepted requests the hand strikes.

The plan of a seed is always the same; what becomes of it is not: threads, processes and sockets take their own time. So
a replay does again what was done, in the same order, and mostly, not always, finds again what was found.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

# Each is a class of faults.py.
KINDS = ("kill", "postgres", "emulator", "duplicate", "reorder", "rollup", "unreadable")

# How many requests of a user may be out at once: many wait in the database, some never do.
WINDOWS = (50, 20, 5)

_TOPICS = ("rivers", "mountains", "engines", "letters", "spices", "planets", "bridges", "clocks", "ferries", "bees")


@dataclass(frozen=True)
class Order:
    """One request as its client makes it.

    Attributes:
        number: the request's place in the plan; with the seed, its idempotency key.
        repeated: whether the client sends it again although it has been accepted.
        cancelled_after: how many further requests its client makes before it gives this one up; None: it never does.
    """

    number: int
    user: int
    prompt: str
    ttl_seconds: int | None
    repeated: bool
    cancelled_after: int | None


@dataclass(frozen=True)
class Strike:
    """One fault: its kind, what it draws from, and after how many accepted requests it comes."""

    kind: str
    after: int
    seed: str


@dataclass(frozen=True)
class Plan:
    seed: int
    users: int
    orders: Sequence[Order]
    strikes: Mapping[str, Sequence[Strike]]

    def user_id(self, user: int) -> str:
        return f"chaos-{self.seed}-{user}"

    def window(self, user: int) -> int:
        return WINDOWS[user % len(WINDOWS)]

    @property
    def user_ids(self) -> list[str]:
        return [self.user_id(user) for user in range(self.users)]


def make_plan(seed: int, requests: int, faults: int, users: int) -> Plan:
    """The plan of a seed: so many requests of so many users, and so many faults of each kind."""
    rng = random.Random(seed)
    # A few users ask for most of it, as it is in life.
    weights = list(accumulate(1 / (4 + user) for user in range(users)))
    orders = [
        Order(
            number=number,
            user=rng.choices(range(users), cum_weights=weights)[0],
            prompt=f"Seed {seed}, question {number}: what is to be said about {rng.choice(_TOPICS)}?",
            ttl_seconds=rng.randint(1, 5) if rng.random() < 0.03 else None,
            repeated=rng.random() < 0.05,
            cancelled_after=rng.choice((0, 0, 1, 4)) if rng.random() < 0.05 else None,
        )
        for number in range(requests)
    ]
    strikes = {kind: _strikes(rng, seed, kind, requests, faults) for kind in KINDS}
    return Plan(seed, users, orders, strikes)


def _strikes(rng: random.Random, seed: int, kind: str, requests: int, faults: int) -> list[Strike]:
    """Spread over the whole run, one in each part of it."""
    part = requests / faults if faults else 0
    after = [int((number + rng.uniform(0.1, 0.9)) * part) for number in range(faults)]
    if kind == "emulator" and after:
        # The last message is lost when the last request has been accepted: whatever was in the queue by then, nothing
        # but the rows in PostgreSQL is left to go by.
        after[-1] = requests
    return [Strike(kind, count, f"{seed}/{kind}/{number}") for number, count in enumerate(after)]
