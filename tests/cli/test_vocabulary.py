"""The command line's copies of the service's closed sets, and the operations that it sends, match the service."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from sluice.backends.registry import BACKENDS
from sluice.domain.documents import FINISH_REASONS
from sluice.domain.requests import ModelKind
from sluice.domain.states import Status
from sluice.domain.vocabulary import FREQUENCIES, PERIODS, SCOPES
from sluice.domain.windows import CompletionWindow
from sluice.services.admin.administer import OPERATIONS
from sluice.services.admin.tiers import PeriodLimits
from sluice.services.tasks.run import TASKS
from sluice_cli import vocabulary
from tests.cli.conftest import run
from tests.cli.test_commands import COMMANDS

ROOT = Path(__file__).parents[2]

# Operations without a command, and why.
WITHOUT_COMMAND: dict[str, str] = {}


@pytest.mark.parametrize(
    ("words", "defined"),
    [
        (vocabulary.STATUSES, tuple(Status)),
        (vocabulary.FINISH_REASONS, FINISH_REASONS),
        (vocabulary.SCOPES, SCOPES),
        (vocabulary.PERIODS, PERIODS),
        (vocabulary.RESET_FREQUENCIES, FREQUENCIES),
        (vocabulary.BACKENDS, BACKENDS),
        (vocabulary.MODEL_KINDS, get_args(ModelKind)),
        (vocabulary.ROLLUP_TASKS, TASKS),
        (vocabulary.COMPLETION_WINDOWS, get_args(CompletionWindow)),
    ],
    ids=["status", "finish reason", "scope", "period", "reset frequency", "backend", "kind", "rollup task", "window"],
)
def test_words_are_those_of_the_service(words: Sequence[str], defined: Sequence[str]) -> None:
    assert sorted(words) == sorted(defined)


def test_periods_are_the_fields_of_limits() -> None:
    assert set(vocabulary.PERIODS) == set(PeriodLimits.model_fields)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (vocabulary.STATUSES, ("requests", "list")),
        (vocabulary.FINISH_REASONS, ("requests", "list")),
        (vocabulary.SCOPES, ("keys", "create")),
        (vocabulary.PERIODS, ("quotas", "clear")),
        (vocabulary.RESET_FREQUENCIES, ("tiers", "set")),
        (vocabulary.BACKENDS, ("models", "set")),
        (vocabulary.MODEL_KINDS, ("models", "set")),
        (vocabulary.ROLLUP_TASKS, ("rollup",)),
        (vocabulary.COMPLETION_WINDOWS, ("prices", "window")),
    ],
    ids=["status", "finish reason", "scope", "period", "reset frequency", "backend", "kind", "rollup task", "window"],
)
def test_help_and_documentation_name_every_word(words: Sequence[str], command: Sequence[str]) -> None:
    shown = run(*command, "--help").stdout
    documented = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [word for word in words if word not in shown] == []
    assert [word for word in words if word not in documented] == []


def operations_in_source() -> Iterator[str]:
    """The operations that the commands' source names: an argument of `session.run`, `session.show`, `fetch_with`."""
    for path in sorted((ROOT / "sluice_cli" / "commands").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case (
                    ast.Call(func=ast.Attribute(value=ast.Name("session"), attr="run" | "show"), args=[name, *_])
                    | ast.Call(func=ast.Name("fetch_with"), args=[_, name, *_])
                ):
                    assert isinstance(name, ast.Constant), f"{path.name}:{node.lineno} computes the operation's name"
                    yield str(name.value)


def test_every_operation_sent_exists() -> None:
    assert sorted(set(operations_in_source()) - set(OPERATIONS)) == []


def test_every_operation_has_a_command() -> None:
    sent = {operation for _, operation, _ in COMMANDS}
    assert sent == set(operations_in_source())
    assert set(OPERATIONS) - sent == set(WITHOUT_COMMAND)


@pytest.mark.parametrize(("line", "operation", "given"), COMMANDS, ids=[line for line, *_ in COMMANDS])
def test_every_argument_sent_exists(line: str, operation: str, given: dict[str, Any]) -> None:
    assert set(given) <= set(OPERATIONS[operation].arguments.model_fields), line
