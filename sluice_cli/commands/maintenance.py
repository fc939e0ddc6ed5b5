"""`sluice verify` and `sluice rollup`."""

from collections.abc import Mapping
from typing import Any

import click

from sluice_cli.errors import CommandError
from sluice_cli.groups import Command
from sluice_cli.options import given
from sluice_cli.session import LONG_READ_SECONDS, Session, pass_session
from sluice_cli.tables import Row, number, record, table, text
from sluice_cli.vocabulary import ROLLUP_TASKS

_VERIFIED = (
    text("balanced"),
    text("full"),
    text("audit.batches", "audit_batches"),
    text("audit.rows", "audit_rows"),
    text("audit.head", "audit_head"),
)
_CHECKED = (text("checked"), number("rows"))
_VIOLATION = (
    text("invariant"),
    text("user_id"),
    text("request_id"),
    text("period"),
    number("expected"),
    number("actual"),
)
_CHAIN_PROBLEM = (
    text("audit.problem.kind", "audit_problem"),
    text("audit.problem.audit_id", "audit_id"),
    text("audit.problem.batch_no", "batch_no"),
    text("audit.problem.detail", "detail"),
)
_FIGURE = (text("task"), text("figure"), text("value"))

_full_option = click.option("--full", is_flag=True, help="Check everything, not only recent changes.")
_head_option = click.option(
    "--head", metavar="HEAD", help="An earlier audit_head: check that the audit log still has everything it had then."
)


@click.command(cls=Command)
@_full_option
@_head_option
@pass_session
def verify(session: Session, full: bool, head: str | None) -> None:
    """Check that the books balance and that the audit log is intact; exit code 1 if not.

    Store audit_head in a safe place and pass it as --head later.
    """
    result = session.show("verify", given(full=full or None, head=head), _show_verified, LONG_READ_SECONDS)
    _conclude(session, result)


@click.command(cls=Command, epilog=f"The tasks are {', '.join(ROLLUP_TASKS)}.")
@click.argument("tasks", type=click.Choice(ROLLUP_TASKS), nargs=-1, required=True, metavar="TASK...")
@_full_option
@_head_option
@pass_session
def rollup(session: Session, tasks: tuple[str, ...], full: bool, head: str | None) -> None:
    """Run scheduled tasks now, in the given order.

    --full and --head are for verify. The exit code is 1 if verify finds a problem, as with `sluice verify`.
    """
    arguments = given(tasks=tasks, full=full or None, head=head)
    result = session.show("rollup.run", arguments, _show_figures, LONG_READ_SECONDS)
    if "verify" in tasks:
        _conclude(session, result.get("verify", {}))


def _conclude(session: Session, result: Row) -> None:
    """Report that the books balance, or fail."""
    if not result.get("balanced") or result.get("audit", {}).get("problem"):
        raise CommandError("unbalanced", _verdict(result))
    session.note("The books balance.")


def _show_verified(result: Row) -> str:
    violations = result.get("violations", [])
    checked = [{"checked": what, "rows": rows} for what, rows in result.get("checked", {}).items()]
    parts = [record(_VERIFIED, result), table(_CHECKED, checked)]
    if violations:
        parts.append(table(_VIOLATION, violations))
    if result.get("audit", {}).get("problem"):
        parts.append(record(_CHAIN_PROBLEM, result))
    return "\n\n".join(parts)


def _verdict(result: Row) -> str:
    """Describe the problems in a sentence or two."""
    found = []
    if violations := result.get("violations", []):
        invariants = ", ".join(dict.fromkeys(str(each.get("invariant")) for each in violations))
        found.append(f"The books do not balance: there are violations of {invariants}.")
    if problem := result.get("audit", {}).get("problem"):
        places = {"batch": problem.get("batch_no"), "entry": problem.get("audit_id")}
        where = ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)
        found.append(f"The audit log is not intact: {problem.get('kind')} ({where}): {problem.get('detail')}")
    return " ".join(found) or "The books do not balance."


def _show_figures(result: Mapping[str, Any]) -> str:
    figures = [
        {"task": task, "figure": figure, "value": value}
        for task, values in result.items()
        for figure, value in (values if isinstance(values, Mapping) else {"result": values}).items()
    ]
    return table(_FIGURE, figures)
