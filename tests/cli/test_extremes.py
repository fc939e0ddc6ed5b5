"""Every number, duration, day, month, time and price of the command line, at its extremes and beyond them.

The commands are asked for their parameters, so a new option is tried without being listed here.
"""

from collections.abc import Iterator

import click
import pytest

from sluice_cli import options
from sluice_cli.root import cli
from tests.cli.conftest import Deployment, refused
from tests.cli.test_commands import leaves

HUGE = "9" * 5000
NASTY = [
    "",
    " ",
    "-1",
    "+1",
    "0",
    "00",
    " 1",
    "1 ",
    "1_000",
    "1,000",
    "1.5",
    "1e3",
    "0x10",
    "\u0663",  # ARABIC-INDIC DIGIT THREE
    "\uff11",  # FULLWIDTH DIGIT ONE
    "\u00b2",  # SUPERSCRIPT TWO
    "9" * 18,
    "9" * 19,
    HUGE,
    f"-{HUGE}",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e-999",
    "1e999999999",
    "1e-999999999",
    "0." + "1" * 5000,
    "0s",
    "-1d",
    "1.5h",
    "1w",
    "\u0663d",
    "999999999d",
    "36500d",
    f"{HUGE}s",
    f"{HUGE}d",
    "0000-01",
    "0000-13",
    "2027-00",
    "9999-12",
    "\u0662\u0660\u0662\u0667-\u0660\u0661",
    "0000-00-00",
    "0001-01-01",
    "2027-02-30",
    "9999-12-31",
    "10000-01-01",
    "2027-01-31\n",
    "2027-01-31T24:00:00Z",
    "2027-01-31T23:59:60Z",
    "2027-01-31T12:00:00+24:00",
    "2027-01-31T12:00:00+99:99",
    "2027-W01-1T00:00:00Z",
    "20270131T120000Z",
    "2027-01-31T12:00:00,5Z",
    "2027-01-31T12:00.5Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999999-23:59",
    "2027-01-31T12:00:00." + "1" * 5000 + "Z",
    "unlimited",
    "never",
    "UNLIMITED",
    "\udcff",
]
PLACEHOLDERS = {options.Time: "2027-01-01", options.Month: "2027-01", options.Word: "never"}


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


def is_figure(parameter: click.Parameter) -> bool:
    """True for what is not just text, one of some words, a flag or a path."""
    kinds = (click.types.StringParamType, click.types.BoolParamType, click.Choice, click.Path)
    return not isinstance(parameter.type, kinds)


def placeholder(parameter: click.Parameter) -> str:
    """Any value that a required parameter accepts."""
    if isinstance(parameter.type, click.Choice):
        return str(parameter.type.choices[0])
    return next((value for kind, value in PLACEHOLDERS.items() if isinstance(parameter.type, kind)), "x")


def lines(path: tuple[str, ...], tried: click.Parameter, value: str) -> list[str]:
    """A command line that gives one parameter this value, and the other required ones any."""
    words = [*path]
    positional: list[str] = []
    for parameter in command_at(path).params:
        given = value if parameter is tried else placeholder(parameter)
        if isinstance(parameter, click.Argument) and (parameter is tried or parameter.required):
            positional.append(given)
        elif parameter is tried:
            words += [parameter.opts[0], given]
    return [*words, "--", *positional]


def figures() -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    for path in leaves(cli):
        for parameter in command_at(path).params:
            if is_figure(parameter):
                yield path, parameter


FIGURES = list(figures())


@pytest.mark.parametrize(
    ("path", "parameter"), FIGURES, ids=[f"{' '.join(path)} {each.opts[0]}" for path, each in FIGURES]
)
def test_one_sentence_whatever_is_given(
    deployment: Deployment, path: tuple[str, ...], parameter: click.Parameter
) -> None:
    for value in NASTY:
        answer = refused("invalid_input", "Not valid.")
        done = deployment.run(*lines(path, parameter, value), answers=(answer,))
        deployment.server.script.clear()
        assert isinstance(done.exception, SystemExit), (value[:50], done.exception)
        assert done.exit_code in {1, 2}
        said = done.stderr.splitlines()[-1]
        assert len(said) < 300
        if done.exit_code == 2:
            assert said.startswith("Error: ")
            assert "Usage: sluice" in done.stderr
        else:
            assert said == "sluice: Not valid."


