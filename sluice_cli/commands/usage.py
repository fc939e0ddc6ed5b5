"""`sluice usage`."""

from collections.abc import Sequence

import click

from sluice_cli.groups import Group
from sluice_cli.options import DATE, MONTH, breakdown_options, csv_text, given
from sluice_cli.paging import Page, pages
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import Column, Row, limit, member, number, record, table, text, time


def _costs(row: Row) -> str:
    return " + ".join(_amount(cost, "amount") for cost in row.get("costs", [])) or "-"


def _amount(row: Row, name: str) -> str:
    return f"{member(row, name)} {member(row, 'currency', '')}".rstrip() if row.get(name) is not None else "-"


_USER = (
    text("user_id"),
    text("tier"),
    number("unfinished.requests", "unfinished"),
    number("unfinished.max_requests", "max_unfinished"),
    number("files.bytes", "file_bytes"),
    limit("files.max_bytes", "max_file_bytes"),
    text("start"),
    text("end"),
)
_LIMIT = (
    text("period"),
    number("requests_used"),
    limit("max_requests"),
    limit("requests_remaining"),
    number("tokens_used"),
    number("tokens_reserved"),
    limit("max_tokens"),
    limit("tokens_remaining"),
    time("resets_at"),
)
_BUDGET = (
    text("key_id", "key", null="all"),
    text("model", null="all"),
    text("period"),
    number("amount_used"),
    number("amount_reserved"),
    number("max_amount"),
    number("amount_remaining"),
    text("currency"),
    time("resets_at"),
)
# By what a line for each part of a day or a month is named.
_SPLITS = {"models": text("model"), "keys": text("key_id"), "tags": text("tag_value")}
_TOKENS = (number("requests"), number("prompt_tokens"), number("completion_tokens"), number("total_tokens"))
_COSTS = (Column("cost", _costs, is_number=True), number("unpriced_tokens"))
_COMPARED = (
    text("user_id"),
    text("tier"),
    number("months"),
    number("max_requests"),
    number("max_tokens"),
    text("recommended_tier"),
)


@click.group(cls=Group)
def usage() -> None:
    """Show usage and its cost."""


@usage.command()
@click.argument("user_id", metavar="USER")
@click.option("--start", type=DATE, help="The first day; default: the first of this month.")
@click.option("--end", type=DATE, help="The last day; default: today.")
@click.option("--by-model", is_flag=True, help="Show a line for each model instead of totals.")
@breakdown_options
@click.option("--csv", "as_csv", is_flag=True, help="Print the service's CSV: a line for each day.")
@pass_session
def show(
    session: Session,
    user_id: str,
    start: str | None,
    end: str | None,
    by_model: bool,
    by_key: bool,
    by_tag: str | None,
    as_csv: bool,
) -> None:
    """Show a user's limits, and usage and costs by day and by whole month."""
    if by_model + by_key + (by_tag is not None) > 1:
        raise click.UsageError("Give only one of --by-model, --by-key, --by-tag.")
    arguments = given(
        user_id=user_id,
        start=start,
        end=end,
        by_key=by_key or None,
        by_tag=by_tag,
        format="csv" if as_csv else None,
    )
    split = "models" if by_model else "keys" if by_key else "tags" if by_tag is not None else None
    session.show("usage.get", arguments, csv_text if as_csv else lambda found: _show(found, split))


@usage.command()
@click.option("--user", metavar="USER", help="Only this user.")
@click.option("--start", type=MONTH, help="The first month; default: eleven months ago.")
@click.option("--end", type=MONTH, help="The last month; default: this one.")
@pass_session
def tiers(session: Session, user: str | None, start: str | None, end: str | None) -> None:
    """Compare users' usage with the limits and cost of each tier.

    A cost marked * is of a tier whose limits are too low for the usage.
    """
    arguments = given(user_id=user, start_month=start, end_month=end)

    def fetch(cursor: str | None, rows: int) -> Page:
        found = session.run("usage.tiers", {**arguments, **given(after=cursor, limit=rows)})
        return Page(found, found[-1]["user_id"] if len(found) == rows else None)

    # Not page by page: the columns are known only when all users are.
    users = [row for page in pages(fetch, None, None) for row in page.rows]
    session.print(users, _show_compared)


def _show(usage: Row, split: str | None) -> str:
    parts = [record(_USER, usage), table(_LIMIT, usage.get("limits", []))]
    if usage.get("budgets"):
        parts.append(table(_BUDGET, usage["budgets"]))
    for spans, name in (("days", "day"), ("months", "month")):
        rows = usage.get(spans, [])
        if split is None:
            parts.append(table((text(name), *_tokens(rows), *_COSTS), rows))
        else:
            lines = _parts(rows, name, split)
            parts.append(table((text(name), _SPLITS[split], *_tokens(lines), *_COSTS), lines))
    return "\n\n".join(parts)


def _tokens(rows: Sequence[Row]) -> tuple[Column, ...]:
    """Their columns; those of the prompt from a cache and for reasoning only if there are any."""
    known = (name for name in ("cached_tokens", "reasoning_tokens") if any(row.get(name) for row in rows))
    return (*_TOKENS, *map(number, known))


def _parts(spans: Sequence[Row], name: str, split: str) -> list[Row]:
    return [{name: span.get(name), **part} for span in spans for part in span.get(split, [])]


def _show_compared(users: list[Row]) -> str:
    # In the order of the service.
    names = list(dict.fromkeys(str(tier.get("tier")) for user in users for tier in user.get("tiers", [])))
    return table((*_COMPARED, *map(_tier_column, names)), users)


def _tier_column(name: str) -> Column:
    def cell(user: Row) -> str:
        for tier in user.get("tiers", []):
            if tier.get("tier") == name:
                return _amount(tier, "cost") + ("" if tier.get("fits") else " *")
        return "-"

    return Column(f"cost_{name}", cell, is_number=True)
