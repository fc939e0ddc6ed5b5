"""Answers against schemas: what is a fault, what a model is told, and what the child process withstands."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sluice.structured.rules import check_schema
from sluice.structured.validator import Fault, Validator, answer_text

# An automaton of thousands of states at once, and a text of a million: seconds, although no pattern can take longer.
SLOW = json.dumps({"pattern": "[ab]*a[ab]{3000}c"})
SLOW_ANSWER = json.dumps("".join(random.Random(1).choices("ab", k=1_000_000)))
# Each branch goes into the same member: at n levels, there are 2 to the power of n errors.
MANY_ERRORS = json.dumps(
    {
        "anyOf": [
            {"properties": {"a": {"$ref": "#"}}, "required": ["b"]},
            {"properties": {"a": {"$ref": "#"}}, "required": ["c"]},
        ]
    }
)
OBJECT = '{"type": "object"}'


def deep(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


@pytest.fixture(scope="module")
def validator() -> Iterator[Validator]:
    made = Validator()
    yield made
    made.close()


def fault(validator: Validator, schema: Any, answer: Any) -> Fault:
    """The fault of an answer that must have one; a text is taken as it is."""
    schema_text = schema if schema is None or isinstance(schema, str) else json.dumps(schema)
    found = validator.find_fault(
        schema_text, answer if isinstance(answer, str) else json.dumps(answer), deadline_seconds=30
    )
    assert found is not None
    assert len(found.finding.encode()) <= 500
    return found


# The text of an answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ('{"a": 1}', '{"a": 1}'),
        (' \n{"a": 1}\r\n\t', '{"a": 1}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```\n', '{"a": 1}'),
        ('```json {"a": 1} ```', '{"a": 1}'),
        ('"```json"', '"```json"'),
        ('{"a": "```"}', '{"a": "```"}'),
        ("```json\n```json\n1\n```\n```", "```json\n1\n```"),
        ("Here it is: ```json\n1\n```", "Here it is: ```json\n1\n```"),
        ("```json\n1\n``` I hope it helps", "```json\n1\n``` I hope it helps"),
        ("```yaml\na: 1\n```", "yaml\na: 1"),
        ("```", "```"),
        ("``````", ""),
        ("", ""),
    ],
)
def test_answer_text(written: str, answer: str) -> None:
    assert answer_text(written) == answer


# JSON ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "", "x", "{'a': 1}", '{"a": 1,}', "1 2", "[1", "NaN", "[-Infinity]", "1e999", "-1e999", "9" * 400, "9" * 9000,
        r'"\u0000"', '"\0"', r'"\ud800"', r'{"\udc00": 1}', '"\ud800"', '{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]',
        "[" * 101 + "]" * 101, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "```json\n1\n```", "\ufeff1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("schema", [None, "true"])
def test_no_json(validator: Validator, schema: str | None, answer: str) -> None:
    assert fault(validator, schema, answer).keyword == "json"


@pytest.mark.parametrize(
    "answer",
    [
        "null",
        "1e308",
        "1e-999",
        "9" * 300,
        r'"\ud83d\ude00"',
        '"😀"',
        "[" * 100 + "]" * 100,
        '[{"a": 1}, {"a": 1}]',
        "-0",
    ],
)
def test_json(validator: Validator, answer: str) -> None:
    assert validator.find_fault("true", answer) is None


def test_a_twin_member_is_named(validator: Validator) -> None:
    assert fault(validator, None, '{"a": {"x y": 1, "x y": 1}}').finding == 'The member "x y" is there twice.'


def test_any_json_object(validator: Validator) -> None:
    assert validator.find_fault(None, '{"a": []}') is None
    for answer in ("[]", "1", '"{}"', "null"):
        assert fault(validator, None, answer) == Fault("type", "The answer must be a JSON object.")


# What a model is told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "answer", "keyword", "finding"),
    [
        ({"type": "object"}, [], "type", 'At the top: the value is not of type "object"'),
        (
            {"properties": {"a": {"items": {"type": "integer"}}}},
            {"a": [1, "secret"]},
            "type",
            'At /a/1: the value is not of type "integer"',
        ),
        ({"required": ["a"]}, {}, "required", 'At the top: "a" is a required property'),
        (
            {"additionalProperties": False, "properties": {"a": {}}},
            {"b": 1},
            "additionalProperties",
            "At the top: Additional properties are not allowed ('b' was unexpected)",
        ),
        ({"properties": {"a/b": False}}, {"a/b": 1}, "falseSchema", "At /a~1b: nothing may be here"),
        ({"enum": ["x", "y"]}, '"z"', "enum", 'At the top: the value is not one of "x" or "y"'),
        ({"pattern": "^a$"}, '"secret"', "pattern", 'At the top: the value does not match "^a$"'),
        (
            {"required": ["a", "b"], "properties": {"c": {"maximum": 3}}},
            {"c": 4},
            "required",
            """At the top: "a" is a required property
