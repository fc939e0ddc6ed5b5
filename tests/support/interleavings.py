"""Two or three requests of one user as a small state machine, and an exhaustive exploration of its states.

A step of the clock ends all current leases and delays. A State holds everything that later steps depend on, so each
action is taken once from each State. The machine exists twice, here as plain functions and in the database, and
explore() walks both.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Protocol

MAX_ATTEMPTS = 2
# The tokens of a completed answer.
TOKENS = 10
OUTCOMES = ("completed", "retry", "released")
ENDED = frozenset({"completed", "failed", "cancelled"})

Action = tuple[Any, ...]
Answer = Any


@dataclass(frozen=True)
class Item:
    """A request.

    Attributes:
        attempt: the fencing token.
        is_paused: a retry that is not due yet.
        is_lapsed: its worker's lease has expired.
        answered_by: the attempt that produced its result.
        ends: how many times it has ended.
        follows: the position of the equal request whose answer it waits for.
        source: the position of the one whose answer it got.
    """

    status: str = "queued"
    attempt: int = 0
    failed_attempts: int = 0
    lost_attempts: int = 0
    is_dispatched: bool = False
    is_paused: bool = False
    is_lapsed: bool = False
    is_cancel_requested: bool = False
    answered_by: int | None = None
    tokens: int | None = None
    ends: int = 0
    follows: int | None = None
    source: int | None = None

    def finished(self, status: str, tokens: int | None) -> "Item":
        if self.is_cancel_requested:
            status = "cancelled"
        answered_by = self.attempt if status == "completed" else None
        return Item(status, self.attempt, answered_by=answered_by, tokens=tokens, ends=self.ends + 1)

    def shared(self, source: int) -> "Item":
        return Item("completed", self.attempt, tokens=0, ends=self.ends + 1, source=source)

    def requeued(self, *, failed: bool = False, lost: bool = False, paused: bool = False) -> "Item":
        failures, losses = self.failed_attempts + failed, self.lost_attempts + lost
        return Item("queued", self.attempt, failures, losses, is_paused=paused, ends=self.ends)

    def started(self) -> "Item":
        is_lost = self.status == "processing"
        failures, losses = self.failed_attempts + is_lost, self.lost_attempts + is_lost
        return Item("processing", self.attempt + 1, failures, losses, is_dispatched=True, ends=self.ends)


Items = tuple[Item, ...]


@dataclass(frozen=True, order=True)
class Worker:
    """A worker: how many batches it may still claim, and the requests and attempts it holds (by position)."""

    claims_left: int
    holds: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class State:
    """Workers are interchangeable, so they are kept sorted."""

    items: Items
    workers: tuple[Worker, ...]
    can_cancel: bool = True


def actions(state: State) -> Iterator[Action]:
    """Every possible next step; recovery, dispatch and time are always possible."""
    for n, worker in enumerate(state.workers):
        if worker in state.workers[:n]:
            continue
        if worker.holds:
            for outcomes in product(OUTCOMES, repeat=len(worker.holds)):
                yield "settle", n, outcomes
            yield "crash", n
        elif worker.claims_left:
            yield "claim", n
    yield ("recover",)
    yield ("dispatch",)
    yield ("time",)
    if state.can_cancel:
        for position in range(len(state.items)):
            yield "cancel", position


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
        """The current state."""

    def trying(self, action: Action) -> AbstractContextManager[Answer]:
        """Take an action, give its answer, and undo it at the end."""


@dataclass
class Graph:
    """All states that were found, with the answer and the next state of every action."""

    steps: dict[State, dict[Action, tuple[Answer, State]]] = field(default_factory=dict)

    @property
    def transitions(self) -> int:
        return sum(len(steps) for steps in self.steps.values())


def explore(world: World, check: Callable[[State], None]) -> Graph:
    """Take every action from every reachable state."""
    graph = Graph()

    def visit(state: State) -> None:
        steps: dict[Action, tuple[Answer, State]] = {}
        graph.steps[state] = steps
        check(state)
        for action in actions(state):
            with world.trying(action) as answer:
                after = world.state()
                steps[action] = (answer, after)
                if after not in graph.steps:
                    visit(after)

    visit(world.state())
    return graph


# The machine as plain functions -----------------------------------------------------------------------------------


class Model:
    """What the functions of the database should do, as briefly as possible."""

    def __init__(self, dispatch_window: int, state: State) -> None:
        self.dispatch_window = dispatch_window
        self.trail = [replace(state, items=self.dispatched(state.items))]

    def state(self) -> State:
        return self.trail[-1]

    def trying(self, action: Action) -> AbstractContextManager[Answer]:
        return _Trying(self, action)

    def dispatched(self, items: Items) -> Items:
        """Dispatch waiting requests in order, as far as the dispatch window has free slots."""
        free_slots = self.dispatch_window - sum(item.is_dispatched for item in items)
        dispatched = []
        for item in items:
            is_waiting = item.status == "queued" and item.follows is None
            is_next = free_slots > 0 and is_waiting and not (item.is_dispatched or item.is_paused)
            free_slots -= is_next
            dispatched.append(replace(item, is_dispatched=True) if is_next else item)
        return tuple(dispatched)

    def apply(self, state: State, action: Action) -> tuple[Answer, Items]:
        items = state.items
        match action:
            case ("claim", _):
                return self.claim(items)
            case ("settle", n, outcomes):
                return self.settle(items, dict(zip(state.workers[n].holds, outcomes, strict=True)))
            case ("recover",):
                return self.recover(items)
            case ("dispatch",):
                return _sent(items, self.dispatched(items)), self.dispatched(items)
            case ("time",):
                return None, tuple(replace(i, is_paused=False, is_lapsed=i.status == "processing") for i in items)
            case ("cancel", position):
                return self.cancel(items, position)
            case _:
                return None, items

    def claim(self, items: Items) -> tuple[Answer, Items]:
        """Both messages arrive; they start waiting requests as far as the dispatch window has free slots."""
        items = self.dispatched(items)
        started = [n for n, item in enumerate(items) if _is_due(item)]
        after = [item.started() if n in started else _without_message(item) for n, item in enumerate(items)]
        return tuple((n, after[n].attempt) for n in started), tuple(after)

    def settle(self, items: Items, flush: Mapping[tuple[int, int], str]) -> tuple[Answer, Items]:
        after = list(items)
        answers = []
        for (n, attempt), outcome in flush.items():
            kind, after[n] = _settled(items[n], attempt, outcome)
            answers.append((kind, n, after[n].status))
            answers += [("settled", m, "completed") for m in _landed(after, n)]
        # Only unfinished requests need the user lock, and so a dispatch.
        dispatched = (
            self.dispatched(tuple(after)) if any(items[n].status not in ENDED for n, _ in flush) else tuple(after)
        )
        answers += [("dispatch", n, "queued") for n in _sent(tuple(after), dispatched)]
        return tuple(sorted(answers)), dispatched

    def recover(self, items: Items) -> tuple[Answer, Items]:
        after = []
        for item in items:
            if not item.is_lapsed:
                after.append(item)
            elif item.is_cancel_requested or item.failed_attempts + 1 >= MAX_ATTEMPTS:
                after.append(item.finished("failed", None))
            else:
                after.append(item.requeued(failed=True, lost=True))
        changed = [new.status for old, new in zip(items, after, strict=True) if new != old]
        for n in range(len(after)):
            _landed(after, n)
        return tuple(changed.count(status) for status in ("queued", "failed", "expired", "cancelled")), tuple(after)

    def cancel(self, items: Items, position: int) -> tuple[Answer, Items]:
        item, after = items[position], list(items)
        if item.status == "queued" or item.is_lapsed:
            after[position] = item.finished("cancelled", None)
        elif item.status == "processing":
            after[position] = replace(item, is_cancel_requested=True)
        status = after[position].status
        _landed(after, position)
        outcome = "request_finished" if status in ENDED - {"cancelled"} else "ok"
        dispatched = self.dispatched(tuple(after))
        return (outcome, status, _sent(tuple(after), dispatched)), dispatched


def _is_due(item: Item) -> bool:
    if item.status == "processing":
        return item.is_lapsed and not item.is_cancel_requested and item.failed_attempts + 1 < MAX_ATTEMPTS
    return item.is_dispatched and not item.is_paused


def _without_message(item: Item) -> Item:
    return replace(item, is_dispatched=False) if item.status == "queued" else item


def _settled(item: Item, attempt: int, outcome: str) -> tuple[str, Item]:
    """The answer to a worker, and the request after its outcome."""
    tokens = TOKENS if outcome == "completed" else None
    if item.attempt != attempt:
        return "superseded", item
    if item.status in ENDED:
        is_repeat = item.status in {outcome, "cancelled"} or (item.status, outcome) == ("failed", "retry")
        return "settled" if is_repeat and item.tokens == tokens else "superseded", item
    if outcome == "completed" or item.is_cancel_requested:
        return "settled", item.finished("completed", tokens)
    if item.status == "queued":
        return "requeued", item
    if outcome == "released":
        return "requeued", item.requeued()
    if item.failed_attempts + 1 >= MAX_ATTEMPTS:
        return "settled", item.finished("failed", tokens)
    return "requeued", item.requeued(failed=True, paused=True)


def _landed(items: list[Item], n: int) -> list[int]:
    """Serve those that follow a request that has ended, or have the first of them ask; returns those that were served."""
    followers = [m for m, item in enumerate(items) if item.follows == n]
    if items[n].status not in ENDED or not followers:
        return []
    if items[n].status == "completed":
        for m in followers:
            items[m] = items[m].shared(n)
        return followers
    first, *others = followers
    items[first] = replace(items[first], follows=None)
    for m in others:
        items[m] = replace(items[m], follows=first)
    return []


def _sent(before: Items, after: Items) -> tuple[int, ...]:
    return tuple(
        n for n, (old, new) in enumerate(zip(before, after, strict=True)) if new.is_dispatched > old.is_dispatched
    )


@dataclass
class _Trying:
    """An action of the model that is undone at the end."""

    model: Model
    action: Action

    def __enter__(self) -> Answer:
        state = self.model.state()
        answer, items = self.model.apply(state, self.action)
        self.model.trail.append(followed(state, self.action, answer, items))
        return answer

    def __exit__(self, *_: object) -> None:
        self.model.trail.pop()
