"""Clients of a side that work at the same time, each a process of its own: Python runs one thread at a time."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from benchmarks.sides import Side

_READY = "ready"
_BATCH = 10


class Clients:
    """Processes that wait for orders; those of different sides may take turns.

    Args:
        make: makes a side from nothing but what can be sent to another process.
        number: of processes.
    """

    def __init__(self, make: Callable[[], Side], number: int) -> None:
        self._stack = ExitStack()
        self._pipes: list[Connection] = []
        # Not forked: a connection of this process must not be shared.
        context = multiprocessing.get_context("spawn")
        for _ in range(number):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, make), daemon=True)
            process.start()
            there.close()
            self._stack.callback(process.join, 10)
            self._pipes.append(here)
        for pipe in self._pipes:
            self._stack.callback(pipe.close)
            assert _receive(pipe) == _READY

    def work(self, seconds: float, users: Sequence[Sequence[int]]) -> tuple[int, float, float]:
        """Let each client do lifecycles without reads for some seconds, one batch of ten after the other.

        Args:
            users: for each client, those whose requests it sends, batch by batch.

        Returns:
            Lifecycles, how many a second they are, and seconds of the clients' processors.
        """
        for pipe, its_users in zip(self._pipes, users, strict=True):
            pipe.send((seconds, its_users))
        done = [_receive(pipe) for pipe in self._pipes]
        return (
            sum(number for number, _, _ in done),
            sum(number / took for number, took, _ in done),
            sum(cpu for _, _, cpu in done),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError("A client of the benchmark has failed; its error is above.") from None


def _serve(pipe: Connection, make: Callable[[], Side]) -> None:
    with make() as side:
        _batches(side, 0, [0])  # connects
        pipe.send(_READY)
        while True:
            try:
                seconds, users = pipe.recv()
            except EOFError:
                return
            pipe.send(_batches(side, seconds, users))


def _batches(side: Side, seconds: float, users: Sequence[int]) -> tuple[int, float, float]:
    """At least one batch; returns lifecycles, the seconds that they took, and those of this process's processor."""
    began, cpu, number = time.perf_counter(), time.process_time(), 0
    while number == 0 or time.perf_counter() - began < seconds:
        side.answer([users[number % len(users)]] * _BATCH)
        number += 1
    return _BATCH * number, time.perf_counter() - began, time.process_time() - cpu
