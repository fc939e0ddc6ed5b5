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
