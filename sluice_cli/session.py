"""One run of `sluice`: which deployment it speaks to, and what is printed where."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from sluice_cli.target import AdminFunction, account_function, local_function

STACK_VARIABLE = "SLUICE_STACK"
DEFAULT_STATE = Path(".local")
READ_SECONDS = 60.0
# Rollups and verification run as long as Lambda lets the admin function wait for them (330 s), and some grace.
LONG_READ_SECONDS = 340.0

View = Callable[[Any], str]


@dataclass
class Session:
    """The options that every command takes, and what follows from them."""

    stack: str | None = None
    region: str | None = None
    profile: str | None = None
    state: Path | None = None
    as_json: bool = False
    _function: AdminFunction | None = field(default=None, repr=False)

    def run(self, operation: str, arguments: Mapping[str, object], read_timeout: float = READ_SECONDS) -> Any:
        """Run an operation and return its result. CommandError if it can not be run, or is refused."""
        if self._function is None:
            self._function = self._find(read_timeout)
        return self._function.run(operation, arguments)

    def show(
        self, operation: str, arguments: Mapping[str, object], view: View, read_timeout: float = READ_SECONDS
    ) -> Any:
        """Run an operation, print its result as JSON or through the view, and return it. CommandError as `run`."""
        result = self.run(operation, arguments, read_timeout)
        self.print(result, view)
        return result

    def print(self, result: Any, view: View) -> None:
        """Print a result: as JSON or through the view."""
        if self.as_json:
            self.print_json(result)
        else:
            click.echo(view(result))

    def print_json(self, result: object) -> None:
        """Print a result for programs."""
        # Only ASCII: that is JSON in any terminal's encoding, and nothing in it acts on a terminal.
        click.echo(json.dumps(result, indent=2))

    def note(self, sentence: str) -> None:
        """Tell a person something beside the result: on standard error, and not where a program reads."""
        if not self.as_json:
            click.echo(sentence, err=True)

    def _find(self, read_timeout: float) -> AdminFunction:
        if self.stack and self.state:
            raise click.UsageError("--stack is in AWS and --state is on this machine: name one of them.")
        # What is said on the command line counts more than the environment.
        stack = self.stack or (None if self.state else os.environ.get(STACK_VARIABLE))
        if stack:
            return account_function(stack, self.region, self.profile, read_timeout)
        if self.region or self.profile:
            raise click.UsageError("--region and --profile say where in AWS to look for a stack: name it with --stack.")
        return local_function(self.state or DEFAULT_STATE, read_timeout)


pass_session = click.make_pass_decorator(Session)
