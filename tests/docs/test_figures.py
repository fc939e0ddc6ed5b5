"""Figures in the documentation are those of the code.

A figure with a unit says where it comes from, in a comment that is not shown: `24 hours<!-- = SOURCE -->`. SOURCE is

- a parameter of the template, whose default it is: `MaxAttempts`;
- a property of one of the template's resources: `RequestQueue.RedrivePolicy.maxReceiveCount`;
- a constant of a module: `sluice.services.process.RESERVE_SECONDS`, or its default: `sluice.config.Settings.max_attempts`;
- a file of the repository and a pattern with one group that is found there once: `functions/x.sql: at most (\\d+)`, with the
  path's end being enough.

A figure that is not in the code says so: `<!-- measured -->`, `<!-- example -->`, `<!-- computed -->`, or `<!-- AWS -->`.
"""

import importlib
import json
import re
from typing import Any

import pytest
from pydantic import BaseModel

from sluice_cli.root import cli
from tests.docs import facts
from tests.docs.markdown import PAGES, ROOT, Page, page, table
from tests.repository import files

UNITS = {
    "ms": 0.001,
    **dict.fromkeys(("s", "second", "seconds"), 1),
    **dict.fromkeys(("min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("day", "days"), 86_400),
    "kB": 1000,
    "MB": 1_000_000,
}
COUNTED = [
    "bits",
    "bytes",
    "attempts",
    "receives",
    "times",
    "rows",
    "characters",
    "tokens",
    "requests",
    "ids",
    "keys",
    "messages",
    "connections",
    "batches",
    "letters",
    "entries",
    "strings",
]
# Neither a part of a name, a path or a version, nor a heading's or a list's number.
_NUMBER = r"(?<![\w`.,/-])(?P<number>\d[\d,]*(?:\.\d+)?)"
_UNIT = rf"[ -](?:dead )?(?P<unit>{'|'.join([*UNITS, *COUNTED])})\b"
_FIGURE = re.compile(rf"{_NUMBER}{_UNIT}(?P<comment><!-- (?P<said>.*?) -->)?")
# A number without a unit may say it too.
_SOURCED = re.compile(rf"{_NUMBER}(?:{_UNIT})?`?<!-- = (?P<source>.*?) -->")
_COMMENT = re.compile(r"<!-- = (.*?) -->")
NOT_IN_CODE = {"measured", "example", "computed", "AWS"}
# A decision tells what was so when it was made, and a changelog when it was written.
PRESENT = [each for each in PAGES if not re.search(r"CHANGELOG|docs/(?:adr|history)/", each.name)]


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: page.name)
def test_every_figure_says_where_it_comes_from(page: Page) -> None:
    silent = [found[0] for found in _FIGURE.finditer(page.prose) if not found["comment"]]
    assert not silent, f"{page.name}: these figures need a comment (see {__name__}): {silent}"
    unknown = {found["said"] for found in _FIGURE.finditer(page.prose) if not found["said"].startswith("= ")}
    assert unknown <= NOT_IN_CODE


FIGURES = [
    (each.name, found["number"], found["unit"] or "", found["source"])
    for each in PAGES
    for found in _SOURCED.finditer(each.prose)
]


@pytest.mark.parametrize(("name", "number", "unit", "source"), FIGURES)
def test_figure_is_the_codes(name: str, number: str, unit: str, source: str) -> None:
    written = float(number.replace(",", ""))
    # A source may count in the unit that is written, or in seconds or bytes.
    assert value_of(source) in {written, written * UNITS.get(unit, 1)}, f"{name}: {number} {unit} is {source}"


def test_no_comment_is_overlooked() -> None:
    """A source behind something that is not read as a figure would be believed and never checked."""
    for each in PAGES:
        assert len(_COMMENT.findall(each.prose)) == sum(name == each.name for name, *_ in FIGURES), each.name


def value_of(source: str) -> float:
    """What the code says."""
    if ": " in source:
        end, _, pattern = source.partition(": ")
        (path,) = (path for path in files() if path.as_posix().endswith(f"/{end}"))
        (found,) = re.findall(pattern, path.read_text(encoding="utf-8"))
        return float(found.replace("_", ""))
    first, *rest = source.split(".")
    if first in facts.template()["Parameters"]:
        return float(facts.template()["Parameters"][first]["Default"])
    if first in facts.template()["Resources"]:
        value: Any = facts.template()["Resources"][first]["Properties"]
        for name in rest:
            value = value[name]
        return float(value)
    return _constant(source)


def _constant(source: str) -> float:
    module, _, name = source.rpartition(".")
    if module.rpartition(".")[2][:1].isupper():
        module, _, owner = module.rpartition(".")
        model = getattr(importlib.import_module(module), owner)
        assert issubclass(model, BaseModel)
        return float(model.model_fields[name].default)
    return float(getattr(importlib.import_module(module), name))


# Figures that the code has twice --------------------------------------------------------------------------------------


def test_the_view_submissions_uses_the_templates_defaults() -> None:
    """SQL cannot read the template, whose parameters only the submit function knows."""
    assert value_of("submissions.sql: 'max_attempts', ([0-9]+)") == value_of("MaxAttempts")
    assert value_of("submissions.sql: 'longest_seconds', ([0-9]+)") == value_of("RequestTtlSeconds")


def test_settings_that_are_not_given_are_the_templates_defaults() -> None:
    shared = {name: name.title().replace("_", "") for name in facts.SETTINGS}
    shared = {name: parameter for name, parameter in shared.items() if parameter in facts.template()["Parameters"]}
    assert len(shared) > 8
    for name, parameter in shared.items():
        if default := facts.SETTINGS[name]:
            assert float(default) == value_of(parameter), name


def test_the_table_of_tiers_is_the_seeds() -> None:
    seed = json.loads((ROOT / "layers/shared/sluice/sql/seed/tiers.json").read_text(encoding="utf-8"))
    expected = [
        [
            f"`{tier['tier']}`",
            *(
                f"{limit['max_requests']:,} / {limit['max_tokens']:,}"
                for limit in (tier["limits"][period] for period in ("minute", "daily", "monthly"))
            ),
            f"{tier['max_unfinished']:,}",
            f"{tier['dispatch_window']:,}",
        ]
        for tier in seed
    ]
    assert table(page("docs/operations.md").section("### Tiers and quotas"), "tier") == expected


def test_the_table_of_exit_codes_is_the_helps() -> None:
    shown = re.findall(r"^  (\d+)  ", cli.help or "", re.MULTILINE)
    assert [row[0] for row in table(page("docs/cli.md").prose, "exit code")] == shown


def test_the_defaults_of_a_new_model_are_those_of_the_database() -> None:
    rows = {row[0]: row[1] for row in table(page("docs/operations.md").section("### Models and prices"), "argument")}
    sql = (ROOT / "layers/shared/sluice/sql/functions/admin/models.sql").read_text(encoding="utf-8")
    new = dict(re.findall(r'"(\w+)": (\w+)', sql))
    assert rows["`max_tokens_default`, `max_tokens_limit`"] == f"{new['max_tokens_default']}, {new['max_tokens_limit']}"
    for name in ("overhead_tokens", "item_tokens", "image_tokens", "timeout_seconds", "is_default", "is_active"):
        assert rows[f"`{name}`"] == new[name]
