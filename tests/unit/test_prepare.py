"""What a function does while Lambda starts its environment, or takes a snapshot of it."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sluice import bootstrap


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order; without a collector that stays frozen."""
    steps: list[str] = []
    monkeypatch.setattr(bootstrap, "gc", SimpleNamespace(freeze=lambda: steps.append("froze")))
    monkeypatch.setattr(bootstrap, "_open", lambda: steps.append("connected"))
    monkeypatch.setenv("LAMBDA_TASK_ROOT", "/var/task")
    return steps


def test_services_are_made_and_then_it_connects(done: list[str]) -> None:
    bootstrap.prepare(lambda: done.append("made"), connect=True)
    assert done == ["made", "froze", "connected"]


def test_a_failure_is_left_to_the_first_request(done: list[str]) -> None:
    def fails() -> None:
        raise ValueError

    bootstrap.prepare(fails, connect=True)
    assert done == ["froze", "connected"]


def test_a_snapshot_holds_no_connection_and_a_restored_environment_makes_its_own(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    register = SimpleNamespace(register_after_restore=lambda hook, *arguments: hooks.append((hook, arguments)))
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", register)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    bootstrap.prepare(lambda: done.append("made"), connect=True)
    assert done == ["made", "froze"]
    for hook, arguments in hooks:
        hook(*arguments)
    assert done == ["made", "froze", "connected"]