def test_there_are_figures_in_many_commands() -> None:
    assert {path[0] for path, _ in FIGURES} >= {"audit", "invoice", "keys", "models", "prices", "quotas", "tiers"}


def test_every_figure_has_a_format_of_ours() -> None:
    """click's own take other scripts' digits, underscores and spaces, and keep numbers of any length."""
    for path, parameter in FIGURES:
        assert isinstance(parameter.type, options.Format | options.Word), (path, parameter.opts)


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [
        (options.Whole(0), {"0": 0, "007": 7, "9" * 18: 10**18 - 1}),
        (options.Whole(1), {"1": 1}),
        (options.DURATION, {"0s": 0, "90s": 90, "30m": 1800, "24h": 86_400, "36500d": 36_500 * 86_400}),
        (options.PRICE, {"0": "0", "0.035": "0.035", "1.": "1", ".5": "0.5", "1e-3": "0.001", "2.50": "2.50"}),
        (options.LIMIT, {"unlimited": options.Null.NULL, "0": 0}),
        (options.TIME_OR_NEVER, {"never": options.Null.NULL, "2027-01-31": "2027-01-31T00:00:00+00:00"}),
        (options.DATE, {"0001-01-01": "0001-01-01", "2028-02-29": "2028-02-29"}),
        (
            options.TIME,
            {
                "2027-01-31": "2027-01-31T00:00:00+00:00",
                "2027-01-31T12:00Z": "2027-01-31T12:00:00+00:00",
                "2027-01-31t12:00:00z": "2027-01-31T12:00:00+00:00",
                "2027-01-31 12:00:00+01:00": "2027-01-31T12:00:00+01:00",
                "2027-01-31T12:00:00-00:00": "2027-01-31T12:00:00+00:00",
                "2027-01-31T12:00:00.5Z": "2027-01-31T12:00:00.500000+00:00",
                "2027-01-31T12:00:00.123456Z": "2027-01-31T12:00:00.123456+00:00",
                "2027-01-31T12:00:00.1234567Z": "2027-01-31T12:00:00.123456+00:00",
                "2027-01-31T12:00:00.123456789Z": "2027-01-31T12:00:00.123456+00:00",
                "2027-01-31T12:00:00.000000999999Z": "2027-01-31T12:00:00+00:00",
                "2026-12-31T23:59:60Z": "2027-01-01T00:00:00+00:00",
                "2027-01-01T00:59:60.5+01:00": "2027-01-01T01:00:00+01:00",
            },
        ),
    ],
    ids=lambda each: each.name if isinstance(each, click.ParamType) else "",
)
def test_what_is_accepted(kind: click.ParamType, accepted: dict[str, object]) -> None:
    assert {value: kind.convert(value, None, None) for value in accepted} == accepted


REFUSED: dict[click.ParamType, str] = {
    options.Whole(0): "|-1|+1| 1|1_000|1.5|1e3|\u0663|\uff11|nan",
    options.Whole(1): "0|00|-0",
    options.DURATION: "|0|1|1w|-1d|1.5h|36501d|999999999d|\u0663d|1D",
    options.PRICE: "|-1|+1|nan|inf|1e999|1e999999999|1e|.|1_0|\u0663|0x1",
    options.TIME: "|0|2027-02-30|2027-01-31T24:00:00Z|2027-01-31T12:00:00|2027-01-31T12:00:00+24:00|20270131T120000Z"
    "|2027-01-31T12:00:60Z|2027-01-31T23:59:61Z",
    options.MONTH: "|2027-13|2027-00|2027-1|\u0662\u0660\u0662\u0667-\u0660\u0661|2027-01-01",
}


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, value) for kind, values in REFUSED.items() for value in values.split("|")],
    ids=lambda each: each.name if isinstance(each, click.ParamType) else ascii(each),
)
def test_what_is_refused(kind: click.ParamType, value: str) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(value, None, None)
