"""The command `sluice`: its options, its subcommands, and how a run ends."""

import errno
from typing import Any

import click

from sluice_cli.commands import COMMANDS
from sluice_cli.errors import CommandError
from sluice_cli.groups import Group
from sluice_cli.session import Session

_HELP = """
Users, keys, limits, prices, requests, usage and audit of a Sluice deployment.

Without --stack it speaks to the local stack that `make run` has started from this folder. With it, to the stack of that
name in AWS, which takes the permissions lambda:InvokeFunction and cloudformation:DescribeStacks. The options below may
stand before the subcommand or after it.

Results go to standard output, everything else to standard error. Times are UTC.

\b
Exit codes:
  0    done
  1    refused or failed: one line says what and what to do; with --json it
       is an object with `code` and `detail`, for a refusal the problem
       details (RFC 9457). `verify` too, when the books do not balance.
  2    wrong usage
  130  interrupted
"""


class Root(Group):
    """The group of everything. Failures end here, as one line and an exit code."""

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
                raise  # click ends in silence
            reason = CommandError("output_failed", f"The output can not be written: {error.strerror}.")
            click.echo(f"sluice: {reason}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("sluice: Interrupted.", err=True)
            ctx.exit(130)


cli = Root("sluice", commands={command.name or "": command for command in COMMANDS}, help=_HELP)
