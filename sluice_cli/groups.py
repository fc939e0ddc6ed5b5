"""Commands and groups of click, with the options that all of them share."""

from pathlib import Path
from typing import Any

import click

from sluice_cli.session import DEFAULT_STATE, STACK_VARIABLE, Session


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    # An option after the subcommand overrides the same option before it; an omitted one changes nothing.
    if value:
        assert param.name is not None
        setattr(ctx.ensure_object(Session), param.name, value)


def _shared(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_remember, **attributes)


def shared_options(*, hidden: bool) -> list[click.Option]:
    """Return the options that are accepted both before and after the subcommand."""
    return [
        _shared(
            "--stack",
            metavar="NAME",
            hidden=hidden,
            help=f"A CloudFormation stack in AWS; default: the variable {STACK_VARIABLE}, else the local stack.",
        ),
        _shared("--region", metavar="NAME", hidden=hidden, help="The stack's AWS region."),
        _shared("--profile", metavar="NAME", hidden=hidden, help="The AWS profile to use."),
        _shared(
            "--state",
            type=click.Path(path_type=Path),
            metavar="DIR",
            hidden=hidden,
            help=f"The folder of the local stack that `make run` starts; default: {DEFAULT_STATE}.",
        ),
        _shared(
            "--json",
            "as_json",
            is_flag=True,
            help="Print the operation's result as JSON and nothing else. Failures are JSON on standard error.",
        ),
    ]


class Command(click.Command):
    """A command that also accepts the shared options. Of these, its help shows only --json."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params += shared_options(hidden=True)


class Group(click.Group):
    """A group of such commands.

    Attributes:
        hides_shared: True if its help does not show the shared options either.
    """

    command_class = Command
    hides_shared = True

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params += shared_options(hidden=self.hides_shared)
