"""One run of `sluice`: the deployment that it calls, and the output."""

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
# Rollups and verification may take as long as the admin function's timeout (330 s); the rest is a margin.
LONG_READ_SECONDS = 340.0

View = Callable[[Any], str]


@dataclass
class Session:
    """The shared options, and what depends on them."""

    stack: str | None = None
    region: str | None = None
    profile: str | None = None
    state: Path | None = None
    as_json: bool = False
    _function: AdminFunction | None = field(default=None, repr=False)

    def run(self, operation: str, arguments: Mapping[str, object], read_timeout: float = READ_SECONDS) -> Any:
        """Run an operation and return its result.

        Raises:
            CommandError: the operation failed or was refused.
        """
        if self._function is None:
            self._function = self._find(read_timeout)
        return self._function.run(operation, arguments)

    def show(
        self, operation: str, arguments: Mapping[str, object], view: View, read_timeout: float = READ_SECONDS
    ) -> Any:
        """Run an operation, print its result as JSON or through the view, and return it.

        Raises:
            CommandError: the operation failed or was refused.
        """
        result = self.run(operation, arguments, read_timeout)
        self.print(result, view)
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
            click.echo(sentence, err=True)

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