At the top: "b" is a required property
At /c: the value is greater than the maximum of 3""",
        ),
        (
            {"anyOf": [{"type": "string"}, {"properties": {"a": {"const": 1}}}]},
            {"a": 2},
            "anyOf",
            """At the top: the value is not valid under any of the schemas listed in the 'anyOf' keyword
Choice 1: At the top: the value is not of type "string"
Choice 2: At /a: 1 was expected""",
        ),
    ],
)
def test_findings(validator: Validator, schema: Any, answer: Any, keyword: str, finding: str) -> None:
    found = fault(validator, schema, answer)
    assert found.keyword == keyword
    # The order of errors is the library's.
    assert sorted(found.finding.split("\n")) == sorted(finding.split("\n"))


def test_as_many_errors_as_fit(validator: Validator) -> None:
    found = fault(validator, {"items": {"type": "string"}}, list(range(1000)))
    assert len(found.finding.encode()) == 500
    assert found.finding.startswith("At /0: ")


def test_a_finding_is_cut_at_a_character(validator: Validator) -> None:
    found = fault(validator, {"properties": {"a" + "ä" * 300: {"type": "string"}}}, {"a" + "ä" * 300: 1})
    assert found.finding.startswith("At /aää")
    names = [f"{number}" + "😀" * 50 for number in range(9)]
    assert "😀" in fault(validator, {"required": names}, {}).finding


def test_of_a_large_answer_the_first_error_is_told(validator: Validator) -> None:
    """The library copies an answer for each error: thousands of errors would be gigabytes."""
    found = fault(validator, {"required": [f"a{number}" for number in range(3000)]}, {"b": "x" * 500_000})
    assert found.keyword == "required"
    assert found.finding == 'At the top: "a0" is a required property'


def test_a_schema_that_was_not_checked(validator: Validator) -> None:
    assert fault(validator, {"type": "nonsense"}, "1").keyword == "schema"
    assert fault(validator, "{", "1").keyword == "schema"


# Against another implementation ----------------------------------------------------------------------------------------

leaves = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["string", "integer", "number", "null", "boolean", "object", "array", ["null", "string"]]
        ),
        "minimum": st.integers(-3, 3),
        "maxLength": st.integers(0, 3),
        "pattern": st.sampled_from(["^a", "b$", "^[ab]*$"]),
        "enum": st.lists(st.none() | st.integers(-2, 2) | st.sampled_from(["", "a", "ab"]), min_size=1, max_size=3),
        "format": st.sampled_from(["date-time", "email"]),
    },
)
member_names = st.sampled_from(["a", "b", "c"])
grown = st.recursive(
    leaves | st.booleans(),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(member_names, inner, max_size=3),
            "required": st.lists(member_names, max_size=2, unique=True),
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "items": inner,
            "contains": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "minItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
            "propertyNames": inner,
        },
    ),
    max_leaves=6,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 4) | st.sampled_from([0.5, 1.0, "", "a", "ab", "bbbb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(member_names, inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(schema=grown, answer=values)
def test_agrees_with_another_implementation(validator: Validator, schema: Any, answer: Any) -> None:
    schema_text = json.dumps(schema)
    check_schema(schema_text)
    found = validator.find_fault(schema_text, json.dumps(answer), deadline_seconds=30)
    assert (found is None) == Draft202012Validator(schema).is_valid(answer)


# Whatever schema and answer are ----------------------------------------------------------------------------------------


def test_a_pattern_cannot_be_made_slow(validator: Validator) -> None:
    schema = json.dumps({"pattern": "^(a+)+$"})
    assert fault(validator, schema, json.dumps("a" * 50_000 + "!")).keyword == "pattern"


def test_an_answer_that_takes_too_long(validator: Validator) -> None:
    check_schema(SLOW)
    found = validator.find_fault(SLOW, SLOW_ANSWER, deadline_seconds=0.3)
    assert found is not None
    assert found.keyword == "timeout"
    assert validator.find_fault(OBJECT, "{}", deadline_seconds=30) is None


def test_an_answer_with_too_many_errors(validator: Validator) -> None:
    """That it does not match is known, whether the time or the memory is over first."""
    check_schema(MANY_ERRORS)
    for seconds in (0.3, 30):
        found = validator.find_fault(MANY_ERRORS, deep(90), deadline_seconds=seconds)
        assert found == Fault("mismatch", "The answer does not match the schema.")
        assert validator.find_fault(OBJECT, "{}", deadline_seconds=30) is None


def test_a_schema_that_takes_too_much_stack(validator: Validator) -> None:
    """Thousands of checks in each other at each of a hundred levels: if the child dies, another one takes over."""
    inner: Any = {"items": {"$ref": "#"}}
    definitions = {}
    for step in range(130):
        for _ in range(25):
            inner = {"allOf": [inner]}
        definitions[str(step)] = inner
        inner = {"$ref": f"#/$defs/{step}"}
    schema = json.dumps({"$defs": definitions, **inner}, separators=(",", ":"))
    check_schema(schema)
    found = validator.find_fault(schema, "[" * 100 + "]" * 100, deadline_seconds=30)
    assert found is None or found.keyword == "timeout"
    assert validator.find_fault(OBJECT, "{}", deadline_seconds=30) is None


def test_more_errors_than_there_is_memory_for(validator: Validator) -> None:
    schema = {"items": {"required": [f"n{number}" for number in range(5000)]}}
    assert fault(validator, schema, [{}] * 2000).keyword == "required"


# The child -------------------------------------------------------------------------------------------------------------


def pid(validator: Validator) -> int:
    child = validator._child
    assert child is not None
    return child._process.pid


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def own() -> Iterator[Validator]:
    """A validator whose child may be harmed."""
    made = Validator()
    yield made
    made.close()


def test_one_child_for_all_answers(own: Validator) -> None:
    assert own.find_fault(OBJECT, "{}") is None
    first = pid(own)
    assert own.find_fault("true", "1") is None
    assert pid(own) == first


def test_no_child_before_it_is_needed(own: Validator) -> None:
    own.find_fault(None, "{}")
    own.find_fault(OBJECT, "no JSON")
    assert own._child is None


def test_a_dead_child_is_replaced(own: Validator) -> None:
    own.find_fault(OBJECT, "{}")
    first = pid(own)
    os.kill(first, signal.SIGKILL)
    assert own.find_fault(OBJECT, "{}", deadline_seconds=30) is None
    assert pid(own) != first
    assert not is_running(first)


def test_a_child_that_is_stopped_is_replaced(own: Validator) -> None:
    own.find_fault(OBJECT, "{}")
    first = pid(own)
    os.kill(first, signal.SIGSTOP)
    large = json.dumps({"a": "x" * 2_000_000})  # more than the socket holds
    found = own.find_fault(OBJECT, large, deadline_seconds=0.2)
    assert found is not None
    assert found.keyword == "timeout"
    assert not is_running(first)
    assert own.find_fault(OBJECT, large, deadline_seconds=30) is None


def test_a_child_that_cannot_start(own: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("/nonexistent/python", "/bin/false"):
        monkeypatch.setattr("sys.executable", executable)
        found = own.find_fault(OBJECT, "{}")
        assert found is not None
        assert found.keyword == "timeout"
    monkeypatch.undo()
    assert own.find_fault(OBJECT, "{}", deadline_seconds=30) is None


def test_a_closed_validator_starts_another_child(own: Validator) -> None:
    own.find_fault(OBJECT, "{}")
    first = pid(own)
    own.close()
    assert not is_running(first)
    assert own.find_fault(OBJECT, "{}") is None


def test_an_interrupted_call_leaves_no_answer_behind(own: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    own.find_fault(OBJECT, "{}")
    with monkeypatch.context() as patched:
        patched.setattr(type(own._child), "_receive", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            own.find_fault(OBJECT, "[]")
    assert own.find_fault(OBJECT, "{}", deadline_seconds=30) is None


def test_the_child_ends_with_its_input(own: Validator) -> None:
    own.find_fault(OBJECT, "{}")
    child = own._child
    assert child is not None
    child._socket.shutdown(2)
    child._process.wait(timeout=30)
    assert child._process.returncode == 0


def test_the_child_ends_itself_if_nobody_waits(own: Validator) -> None:
    """The parent is gone while the child is at work, and does not read its input."""
    own.find_fault(OBJECT, "{}")
    child = own._child
    assert child is not None
    job = {"schema": SLOW, "answer": SLOW_ANSWER, "seconds": 0.1}
    child._socket.sendall(json.dumps(job).encode() + b"\n")
    child._process.wait(timeout=30)
    assert child._process.returncode == -signal.SIGALRM


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells")
def test_what_the_child_gets(own: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket and nothing else: no files of the parent, no credentials, no terminal."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    own.find_fault(OBJECT, "{}")
    process = Path(f"/proc/{pid(own)}")
    open_files = {name.name: str(name.readlink()) for name in (process / "fd").iterdir()}
    assert set(open_files) == {"0", "1", "2"}
    assert open_files["0"] == open_files["1"]
    assert open_files["2"] == os.devnull
    assert b"AWS" not in (process / "environ").read_bytes()
    assert os.getsid(pid(own)) == pid(own)


def test_threads_take_turns(own: Validator) -> None:
    """Ten at once, of which one takes all of its deadline: the others' deadlines begin when it is their turn."""
    schema = json.dumps({"properties": {"number": {"const": 7}}, "required": ["number"]})

    def ask(number: int) -> str | None:
        if number == 0:
            found = own.find_fault(SLOW, SLOW_ANSWER, deadline_seconds=2)
        else:
            found = own.find_fault(schema, json.dumps({"number": number}), deadline_seconds=2)
        return None if found is None else found.keyword

    started = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(10)))
    assert time.monotonic() - started >= 2
    assert answers == ["timeout", *["const"] * 6, None, *["const"] * 2]
