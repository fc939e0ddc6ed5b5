"""`sluice cache`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import number, record

_FORGOTTEN = (number("forgotten"),)


@click.group(cls=Group)
def cache() -> None:
    """Forget answers that are given again to equal requests."""


@cache.command()
@click.argument("user_id", metavar="[USER]", required=False)
@click.option("--model", metavar="MODEL", help="Only answers of this model; without USER, those of all users.")
@pass_session
def purge(session: Session, user_id: str | None, model: str | None) -> None:
    """Forget the cached answers of a user, of a model, or of both. The requests that have them keep them."""
    if user_id is None and model is None:
        raise click.UsageError("Give USER, --model or both.")
    session.show("cache.purge", given(user_id=user_id, model_id=model), lambda found: record(_FORGOTTEN, found))
