"""Which schemas are refused when a request is accepted, and that any schema is answered for."""

import json
import subprocess
import sys
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sluice.structured.rules import MAX_BYTES, SchemaRefusedError, check_schema, compiled

D2020 = "https://json-schema.org/draft/2020-12/schema"
D2019 = "https://json-schema.org/draft/2019-09/schema"
D7 = "http://json-schema.org/draft-07/schema"


def refusal(schema: Any) -> str:
    """Why a schema is refused; a text is taken as it is."""
    with pytest.raises(SchemaRefusedError) as refused:
        check_schema(schema if isinstance(schema, str) else json.dumps(schema))
    reason = refused.value.reason
    assert len(reason) <= 200
    assert reason.isprintable()
    return reason


def wrapped(schema: dict[str, Any], levels: int, keyword: str) -> dict[str, Any]:
    for _ in range(levels):
        schema = {keyword: schema}
    return schema


def doubled(steps: int, **more: Any) -> dict[str, Any]:
    """Definitions of which each uses the next one twice: 2 to the power of steps when expanded."""
    refs: list[Any] = [[{"$ref": f"#/$defs/{step + 1}"}] * 2 for step in range(steps)]
    made = {str(step): {"allOf": ref, **more} for step, ref in enumerate(refs)}
    return {"$defs": {**made, str(steps): {}}, "$ref": "#/$defs/0"}


# What is accepted ------------------------------------------------------------------------------------------------------

