"""One run of `sluice`: the deployment that it calls, and the output."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from sluice_cli.output import check_output, say
from sluice_cli.tables import printable
from sluice_cli.target import AdminFunction, account_function, local_function

STACK_VARIABLE = "SLUICE_STACK"
DEFAULT_STATE = Path(".local")
READ_SECONDS = 60.0
# Rollups and verification may take as long as the admin function's timeout (330 s); the rest is a margin.
LONG_READ_SECONDS = 340.0
# The last words of operations that change nothing, such as user.list.
_READING = frozenset({"get", "list", "tiers", "verify"})

View = Callable[[Any], str]


@dataclass
class Session:
    """The shared options, and what depends on them.

    Attributes:
        has_called: True once an operation was carried out.
        has_changed: True once one was carried out that may change something.
    """

    stack: str | None = None
    region: str | None = None
    profile: str | None = None
    state: Path | None = None
    as_json: bool = False
    has_called: bool = field(default=False, init=False)
    has_changed: bool = field(default=False, init=False)
    _function: AdminFunction | None = field(default=None, repr=False)

    def run(self, operation: str, arguments: Mapping[str, object], read_timeout: float = READ_SECONDS) -> Any:
        """Run an operation and return its result.

        Raises:
            CommandError: the operation failed or was refused.
            OSError: its result could not be printed, so it was not run.
        """
        check_output()
        if self._function is None:
            self._function = self._find(read_timeout)
        result = self._function.run(operation, arguments)
        self.has_called = True
        self.has_changed |= operation.rpartition(".")[2] not in _READING
        return result

    def show(
        self, operation: str, arguments: Mapping[str, object], view: View, read_timeout: float = READ_SECONDS
    ) -> Any:
        """Run an operation, print its result as JSON or through the view, and return it.

        What the result warns of is printed on standard error.

        Raises:
            CommandError: the operation failed or was refused.
            OSError: its result could not be printed.
        """
        result = self.run(operation, arguments, read_timeout)
        self.print(result, view)
        for warning in result.get("warnings", []) if isinstance(result, dict) else []:
            self.note(f"Warning: {printable(str(warning))}")
        return result

    def print(self, result: Any, view: View) -> None:
        """Print a result as JSON or through the view."""
        if self.as_json:
            self.print_json(result)
        else:
            click.echo(view(result))

    def print_json(self, result: object) -> None:
        """Print a result as JSON."""
        # ASCII only: valid in any encoding, and without control characters that a terminal would act on.
        click.echo(json.dumps(result, indent=2))

    def note(self, sentence: str) -> None:
        """Print a remark for people on standard error; nothing if the output is JSON."""
        if not self.as_json:
            say(sentence)

    def _find(self, read_timeout: float) -> AdminFunction:
        if self.stack and self.state:
            raise click.UsageError("--stack is in AWS and --state is on this machine: give only one of them.")
        # The command line has precedence over the environment.
        stack = self.stack or (None if self.state else os.environ.get(STACK_VARIABLE))
        if stack:
            return account_function(stack, self.region, self.profile, read_timeout)
        if self.region or self.profile:
            raise click.UsageError("--region and --profile are for a stack in AWS: name it with --stack.")
        return local_function(self.state or DEFAULT_STATE, read_timeout)


pass_session = click.make_pass_decorator(Session)
