"""click's commands and groups, with the options that all of them share."""

from pathlib import Path
from typing import Any

import click

from sluice_cli.session import DEFAULT_STATE, STACK_VARIABLE, Session


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    # What is given later, after the subcommand, replaces what was given before; what is left out changes nothing.
    if value:
        assert param.name is not None
        setattr(ctx.ensure_object(Session), param.name, value)


def _shared(*names: str, **how: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_remember, **how)


def shared_options(*, hidden: bool) -> list[click.Option]:
    """The options that stand before the subcommand or after it."""
    return [
        _shared(
            "--stack",
            metavar="NAME",
            hidden=hidden,
            help=f"A CloudFormation stack in AWS; default: the environment's {STACK_VARIABLE}, else the local stack.",
        ),
        _shared("--region", metavar="NAME", hidden=hidden, help="The stack's AWS region."),
        _shared("--profile", metavar="NAME", hidden=hidden, help="The AWS profile to use."),
        _shared(
            "--state",
            type=click.Path(path_type=Path),
            metavar="DIR",
            hidden=hidden,
            help=f"The folder of the local stack, which `make run` starts; default: {DEFAULT_STATE}.",
        ),
        _shared(
            "--json",
            "as_json",
            is_flag=True,
            help="Print the operation's result as JSON and nothing else; failures as JSON too, on standard error.",
        ),
    ]


class Command(click.Command):
    """A command that takes the shared options too; its help shows only --json of them."""

    def __init__(self, *arguments: Any, **how: Any) -> None:
        super().__init__(*arguments, **how)
        self.params += shared_options(hidden=True)


class Group(click.Group):
    """A group of such commands.

    Attributes:
        hides_shared: whether its help, too, leaves them to the root's.
    """

    command_class = Command
    hides_shared = True

    def __init__(self, *arguments: Any, **how: Any) -> None:
        super().__init__(*arguments, **how)
        self.params += shared_options(hidden=self.hides_shared)