ACCEPTED: dict[str, Any] = {
    "any": {},
    "boolean": True,
    "what pydantic writes": {
        "$defs": {"Item": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}},
        "type": "object",
        "title": "Order",
        "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Item"}}, "at": {"format": "date-time"}},
        "additionalProperties": False,
    },
    "tree": {"properties": {"left": {"$ref": "#"}, "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
    "anchor": {"$defs": {"a": {"$anchor": "name", "type": "string"}}, "items": {"$ref": "#name"}},
    "dynamic anchor": {"$dynamicAnchor": "node", "items": {"$dynamicRef": "#node"}},
    "reference to a keyword that is not known": {"x-parts": {"a": {"type": "string"}}, "$ref": "#/x-parts/a"},
    "escaped reference": {"$defs": {"a/b~c %": {}}, "$ref": "#/$defs/a~1b~0c%20%25"},
    "address at the top": {"$id": "https://example.com/a", "$defs": {"a": {}}, "$ref": "#/$defs/a"},
    "address of the meta-schema": {"$id": D2020, "$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"},
    "members called $id and $schema": {"properties": {"$id": {"type": "string"}, "$schema": {"const": "x"}}},
    "2020-12": {"$schema": D2020},
    "2019-09": {"$schema": D2019 + "#", "items": {"$recursiveRef": "#"}},
    "draft 7": {"$schema": D7 + "#", "definitions": {"a": {}}, "items": [{"$ref": "#/definitions/a"}]},
    "the same $schema inside": {"$schema": D7, "properties": {"a": {"$schema": D7}}},
    "64 levels": wrapped({}, 63, "items"),
    "huge numbers": {"maxItems": 10**300, "maximum": 1e308},
    "unevaluated": {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
    "patterns": {"pattern": r"^\d{4}-\d\d$", "patternProperties": {r"^\p{L}{1,20}$": {}, "^.{1,255}$": {}}},
    "unknown formats": {"format": "my own"},
    "data that looks like a schema": {"const": {"$ref": "elsewhere", "pattern": "(?=a)"}, "default": {"type": 7}},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    check_schema(json.dumps(ACCEPTED[name]))


def test_the_limit_is_64_kibibytes_of_utf_8() -> None:
    least = len(json.dumps({"title": ""}))
    check_schema(json.dumps({"title": "a" * (MAX_BYTES - least)}))
    assert "too large" in refusal(json.dumps({"title": "a" * (MAX_BYTES - least + 1)}))
    assert "too large" in refusal(json.dumps({"title": "ä" * (MAX_BYTES // 2)}, ensure_ascii=False))


# What is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", '{"a": 1} x', "[" * 100_000, '{"minimum": NaN}'])
def test_no_json(text: str) -> None:
    assert "cannot be read" in refusal(text) or "too large" in refusal(text)


@pytest.mark.parametrize(
    "text",
    ['{"type": "object", "type": "string"}', '{"maximum": 1e400}', '{"title": "\\u0000"}', '{"title": "\\ud800"}'],
)
def test_json_that_not_every_reader_reads_alike(text: str) -> None:
    assert "cannot be read" in refusal(text)


@pytest.mark.parametrize("text", ["[]", "null", "1", '"string"'])
def test_neither_object_nor_boolean(text: str) -> None:
    assert "object or a boolean" in refusal(text)


def test_nested_too_deeply() -> None:
    assert "64 levels" in refusal(wrapped({}, 64, "items"))


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$recursiveRef"])
@pytest.mark.parametrize("reference", ["https://example.com/a", D2020, "other.json", "", "file:a", "?a#/b", " #"])
def test_references_that_leave_the_schema(keyword: str, reference: str) -> None:
    assert refusal({"items": {keyword: reference}}).startswith("At /items: a reference must begin with #")


@pytest.mark.parametrize(
    "reference", ["#/$defs/b", "#/items/0", "#name", "#/$defs/a/0", "#/%FF", "#/allOf/1", "#/allOf/x"]
)
def test_references_that_point_nowhere(reference: str) -> None:
    reason = refusal({"$defs": {"a": {}}, "allOf": [{}], "not": {"properties": {"x": {"$ref": reference}}}})
    assert reason == "At /not/properties/x: its reference points nowhere; define what it names."


def test_references_that_only_we_would_follow() -> None:
    """A name in data or of another draft, an index that is none: what is compiled is what was counted, or nothing."""
    for schema in (
        {"$schema": D7, "definitions": {"a": {"$anchor": "name"}}, "items": {"$ref": "#name"}},
        {"const": {"$anchor": "name"}, "items": {"$ref": "#name"}},
        {"allOf": [{}, {}], "items": {"$ref": "#/allOf/-1"}},
        {"$defs": {"a": {"$anchor": "name"}}, "items": {"$ref": "#na%6De"}},
    ):
        assert "points nowhere in this version" in refusal(schema)


@pytest.mark.parametrize("reference", ["#/$defs/a b", "#/$defs/ä", "#/$defs/%", "#/$defs/%zz", "#/$defs/a#b", "#\\"])
def test_references_that_must_be_encoded(reference: str) -> None:
    assert "percent-encoded" in refusal({"$defs": {"a b": {}, "ä": {}, "%": {}, "%zz": {}}, "$ref": reference})


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("#/$defs/a%20b", "a b"), ("#/$defs/a~1b", "a/b"), ("#/$defs/a%7E1b", "a/b"), ("#/%24defs/a~01", "a~1"),
        ("#/$defs/%2525", "%25"), ("#/$defs/%41", "A"), ("#/$defs/+", "+"), ("#/$defs/", ""), ("#/$defs/%C3%A4", "ä"),
        ("#/$defs/a?b", "a?b"), ("#/$defs/~2", "~2"),
    ],
)  # fmt: skip
def test_what_is_compiled_is_what_was_counted(reference: str, name: str) -> None:
    names = {"a b", "a/b", "a~1", "%25", "%", "A", "%41", "+", " ", "", "ä", "a?b", "~2", "a", name}
    definitions: dict[str, Any] = {each: {"const": each} for each in names - {name}}
    definitions[name] = {"anyOf": [{"$ref": "#/x/0"}] * 7}
    for counted in (True, False):
        # Only the definition that is meant is too much.
        many = {"x": [{"anyOf": [{"const": name}] * (2000 if counted else 1)}], "$defs": definitions, "$ref": reference}
        if counted:
            assert "checks" in refusal(many)
        else:
            assert compiled(json.dumps(many)).is_valid(name)


@pytest.mark.parametrize("reference", ["#/title", "#/required", "#/allOf", "#/required/0", "#/maximum"])
def test_references_to_what_is_no_schema(reference: str) -> None:
    schema = {"title": "a", "required": ["b"], "maximum": 1, "allOf": [{}], "items": {"$ref": reference}}
    assert "no schema" in refusal(schema)


@pytest.mark.parametrize("reference", ["#/const", "#/enum/0", "#/default", "#/examples/0"])
def test_data_is_checked_where_it_is_referred_to(reference: str) -> None:
    evil = {"$ref": "https://example.com"}
    schema = {"const": evil, "enum": [evil], "default": evil, "examples": [evil], "items": {"$ref": reference}}
    assert "must begin with #" in refusal(schema)


@pytest.mark.parametrize("address", ["https://example.com/a", "#a", "a", D2020, ""])
def test_parts_with_an_address_of_their_own(address: str) -> None:
    assert refusal({"$defs": {"a": {"$id": address}}}).startswith("At /$defs/a: $id is allowed at the top only")
    assert "$id is allowed" in refusal({"x-unknown": [{"$id": address}]})


def test_parts_with_a_dialect_of_their_own() -> None:
    assert "$schema is allowed at the top only" in refusal({"$schema": D2020, "items": {"$schema": D7}})
    assert "$schema is allowed at the top only" in refusal({"items": {"$schema": D7}})


def test_two_parts_with_one_name() -> None:
    assert "each its own" in refusal({"$defs": {"a": {"$anchor": "n"}, "b": {"$anchor": "n"}}})
    assert "each its own" in refusal({"$defs": {"a": {"$anchor": "n"}, "b": {"$dynamicAnchor": "n"}}})


@pytest.mark.parametrize(
    "dialect",
    [
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/schema#",
        "https://example.com",
        D2020 + "##",
        7,
    ],
)
def test_other_dialects(dialect: Any) -> None:
    assert "$schema must name" in refusal({"$schema": dialect})


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "text"}, "/type"),
        ({"properties": {"a/b": {"type": 7}}}, "/properties/a~1b/type"),
        ({"items": {"required": "a"}}, "/items/required"),
        ({"maxItems": -1}, "/maxItems"),
        ({"maxItems": 1.5}, "/maxItems"),
        ({"multipleOf": 0}, "/multipleOf"),
        ({"enum": 1}, "/enum"),
        ({"properties": []}, "/properties"),
        ({"allOf": []}, "/allOf"),
        ({"$ref": 1}, "/$ref"),
        ({"$id": 1}, "/$id"),
        ({"properties": {"pattern": 7}}, "/properties/pattern"),
        ({"patternProperties": {"a": 7}}, "/patternProperties/a"),
        ({"additionalProperties": "no"}, "/additionalProperties"),
    ],
)
def test_keywords_with_values_that_they_cannot_have(schema: Any, pointer: str) -> None:
    assert refusal(schema) == f"At {pointer}: this is not what JSON Schema allows here."


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"(?<n>a)\k<n>",  # not in linear time
        "(", "[", "*", "a{2,1}", r"\p{Nonsense}",  # wrong
        "a{1000}{1000}", r"((\w{100}){100}){100}", r"\p{L}{1000}", "(" * 4000 + ")" * 4000,  # too large
    ],
)  # fmt: skip
def test_patterns(pattern: str) -> None:
    assert "At /items/pattern: this regular expression is wrong" in refusal({"items": {"pattern": pattern}})
    assert "this regular expression is wrong" in refusal({"patternProperties": {pattern: True}})


