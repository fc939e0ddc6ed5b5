"""`sluice stats`."""

import click

from sluice_cli.groups import Group
from sluice_cli.options import DATE, given
from sluice_cli.session import Session, pass_session
from sluice_cli.tables import number, table, text

_CALIBRATION = (
    text("model_id"),
    number("answers"),
    number("forecast_tokens"),
    number("actual_tokens"),
    number("error"),
    number("bias"),
    number("above_bound"),
    number("waits"),
    number("wait_error_seconds"),
)

_WINDOWS = (text("window"), number("kept"), number("missed"), number("kept_part"))


@click.group(cls=Group)
def stats() -> None:
    """Show statistics."""


@stats.command()
@click.option("--model", metavar="MODEL", help="Only this model.")
@click.option("--start", type=DATE, help="The first day; default: the first of this month.")
@click.option("--end", type=DATE, help="The last day; default: today.")
@pass_session
def calibration(session: Session, model: str | None, start: str | None, end: str | None) -> None:
    """Show how good forecasts were, as of the last rollup.

    error is the sum of the differences between forecast and actual tokens, and bias what was forecast too much, both in
    parts of the actual tokens. above_bound counts answers with more tokens than were reserved. wait_error_seconds is
    the mean difference between estimated and actual wait, of requests that were accepted with a quote.
    """
    session.show(
        "stats.calibration", given(model_id=model, start=start, end=end), lambda rows: table(_CALIBRATION, rows)
    )


@stats.command()
@click.option("--from", "start", type=DATE, help="The first day; default: the first of this month.")
@click.option("--to", "end", type=DATE, help="The last day; default: today.")
@pass_session
def windows(session: Session, start: str | None, end: str | None) -> None:
    """Show how many requests were answered within their completion windows, as of the last rollup.

    Days are those on which requests were accepted. kept counts those that ended within their window, also those that
    failed; missed those that ended later, or expired. Cancelled requests are neither. kept_part is a part of both.
    """
    session.show("stats.windows", given(start=start, end=end), lambda rows: table(_WINDOWS, rows))
