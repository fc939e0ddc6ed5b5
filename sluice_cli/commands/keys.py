"""`sluice keys`."""

import click

from sluice_cli.errors import CommandError
from sluice_cli.groups import Group
from sluice_cli.options import DURATION, TIME, TIME_OR_NEVER, Null, given
from sluice_cli.output import abandon_output, reason
from sluice_cli.session import Session, View, pass_session
from sluice_cli.tables import Row, number, record, table, text, time
from sluice_cli.vocabulary import SCOPES

_LISTED = (
    text("key_id"),
    text("key_prefix"),
    text("name"),
    text("scopes"),
    text("models", null="all"),
    number("cache_max_age"),
    time("created_at"),
    time("expires_at", null="never"),
    time("last_used_at", null="never"),
    time("revoked_at"),
)
_KEY = (text("user_id"), *_LISTED)
_NEW_KEY = (text("api_key"), *_KEY)
_SHOWN_ONCE = "This is the only time that the key is shown: store it now."


@click.group(cls=Group)
def keys() -> None:
    """Create, rotate and revoke API keys."""


@keys.command()
@click.argument("user_id", metavar="USER")
@click.option("--name", help="What the key is for.")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, help="May be repeated; default: both.")
@click.option("--expires", type=TIME, help="When the key expires; default: never.")
@click.option("--model", "models", metavar="MODEL", multiple=True, help="May be repeated; default: all models.")
@click.option(
    "--cache-max-age",
    type=DURATION,
    help="Age, like 1h, up to which answers are given again; 0s: none; default: the model's.",
)
@pass_session
def create(
    session: Session,
    user_id: str,
    name: str | None,
    scopes: tuple[str, ...],
    expires: str | None,
    models: tuple[str, ...],
    cache_max_age: int | None,
) -> None:
    """Create a key for a user. It is shown only once."""
    arguments = given(
        user_id=user_id, name=name, scopes=scopes, expires_at=expires, models=models, cache_max_age=cache_max_age
    )
    _print_new(session, session.run("key.create", arguments), lambda key: record(_NEW_KEY, key))


@keys.command("list")
@click.argument("user_id", metavar="USER")
@pass_session
def list_keys(session: Session, user_id: str) -> None:
    """List a user's keys, newest first."""
    session.show("key.list", {"user_id": user_id}, lambda found: table(_LISTED, found))


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@click.option("--overlap", type=DURATION, help="How long the old key still works, like 0s, 24h or 7d; default: 24h.")
@click.option("--expires", type=TIME, help="When the new key expires; default: when the old one would have.")
@pass_session
def rotate(session: Session, key_id: str, overlap: int | None, expires: str | None) -> None:
    """Replace a key, which expires after the overlap, by a new one. The new key is shown only once."""
    arguments = given(key_id=key_id, overlap_seconds=overlap, expires_at=expires)
    _print_new(session, session.run("key.rotate", arguments), _show_rotated)


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@click.argument("when", type=TIME_OR_NEVER, metavar="TIME|never")
@pass_session
def expire(session: Session, key_id: str, when: str | Null) -> None:
    """Set when a key expires: a time like 2027-01-31T12:00:00Z, or never."""
    session.show("key.expire", given(key_id=key_id, expires_at=when), _show)


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@pass_session
def revoke(session: Session, key_id: str) -> None:
    """Revoke a key immediately and permanently."""
    session.show("key.revoke", {"key_id": key_id}, _show)


def _print_new(session: Session, key: Row, view: View) -> None:
    """Print a new key; one that cannot be shown is revoked, since nobody will ever know it."""
    try:
        session.print(key, view)
    except OSError as error:
        abandon_output()
        detail = f"The new key cannot be shown: {reason(error)}. {_undo(session, key)}"
        raise CommandError("output_failed", detail) from error
    session.note(_SHOWN_ONCE)


def _undo(session: Session, key: Row) -> str:
    """Revoke a new key, and return what has become of it and of the one that it replaces."""
    key_id = key.get("key_id")
    try:
        session.run("key.revoke", {"key_id": key_id})
        said = f"The key {key_id} was revoked again."
    except CommandError as error:
        said = f"The key {key_id} exists: revoke it with `sluice keys revoke {key_id}` ({error})"
    if old := key.get("replaces"):
        said += (
            f" The old key {old.get('key_id')} works until {old.get('expires_at')}:"
            " `sluice keys expire` sets another time."
        )
    return said


def _show(key: Row) -> str:
    return record(_KEY, key)


def _show_rotated(key: Row) -> str:
    return record((*_NEW_KEY, text("replaces.key_id", "replaces"), time("replaces.expires_at", "replaced_until")), key)