def test_too_many_patterns() -> None:
    check_schema(json.dumps({"allOf": [{"pattern": f"a{number}"} for number in range(128)]}))
    check_schema(json.dumps({"allOf": [{"pattern": "a"} for _ in range(1000)]}))
    assert "regular expressions" in refusal({"allOf": [{"pattern": f"a{number}"} for number in range(129)]})
    assert "regular expressions" in refusal({"pattern": "a" * 8193})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"not": {"$ref": "#"}},
        {"if": {"$dynamicRef": "#"}},
        {"dependentSchemas": {"a": {"$ref": "#"}}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
        {"$dynamicAnchor": "a", "oneOf": [{"$dynamicRef": "#a"}]},
        {"$schema": D2019, "$recursiveAnchor": True, "allOf": [{"$recursiveRef": "#"}]},
        {"$ref": "#", "unevaluatedProperties": False},
    ],
)
def test_parts_that_apply_themselves_to_the_same_value(schema: Any) -> None:
    assert "applies itself to the same value again" in refusal(schema)


@pytest.mark.parametrize("steps", [14, 100, 800])
def test_schemas_that_grow_when_they_are_expanded(steps: int) -> None:
    assert "more than 10000 checks" in refusal(doubled(steps))
    if steps < 800:  # it is too long otherwise
        assert "more than 10000 checks" in refusal(doubled(steps, unevaluatedProperties=False))


def test_as_many_checks_as_are_allowed() -> None:
    check_schema(json.dumps(doubled(11)))


