"""The command `sluice`: its options, its subcommands and its exit codes."""

import errno
from typing import Any

import click

from sluice_cli.commands import COMMANDS
from sluice_cli.errors import CommandError
from sluice_cli.groups import Group
from sluice_cli.session import Session

_HELP = """
Manage users, keys, limits, prices, requests, usage and the audit log of a Sluice deployment.

Without --stack, commands go to the local stack that `make run` started in this folder. With --stack, they go to the
stack of that name in AWS, which needs the permissions lambda:InvokeFunction and cloudformation:DescribeStacks. The
options below may be given before or after the subcommand.

Results go to standard output, everything else to standard error. Times are in UTC.

\b
Exit codes:
  0    done
  1    refused or failed: one line says what and what to do; with --json it
       is an object with `code` and `detail`, for a refusal the problem
       details (RFC 9457). Also if `verify` finds a problem.
  2    wrong usage
  130  interrupted
"""


class Root(Group):
    """The root group. It turns failures into one line and an exit code."""

    hides_shared = False

    def invoke(self, ctx: click.Context) -> Any:
        session = ctx.ensure_object(Session)
        try:
            return super().invoke(ctx)
        except CommandError as error:
            click.echo(error.as_json() if session.as_json else f"sluice: {error}", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click exits silently
            reason = CommandError("output_failed", f"The output cannot be written: {error.strerror}.")
            click.echo(f"sluice: {reason}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("sluice: Interrupted.", err=True)
            ctx.exit(130)


cli = Root("sluice", commands={command.name or "": command for command in COMMANDS}, help=_HELP)
