"""The command `sluice`: its options, its subcommands and its exit codes."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import click
from click.exceptions import Exit

from sluice_cli.commands import COMMANDS
from sluice_cli.errors import CommandError
from sluice_cli.groups import Group
from sluice_cli.output import abandon_output, reason, say
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
       details (RFC 9457). Also if `verify` finds a problem, or if the output
       cannot be written.
  2    wrong usage
  130  interrupted
"""


class Root(Group):
    """The root group. It turns failures into one line and an exit code."""

    hides_shared = False

    def make_context(self, *arguments: Any, **attributes: Any) -> click.Context:
        with _failing(Session()):  # the help is printed here
            return super().make_context(*arguments, **attributes)

    def invoke(self, ctx: click.Context) -> Any:
        with _failing(ctx.ensure_object(Session)):
            return super().invoke(ctx)


@contextlib.contextmanager
def _failing(session: Session) -> Iterator[None]:
    try:
        yield
    except (CommandError, OSError) as failure:
        error = failure if isinstance(failure, CommandError) else _output_failed(failure, session)
        if error is not None:
            say(error.as_json() if session.as_json else f"sluice: {error}")
        raise Exit(1) from None
    except KeyboardInterrupt:
        say("sluice: Interrupted.")
        raise Exit(130) from None


def _output_failed(failure: OSError, session: Session) -> CommandError | None:
    """Return what to say about output that cannot be written; None for a reader who has seen enough."""
    abandon_output()
    if session.has_changed:
        done = "What was asked for has been done: `sluice audit list` shows it."
    elif session.has_called and failure.errno == errno.EPIPE:
        return None  # as in `sluice audit list | head`
    else:
        done = "" if session.has_called else "Nothing was done."
    return CommandError("output_failed", f"The output cannot be written: {reason(failure)}. {done}")


cli = Root("sluice", commands={command.name or "": command for command in COMMANDS}, help=_HELP)
cli = click.version_option(package_name="sluice", message="%(prog)s %(version)s")(cli)
