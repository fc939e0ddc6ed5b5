"""What a schema refers to, and how many of its parts apply to one value: counted before anything is compiled.

A schema of a few kilobytes can ask for more checks than there are atoms: each definition uses the next one twice. So
the parts are counted with all that they refer to, without expanding them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final
from urllib.parse import unquote

# Keywords whose values are schemas, lists of schemas, or schemas by name, in any of the supported drafts.
_ONE_OR_MANY: Final = frozenset((
    "additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "contentSchema", "else", "if", "items",
    "not", "oneOf", "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
))  # fmt: skip
_NAMED: Final = frozenset(
    ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
)
# Of these, the ones that apply to the value itself and not to something in it.
_IN_PLACE: Final = frozenset(
    ("allOf", "anyOf", "dependencies", "dependentSchemas", "else", "if", "not", "oneOf", "then")
)
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")
_FRAGMENT: Final = re.compile(r"#(?:[\w.~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*", re.ASCII)


class ReferenceRefusedError(ValueError):
    """A reference cannot be used, or a part of the schema must not say what it is called.

    Attributes:
        pointer: JSON pointer of the part.
        problem: what is wrong and what to do, without a full stop.
    """

    def __init__(self, pointer: str, problem: str) -> None:
        super().__init__(problem)
        self.pointer = pointer
        self.problem = problem


@dataclass
class Shape:
    """What was counted of a schema.

    Attributes:
        patterns: its different regular expressions.
        checks: by part, how many parts apply to one value at once, itself and what it refers to included.
        unevaluated: the same, added up over the parts with `unevaluated…`, each of which compiles all of them again.
    """

    patterns: set[str] = field(default_factory=set)
    checks: int = 0
    unevaluated: int = 0


def shape(schema: dict[str, Any]) -> Shape:
    """Follow all references of a schema, and count.

    Raises:
        ReferenceRefusedError: a reference leaves the document or points at no schema; a part gives itself an address or
            a dialect of its own, or a name that another has; a part applies itself to the same value again.
    """
    anchors = _anchors(schema)
    found = Shape()
    pointers = {id(schema): ""}
    applied: dict[int, set[int]] = {}
    uses: dict[int, list[int]] = {}
    unevaluated: list[int] = []
    waiting: list[dict[str, Any]] = [schema]
    while waiting:
        part = waiting.pop()
        here = id(part)
        uses[here] = []
        for keyword, pointer, child in _children(part, pointers[here], schema, anchors):
            if id(child) not in pointers:
                pointers[id(child)] = pointer
                waiting.append(child)
            if keyword in _IN_PLACE or keyword in _REFERENCES:
                uses[here].append(id(child))
        applied[here] = set(uses[here])
        if "unevaluatedItems" in part or "unevaluatedProperties" in part:
            unevaluated.append(here)
        found.patterns |= _patterns(part)
    try:
        order = list(TopologicalSorter(applied).static_order())
    except CycleError as error:
        first = min(error.args[1], key=lambda part: len(pointers[part]))
        problem = "this applies itself to the same value again; refer to it from a member or an item only"
        raise ReferenceRefusedError(pointers[first], problem) from None
    checks: dict[int, int] = {}
    for one in order:
        checks[one] = 1 + sum(checks[used] for used in uses[one])
    found.checks = max(checks.values())
    found.unevaluated = sum(checks[one] for one in unevaluated)
    return found


def joined(path: list[str | int]) -> str:
    """The JSON pointer of a path."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _anchors(schema: dict[str, Any]) -> dict[str, Any]:
    """The parts that have names. Looks everywhere, because what an address or a dialect changes is hard to follow."""
    named: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        pointer, value = waiting.pop()
        if isinstance(value, list):
            waiting += ((f"{pointer}/{index}", item) for index, item in enumerate(value))
        if not isinstance(value, dict):
            continue
        waiting += ((pointer + joined([name]), member) for name, member in value.items())
        if value is not schema:
            if isinstance(value.get("$id"), str):
                raise ReferenceRefusedError(pointer, "$id is allowed at the top only; use $defs and refer to #/$defs/…")
            if isinstance(value.get("$schema"), str) and value["$schema"] != schema.get("$schema"):
                raise ReferenceRefusedError(pointer, "$schema is allowed at the top only")
        for keyword in _ANCHORS:
            name = value.get(keyword)
            if isinstance(name, str) and named.setdefault(name, value) is not value:
                raise ReferenceRefusedError(pointer, f"another part has the same {keyword}; give each its own")
    return named


def _children(
    part: dict[str, Any], pointer: str, schema: dict[str, Any], anchors: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The schemas in a part and those that it refers to, each with the keyword and its pointer."""
    for keyword, value in part.items():
        there = pointer + joined([keyword])
        inside: list[tuple[str, Any]] = []
        if keyword in _REFERENCES and isinstance(value, str):
            inside = [_target(value, pointer, schema, anchors)]
        elif keyword in _NAMED and isinstance(value, dict):
            inside = [(there + joined([name]), member) for name, member in value.items()]
        elif keyword in _ONE_OR_MANY and isinstance(value, list):
            inside = [(f"{there}/{index}", item) for index, item in enumerate(value)]
        elif keyword in _ONE_OR_MANY:
            inside = [(there, value)]
        for where, child in inside:
            if isinstance(child, dict):
                yield keyword, where, child


def _target(reference: str, pointer: str, schema: dict[str, Any], anchors: dict[str, Any]) -> tuple[str, Any]:
    if not reference.startswith("#"):
        raise ReferenceRefusedError(pointer, "a reference must begin with #; nothing outside the schema is read")
    if not _FRAGMENT.fullmatch(reference):
        raise ReferenceRefusedError(pointer, "its reference has a character that must be percent-encoded, as in %20")
    value: Any = schema
    try:
        path = unquote(reference[1:], errors="strict")
        if path and not path.startswith("/"):
            value = anchors[path]
        else:
            for step in path.split("/")[1:]:
                name = step.replace("~1", "/").replace("~0", "~")
                value = value[int(name)] if isinstance(value, list) else value[name]
    except (LookupError, ValueError, TypeError):
        raise ReferenceRefusedError(pointer, "its reference points nowhere; define what it names") from None
    if not isinstance(value, dict | bool):
        raise ReferenceRefusedError(pointer, "its reference points at something that is no schema")
    return path, value


def _patterns(part: dict[str, Any]) -> set[str]:
    pattern, by_pattern = part.get("pattern"), part.get("patternProperties")
    found = {pattern} if isinstance(pattern, str) else set()
    return found | set(by_pattern) if isinstance(by_pattern, dict) else found
