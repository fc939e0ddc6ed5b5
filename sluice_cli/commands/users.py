"""`sluice users`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import AT_MOST, cleared, given
from sluice_cli.paging import Page, pages, show_pages
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Row, record, text, time

_USER = (
    text("user_id"),
    text("name"),
    text("email"),
    text("tier"),
    text("is_active"),
    time("created_at"),
    time("updated_at"),
)


@click.group(cls=Group)
def users() -> None:
    """Create and change users."""


@users.command()
@click.argument("user_id", metavar="USER")
@click.option("--name")
@click.option("--email")
@click.option("--tier", help="Default: basic.")
@pass_session
def create(session: Session, user_id: str, name: str | None, email: str | None, tier: str | None) -> None:
    """Create a user with the limits of a tier."""
    session.show("user.create", given(user_id=user_id, name=name, email=email, tier=tier), _show)


@users.command()
@click.argument("user_id", metavar="USER")
@pass_session
def show(session: Session, user_id: str) -> None:
    """Show a user."""
    session.show("user.get", {"user_id": user_id}, _show)


@users.command("list")
@click.option("--after", metavar="USER", help="Start after this user id.")
@click.option("--limit", type=AT_MOST, metavar="N", help="Show at most this many.")
@pass_session
def list_users(session: Session, after: str | None, limit: int | None) -> None:
    """List users, ordered by id."""

    def fetch(cursor: str | None, rows: int) -> Page:
        found = session.run("user.list", given(after=cursor, limit=rows))
        return Page(found, found[-1]["user_id"] if len(found) == rows else None)

    show_pages(session, pages(fetch, after, limit), _USER, lambda rows, _: rows)


@users.command()
@click.argument("user_id", metavar="USER")
@click.option("--name")
@click.option("--no-name", is_flag=True, help="Remove the name.")
@click.option("--email")
@click.option("--no-email", is_flag=True, help="Remove the e-mail address.")
@click.option("--tier", help="Changes the limits too, except the user's own (see `sluice quotas`).")
@click.option("--active/--inactive", default=None, help="Enable or disable the user's keys.")
@pass_session
def update(
    session: Session,
    user_id: str,
    name: str | None,
    no_name: bool,
    email: str | None,
    no_email: bool,
    tier: str | None,
    active: bool | None,
) -> None:
    """Change the given settings of a user."""
    changes = given(
        name=cleared("name", name, no_name), email=cleared("email", email, no_email), tier=tier, is_active=active
    )
    if not changes:
        raise click.UsageError("Give at least one option to change.")
    session.show("user.update", {"user_id": user_id, **changes}, _show)


@users.command()
@click.argument("user_id", metavar="USER")
@pass_session
def deactivate(session: Session, user_id: str) -> None:
    """Disable all of a user's keys."""
    session.show("user.deactivate", {"user_id": user_id}, _show)


@users.command()
@click.argument("user_id", metavar="USER")
@pass_session
def activate(session: Session, user_id: str) -> None:
    """Enable a user's keys again."""
    session.show("user.activate", {"user_id": user_id}, _show)


def _show(user: Row) -> str:
    return record(_USER, user)
