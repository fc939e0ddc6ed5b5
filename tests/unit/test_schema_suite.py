"""The official test suite of JSON Schema 2020-12, and which parts of it are not supported.

Everything else in it passes: all keywords, with `format` and the `content…` keywords as annotations. What the suite calls
optional is not here: formats as assertions, and patterns as ECMAScript has them (look-around, back-references).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from sluice.structured.rules import SchemaRefusedError, check_schema
from sluice.structured.validator import Validator

SUITE: Final = Path(__file__).parent / "json_schema_suite"
FILES: Final = sorted(path.stem for path in SUITE.glob("*.json"))

# Why a group is not supported, with words of the refusal.
OWN_ADDRESS: Final = "$id is allowed at the top only"
OUTSIDE: Final = "a reference must begin with #"
NUL: Final = "U+0000"

LEFT_OUT: Final = {
    "anchor": {
        "Location-independent identifier with absolute URI": OWN_ADDRESS,
        "Location-independent identifier with base URI change in subschema": OWN_ADDRESS,
        "same $anchor with different base uri": OWN_ADDRESS,
    },
    "const": {"nul characters in strings": NUL},
    "defs": {"validate definition against metaschema": OUTSIDE},
    # Between the resources of one document; without $id there is one resource, and $dynamicRef is $ref.
    "dynamicRef": {
        "A $dynamicRef resolves to the first $dynamicAnchor still in scope that is encountered when the schema is "
        "evaluated": OWN_ADDRESS,
        "A $dynamicRef without anchor in fragment behaves identical to $ref": OWN_ADDRESS,
        "A $dynamicRef with intermediate scopes that don't include a matching $dynamicAnchor does not affect dynamic "
        "scope resolution": OWN_ADDRESS,
        "An $anchor with the same name as a $dynamicAnchor is not used for dynamic scope resolution": OWN_ADDRESS,
        "A $dynamicRef without a matching $dynamicAnchor in the same schema resource behaves like a normal $ref to "
        "$anchor": OWN_ADDRESS,
        "A $dynamicRef with a non-matching $dynamicAnchor in the same schema resource behaves like a normal $ref to "
        "$anchor": OWN_ADDRESS,
        "A $dynamicRef that initially resolves to a schema with a matching $dynamicAnchor resolves to the first "
        "$dynamicAnchor in the dynamic scope": OWN_ADDRESS,
        "A $dynamicRef that initially resolves to a schema without a matching $dynamicAnchor behaves like a normal "
        "$ref to $anchor": OWN_ADDRESS,
        "multiple dynamic paths to the $dynamicRef keyword": OWN_ADDRESS,
        "after leaving a dynamic scope, it is not used by a $dynamicRef": OWN_ADDRESS,
        "strict-tree schema, guards against misspelled properties": OUTSIDE,
        "tests for implementation dynamic anchor and reference link": OUTSIDE,
        "$ref and $dynamicAnchor are independent of order - $defs first": OUTSIDE,
        "$ref and $dynamicAnchor are independent of order - $ref first": OUTSIDE,
        "$ref to $dynamicRef finds detached $dynamicAnchor": OUTSIDE,
        "$dynamicRef skips over intermediate resources - direct reference": OWN_ADDRESS,
        "$dynamicRef avoids the root of each schema, but scopes are still registered": OWN_ADDRESS,
    },
    "enum": {"nul characters in strings": NUL},
    "ref": {
        "remote ref, containing refs itself": OUTSIDE,
        "Recursive references between schemas": OWN_ADDRESS,
        "refs with relative uris and defs": OWN_ADDRESS,
        "relative refs with absolute uris and defs": OWN_ADDRESS,
        "$id must be resolved against nearest parent, not just immediate parent": OWN_ADDRESS,
        "order of evaluation: $id and $ref": OWN_ADDRESS,
        "order of evaluation: $id and $anchor and $ref": OWN_ADDRESS,
        "order of evaluation: $id and $ref on nested schema": OWN_ADDRESS,
        "simple URN base URI with $ref via the URN": OUTSIDE,
        "URN base URI with URN and JSON pointer ref": OUTSIDE,
        "URN base URI with URN and anchor ref": OUTSIDE,
        "URN ref with nested pointer ref": OWN_ADDRESS,
        "ref to if": OWN_ADDRESS,
        "ref to then": OWN_ADDRESS,
        "ref to else": OWN_ADDRESS,
        "ref with absolute-path-reference": OWN_ADDRESS,
    },
    "unevaluatedItems": {"unevaluatedItems with $dynamicRef": OWN_ADDRESS},
    "unevaluatedProperties": {"unevaluatedProperties with $dynamicRef": OWN_ADDRESS},
}


@pytest.fixture(scope="module")
def validator() -> Iterator[Validator]:
    made = Validator()
    yield made
    made.close()


def groups(file: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((SUITE / f"{file}.json").read_text())
    return read


def test_the_suite_is_there() -> None:
    assert len(FILES) == 44
    assert sum(len(groups(file)) for file in FILES) > 300
    assert set(LEFT_OUT) <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_suite(validator: Validator, file: str) -> None:
    wrong = []
    for group in groups(file):
        if group["description"] in LEFT_OUT.get(file, ()):
            continue
        schema = json.dumps(group["schema"])
        check_schema(schema)
        for case in group["tests"]:
            fault = validator.find_fault(schema, json.dumps(case["data"]), deadline_seconds=30)
            if (fault is None) != case["valid"]:
                wrong.append((group["description"], case["description"], fault))
    assert not wrong


@pytest.mark.parametrize("file", LEFT_OUT)
def test_what_is_left_out_is_refused(file: str) -> None:
    left_out = dict(LEFT_OUT[file])
    for group in groups(file):
        reason = left_out.pop(group["description"], None)
        if reason is not None:
            with pytest.raises(SchemaRefusedError) as refused:
                check_schema(json.dumps(group["schema"]))
            assert reason in refused.value.reason
    assert not left_out
