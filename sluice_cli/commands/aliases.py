"""`sluice aliases`."""

import click

from sluice_cli.groups import Group
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, record, table, text, time

_ALIAS = (
    text("alias"),
    text("model_id"),
    text("is_active"),
    time("created_at"),
    time("updated_at"),
)


@click.group(cls=Group)
def aliases() -> None:
    """Show and set other names under which clients may ask for a model."""


@aliases.command("list")
@pass_session
def list_aliases(session: Session) -> None:
    """List the aliases. is_active tells whether the model is offered."""
    session.show("alias.list", {}, lambda found: table(_ALIAS, found))


@aliases.command("set")
@click.argument("alias", metavar="ALIAS")
@click.argument("model", metavar="MODEL")
@pass_session
def set_alias(session: Session, alias: str, model: str) -> None:
    """Let requests for ALIAS go to MODEL."""
    session.show("alias.set", {"alias": alias, "model_id": model}, _show)


@aliases.command()
@click.argument("alias", metavar="ALIAS")
@pass_session
def remove(session: Session, alias: str) -> None:
    """Remove an alias: requests for it are refused."""
    session.show("alias.remove", {"alias": alias}, _show)


def _show(alias: Row) -> str:
    return record(_ALIAS, alias)
