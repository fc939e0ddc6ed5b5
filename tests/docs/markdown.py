"""The documentation as the tests read it: pages, their links, tables, code and paragraphs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})(?P<language>\w*)\n(?P<code>.*?)^(?P=fence)`*\s*$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def code_spans(text: str) -> list[str]:
    """What stands in backticks; a line break inside is a space."""
    return [re.sub(r"\s+", " ", code).strip() for _, code in _SPAN.findall(text)]


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[str]:
        """The content of the code blocks."""
        return [found["code"] for found in _FENCE.finditer(self.text)]

    @property
    def spans(self) -> list[str]:
        return code_spans(self.prose)

    @property
    def code(self) -> Iterator[str]:
        """Every piece of code: what stands in backticks, and the lines of the code blocks."""
        yield from self.spans
        for block in self.blocks:
            yield from block.splitlines()

    @property
    def links(self) -> list[str]:
        """The targets of all links and pictures."""
        return _LINK.findall(_SPAN.sub("", self.prose))

    @cached_property
    def anchors(self) -> set[str]:
        """The fragments that lead to a heading, as GitHub makes them."""
        found: set[str] = set()
        for heading in _HEADING.findall(self.prose):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchor, number = base, 0
            while anchor in found:
                number += 1
                anchor = f"{base}-{number}"
            found.add(anchor)
        return found

    def section(self, heading: str) -> str:
        """What stands under a heading, up to the next one of its level; without code blocks."""
        level = heading.partition(" ")[0]
        found = re.search(
            rf"^{re.escape(heading)}$\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", self.prose, re.MULTILINE | re.DOTALL
        )
        assert found, f"{self.name} has no heading {heading!r}"
        return found[1]


def tables(text: str) -> list[list[list[str]]]:
    """The tables in a text: rows of cells, the header first."""
    found: list[list[list[str]]] = []
    is_inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            is_inside = False
            continue
        if not is_inside:
            found.append([])
        is_inside = True
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if any(cell.strip("-: ") for cell in cells) or not set(line) <= set("|-: "):
            found[-1].append(cells)
    return found


def table(text: str, first_cell: str) -> list[list[str]]:
    """The rows of the table whose header begins with this cell."""
    (rows,) = [rows[1:] for rows in tables(text) if rows[0][0] == first_cell]
    return rows


def paragraphs(text: str) -> list[str]:
    """The paragraphs and list items, without tables and headings."""
    parts = [part.strip() for part in re.split(r"\n\s*\n", text)]
    return [part for part in parts if part and not part.startswith(("|", "#"))]


PAGES = [Page(path) for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])]


def page(name: str) -> Page:
    return Page(ROOT / name)