def test_unevaluated_over_too_much() -> None:
    chain = {str(step): {"unevaluatedItems": False, "$ref": f"#/$defs/{step + 1}"} for step in range(100)}
    assert "use additionalProperties" in refusal({"$defs": {**chain, "100": {}}})


def test_a_long_pointer_is_cut() -> None:
    name = "n" * 500 + "\n"
    assert "…nnn" in refusal({"properties": {name: {"type": 7}}})


# Any schema ------------------------------------------------------------------------------------------------------------

names = st.sampled_from([
    "$anchor", "$defs", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef", "$ref", "$schema",
    "a", "additionalProperties", "allOf", "anyOf", "const", "contains", "dependencies", "dependentSchemas", "enum",
    "format", "if", "items", "maxItems", "minimum", "multipleOf", "not", "oneOf", "pattern", "patternProperties",
    "prefixItems", "properties", "propertyNames", "required", "then", "type", "unevaluatedItems",
    "unevaluatedProperties",
])  # fmt: skip
words = st.sampled_from(["#", "#/$defs/a", "#a", "a", "object", "#/allOf/0", "(", "^a+$", D2020, D2019, D7, "http://a"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=3), inner, max_size=4),
    max_leaves=25,
)
schemas = st.dictionaries(names, anything, max_size=6)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(schema=anything | schemas)
def test_any_json_is_accepted_or_refused(schema: Any) -> None:
    """Nothing else is raised, and what is accepted is a schema for another implementation too."""
    text = json.dumps(schema)
    try:
        check_schema(text)
    except SchemaRefusedError:
        return
    # Without its $id, of which nothing is asked but that it is a text.
    if isinstance(schema, dict) and not {"$schema", "$id"} & set(schema):
        Draft202012Validator.check_schema(schema)


@given(text=st.text())
def test_any_text_is_accepted_or_refused(text: str) -> None:
    try:
        check_schema(text)
    except SchemaRefusedError:
        return
    assert isinstance(json.loads(text), dict | bool)


# The largest schemas ---------------------------------------------------------------------------------------------------


def chain(length: int, levels: int, keyword: str) -> dict[str, Any]:
    """Definitions of so many levels, each of which refers to the next one at its bottom."""
    made: dict[str, Any] = {str(length): {}}
    for step in range(length):
        made[str(step)] = wrapped({"$ref": f"#/$defs/{step + 1}"}, levels, keyword)
    return {"$defs": made, "$ref": "#/$defs/0"}


@pytest.mark.parametrize(
    ("length", "levels", "keyword"),
    [(110, 55, "not"), (100, 55, "items"), (45, 55, "additionalProperties"), (90, 10, "unevaluatedProperties")],
)
def test_deep_schemas_do_not_overflow_the_stack(length: int, levels: int, keyword: str) -> None:
    """In a process of its own, with half of the stack that a thread has: a crash fails this test alone."""
    program = (
        "import sys, threading; threading.stack_size(4 << 20)\n"
        "from sluice.structured.rules import check_schema\n"
        "thread = threading.Thread(target=check_schema, args=(sys.stdin.read(),)); thread.start(); thread.join()\n"
        "print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(chain(length, levels, keyword), separators=(",", ":")),
        env={"PYTHONPATH": ":".join(path or "." for path in sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": list(range(10_000))},
        {"properties": {str(number): {"$ref": "#"} for number in range(2000)}},
        {"anyOf": [{"items": {"$ref": "#"}}] * 2000},
        {"required": [str(number) for number in range(6000)]},
        wrapped({"enum": list(range(9000))}, 60, "not"),
        {"allOf": [{"pattern": rf"(?i){number}[\pL\pM\pN]"} for number in range(128)]},
    ],
)
def test_wide_schemas(schema: Any) -> None:
    check_schema(json.dumps(schema, separators=(",", ":")))


# What accepting does not do --------------------------------------------------------------------------------------------


def test_nothing_is_loaded_before_it_is_needed() -> None:
    program = "import sys, sluice.structured.rules, sluice.structured.validator; print('jsonschema_rs' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(path or "." for path in sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_formats_are_annotations_in_every_draft() -> None:
    for dialect in (D2020, D2019, D7):
        made = compiled(json.dumps({"$schema": dialect, "format": "date-time"}))
        assert isinstance(made, jsonschema_rs.Validator)
        assert made.is_valid("tomorrow")
