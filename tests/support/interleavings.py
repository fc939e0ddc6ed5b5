"""Two requests of one user and who meets over them: a small machine, and a walk through all that can happen to it.

Time is only whether something is over: each step of the clock ends the leases and the pauses that there are. Everything
that the future depends on is in a State, so what leads to the same State is the same; a walk takes each step from each
State once. The machine exists twice, here as plain functions and in the database, and both are walked by explore().
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Protocol

MAX_ATTEMPTS = 2
# What a completed answer is booked with.
TOKENS = 10
OUTCOMES = ("completed", "retry", "released")
ENDED = frozenset({"completed", "failed", "cancelled"})

Action = tuple[Any, ...]
Answer = Any


@dataclass(frozen=True)
class Item:
    """A request.

    Attributes:
        attempt: the fence.
        is_paused: it is to be tried again, but not yet.
        is_lapsed: the lease of the worker that has it has ended.
        answered_by: the attempt whose answer is its result.
        ends: how often it has ended.
    """

    status: str = "queued"
    attempt: int = 0
    failures: int = 0
    lost: int = 0
    is_dispatched: bool = False
    is_paused: bool = False
    is_lapsed: bool = False
    is_cancelled: bool = False
    answered_by: int | None = None
    tokens: int | None = None
    ends: int = 0

    def ended(self, status: str, tokens: int | None) -> "Item":
        if self.is_cancelled:
            status = "cancelled"
        answered_by = self.attempt if status == "completed" else None
        return Item(status, self.attempt, answered_by=answered_by, tokens=tokens, ends=self.ends + 1)

    def back(self, *, failed: bool = False, lost: bool = False, paused: bool = False) -> "Item":
        failures, losses = self.failures + failed, self.lost + lost
        return Item("queued", self.attempt, failures, losses, is_paused=paused, ends=self.ends)

    def begun(self) -> "Item":
        lost = self.status == "processing"
        failures, losses = self.failures + lost, self.lost + lost
        return Item("processing", self.attempt + 1, failures, losses, is_dispatched=True, ends=self.ends)


Items = tuple[Item, ...]


@dataclass(frozen=True, order=True)
class Worker:
    """A worker: how many batches it will still claim, and as which attempts it holds which requests (by their places)."""

    claims_left: int
    holds: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class State:
    """Workers are alike, so they are kept sorted: it does not matter which is which."""

    items: Items
    workers: tuple[Worker, ...]
    can_cancel: bool = True


def actions(state: State) -> Iterator[Action]:
    """Whatever can happen next: the sweep, the messages that are due, and time are always there."""
    for n, worker in enumerate(state.workers):
        if worker in state.workers[:n]:
            continue
        if worker.holds:
            for outcomes in product(OUTCOMES, repeat=len(worker.holds)):
                yield "settle", n, outcomes
            yield "crash", n
        elif worker.claims_left:
            yield "claim", n
    yield ("sweep",)
    yield ("dispatch",)
    yield ("time",)
    if state.can_cancel:
        for place in range(len(state.items)):
            yield "cancel", place


def followed(state: State, action: Action, answer: Answer, items: Items) -> State:
    """The state after an action, given what it did to the requests."""
    workers = list(state.workers)
    match action:
        case ("claim", n):
            workers[n] = Worker(workers[n].claims_left - 1, answer)
        case ("settle", n, _) | ("crash", n):
            workers[n] = Worker(workers[n].claims_left)
    return State(items, tuple(sorted(workers)), state.can_cancel and action[0] != "cancel")


class World(Protocol):
    """One of the two machines."""

    def state(self) -> State:
        """Where it is."""

    def tried(self, action: Action) -> AbstractContextManager[Answer]:
        """What an action answers; it is undone at the end."""


@dataclass
class Graph:
    """What was found: all states, and for each what every action answers and where it leads."""

    steps: dict[State, dict[Action, tuple[Answer, State]]] = field(default_factory=dict)

    @property
    def transitions(self) -> int:
        return sum(len(steps) for steps in self.steps.values())


def explore(world: World, check: Callable[[State], None]) -> Graph:
    """Take every action from every state that can be reached."""
    graph = Graph()

    def visit(state: State) -> None:
        steps: dict[Action, tuple[Answer, State]] = {}
        graph.steps[state] = steps
        check(state)
        for action in actions(state):
            with world.tried(action) as answer:
                after = world.state()
                steps[action] = (answer, after)
                if after not in graph.steps:
                    visit(after)

    visit(world.state())
    return graph


# The machine as plain functions -----------------------------------------------------------------------------------


class Model:
    """What the functions of the database should do, in as few words as it can be said."""

    def __init__(self, window: int, state: State) -> None:
        self.window = window
        self.trail = [replace(state, items=self.filled(state.items))]

    def state(self) -> State:
        return self.trail[-1]

    def tried(self, action: Action) -> AbstractContextManager[Answer]:
        return _Tried(self, action)

    def filled(self, items: Items) -> Items:
        """As many of those that wait, the first ones first, as there are places in the window."""
        places = self.window - sum(item.is_dispatched for item in items)
        filled = []
        for item in items:
            is_next = places > 0 and item.status == "queued" and not (item.is_dispatched or item.is_paused)
            places -= is_next
            filled.append(replace(item, is_dispatched=True) if is_next else item)
        return tuple(filled)

    def done(self, state: State, action: Action) -> tuple[Answer, Items]:
        items = state.items
        match action:
            case ("claim", _):
                return self.claim(items)
            case ("settle", n, outcomes):
                return self.settle(items, dict(zip(state.workers[n].holds, outcomes, strict=True)))
            case ("sweep",):
                return self.sweep(items)
            case ("dispatch",):
                return _sent(items, self.filled(items)), self.filled(items)
            case ("time",):
                return None, tuple(replace(i, is_paused=False, is_lapsed=i.status == "processing") for i in items)
            case ("cancel", place):
                return self.cancel(items, place)
            case _:
                return None, items

    def claim(self, items: Items) -> tuple[Answer, Items]:
        """Both messages come; those of requests that wait wake them, as far as the window has room."""
        items = self.filled(items)
        begun = [n for n, item in enumerate(items) if _is_due(item)]
        after = [item.begun() if n in begun else _without_message(item) for n, item in enumerate(items)]
        return tuple((n, after[n].attempt) for n in begun), tuple(after)

    def settle(self, items: Items, flush: Mapping[tuple[int, int], str]) -> tuple[Answer, Items]:
        after = list(items)
        told = []
        for (n, attempt), outcome in flush.items():
            kind, after[n] = _settled(items[n], attempt, outcome)
            told.append((kind, n, after[n].status))
        # The gate of a user is taken for what is not ended.
        filled = self.filled(tuple(after)) if any(items[n].status not in ENDED for n, _ in flush) else tuple(after)
        told += [("dispatch", n, "queued") for n in _sent(tuple(after), filled)]
        return tuple(sorted(told)), filled

    def sweep(self, items: Items) -> tuple[Answer, Items]:
        after = []
        for item in items:
            if not item.is_lapsed:
                after.append(item)
            elif item.is_cancelled or item.failures + 1 >= MAX_ATTEMPTS:
                after.append(item.ended("failed", None))
            else:
                after.append(item.back(failed=True, lost=True))
        changed = [new.status for old, new in zip(items, after, strict=True) if new != old]
        return tuple(changed.count(status) for status in ("queued", "failed", "expired", "cancelled")), tuple(after)

    def cancel(self, items: Items, place: int) -> tuple[Answer, Items]:
        item, after = items[place], list(items)
        if item.status == "queued" or item.is_lapsed:
            after[place] = item.ended("cancelled", None)
        elif item.status == "processing":
            after[place] = replace(item, is_cancelled=True)
        status = after[place].status
        outcome = "request_finished" if status in ENDED - {"cancelled"} else "ok"
        filled = self.filled(tuple(after))
        return (outcome, status, _sent(tuple(after), filled)), filled


def _is_due(item: Item) -> bool:
    if item.status == "processing":
        return item.is_lapsed and not item.is_cancelled and item.failures + 1 < MAX_ATTEMPTS
    return item.is_dispatched and not item.is_paused


def _without_message(item: Item) -> Item:
    return replace(item, is_dispatched=False) if item.status == "queued" else item


def _settled(item: Item, attempt: int, outcome: str) -> tuple[str, Item]:
    """What a worker is told, and the request after its outcome."""
    tokens = TOKENS if outcome == "completed" else None
    if item.attempt != attempt:
        return "superseded", item
    if item.status in ENDED:
        is_repeat = item.status in {outcome, "cancelled"} or (item.status, outcome) == ("failed", "retry")
        return "settled" if is_repeat and item.tokens == tokens else "superseded", item
    if outcome == "completed" or item.is_cancelled:
        return "settled", item.ended("completed", tokens)
    if item.status == "queued":
        return "requeued", item
    if outcome == "released":
        return "requeued", item.back()
    if item.failures + 1 >= MAX_ATTEMPTS:
        return "settled", item.ended("failed", tokens)
    return "requeued", item.back(failed=True, paused=True)


def _sent(before: Items, after: Items) -> tuple[int, ...]:
    return tuple(
        n for n, (old, new) in enumerate(zip(before, after, strict=True)) if new.is_dispatched > old.is_dispatched
    )


@dataclass
class _Tried:
    """An action of the model, which is forgotten at the end."""

    model: Model
    action: Action

    def __enter__(self) -> Answer:
        state = self.model.state()
        answer, items = self.model.done(state, self.action)
        self.model.trail.append(followed(state, self.action, answer, items))
        return answer

    def __exit__(self, *_: object) -> None:
        self.model.trail.pop()
