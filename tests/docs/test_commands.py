"""Commands that pages name exist: targets of make, and subcommands of `sluice` with their options."""

import re
from collections.abc import Iterator

import click
import pytest

from sluice_cli.root import cli
from tests.docs.markdown import PAGES, ROOT, Page, page, paragraphs

MAKEFILE = (ROOT / "Makefile").read_text()
CLI = page("docs/cli.md")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_exist(page: Page) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", MAKEFILE, re.MULTILINE))
    variables = set(re.findall(r"\$[({](?:or \$\()?([A-Z]+)\b", MAKEFILE))
    for code in page.code:
        for command in re.findall(r"(?<![\w./-])make((?: [a-z][a-z0-9-]*| [A-Z]+=(?:\"[^\"]*\"|\S+))+)", code):
            given = set(re.findall(r" ([A-Z]+)=", command))
            named = set(re.sub(r" [A-Z]+=(?:\"[^\"]*\"|\S+)", "", command).split())
            assert named <= targets, f"{page.name}: {code}"
            assert given <= variables, f"{page.name}: {code}"


def _usages(page: Page) -> Iterator[str]:
    """What follows `sluice` in code, one command each; lines that go on are joined."""
    blocks = [re.sub(r"\s*\\\n\s*|\n {4,}", " ", block) for block in page.blocks]
    for code in [*page.spans, *(line for block in blocks for line in block.splitlines())]:
        found = re.match(r"(?:\$ |\.venv/bin/)?sluice ((?:-|[a-z]).*)", code)
        if found:
            # Neither a comment nor what a pipe leads to belongs to the command.
            yield re.split(r"\s+#|\s+\|\s*(?=[a-z]|$)|\s+[>&]", found[1])[0]


def _resolve(words: list[str]) -> tuple[click.Command, list[click.Parameter]]:
    """The subcommand that the words begin with, and all parameters that may be given to it."""
    command: click.Command = cli
    parameters = list(command.params)
    waits_for_value = False
    for word in words:
        if waits_for_value:
            waits_for_value = False
        elif word.startswith("-"):
            option = next((each for each in parameters if word in each.opts), None)
            assert option is not None, f"there is no option {word}"
            waits_for_value = isinstance(option, click.Option) and not option.is_flag
        elif isinstance(command, click.Group):
            assert word in command.commands, f"there is no `{command.name} {word}`"
            command = command.commands[word]
            parameters += command.params
        else:
            break
    return command, parameters


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_subcommands_and_their_options_exist(page: Page) -> None:
    for usage in _usages(page):
        _, parameters = _resolve(re.sub(r"[\[\]]", " ", usage).split())
        known = {name for each in parameters for name in (*each.opts, *each.secondary_opts)} | {"--help"}
        unknown = set(_OPTION.findall(usage)) - known
        assert not unknown, f"{page.name}: `sluice {usage}` has no {unknown}"


def _commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _commands(each, *path, name)
    else:
        yield " ".join(path), command


COMMANDS = dict(_commands(cli))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_the_command_line_has_every_command_with_every_option(name: str) -> None:
    usages = [usage for usage in _usages(CLI) if f"{usage} ".startswith(f"{name} ")]
    assert usages, f"docs/cli.md lacks `sluice {name}`"
    text = " ".join(usages)
    if "LIMITS" in text:
        text += " ".join(part for part in paragraphs(CLI.prose) if part.startswith("LIMITS:"))
    shared = {option for each in cli.params for option in each.opts}
    options = {option for each in COMMANDS[name].params for option in (*each.opts, *each.secondary_opts)}
    missing = {option for option in options - shared if option.startswith("--")} - set(_OPTION.findall(text))
    assert not missing, f"docs/cli.md: `sluice {name}` lacks {missing}"
