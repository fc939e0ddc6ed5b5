"""Every input gets an answer, and no answer repeats the input."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluice.api.native.bodies import GenerateRequest
from sluice.api.problems import STATUSES, problem_details
from sluice.domain.errors import SluiceError
from sluice.messaging import QueueMessage
from sluice.services.admin.administer import AdminEvent
from sluice.services.admin.keys import KeyCreate
from sluice.services.admin.models import ModelSet
from sluice.services.admin.users import UserCreate
from sluice.services.tasks.run import TasksEvent
from sluice.validation import parse_json, parse_object

# No message of Sluice contains it.
MARK = "§prompt§"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


def outcome(body: str | bytes, model: Any = GenerateRequest) -> Any:
    """The model or the problem; anything else that is raised fails the test."""
    try:
        return parse_json(model, body)
    except SluiceError as error:
        # The original error, which quotes the input, is not attached to it.
        return problem_details(error) if error.__suppress_context__ else error.__context__


@given(JSON)
def test_any_json_is_a_request_or_a_problem(value: Any) -> None:
    outcome(json.dumps(value))


# JSON so similar to a request that every rule is applied.
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text() | JSON,
        "model": st.text() | JSON,
        "model_id": st.text() | JSON,
        "parameters": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("max_tokens", "temperature", "top_p", "stop", "seed", "n"), JSON)
        )
        | JSON,
        "metadata": st.dictionaries(st.text(), st.text() | JSON) | JSON,
    },
)


@given(SHAPED)
def test_json_similar_to_a_request_is_a_request_or_a_problem(value: dict[str, Any]) -> None:
    found = outcome(json.dumps(value))
    if isinstance(found, GenerateRequest):
        assert found.prompt == value["prompt"]
        # PostgreSQL can store what is accepted: UTF-8 without U+0000, JSON without NaN.
        assert "\x00" not in json.dumps(found.model_dump(), allow_nan=False).replace("\\u0000", "\x00")
        found.prompt.encode()
    else:
        assert found["status"] in {400, 422}
        json.dumps(found).encode()


@given(st.binary() | st.binary().map(lambda tail: b'{"prompt": "' + tail))
@example(b"\xff\xfe")
@example(b"[" * 100_000)
@example(b'{"prompt":' * 10_000)
@example(b'{"prompt": ' + b"9" * 10_000 + b"}")
@example(b'{"prompt": "\\ud800"}')
def test_any_bytes_are_a_request_or_a_problem(body: bytes) -> None:
    outcome(body)


@given(st.text(alphabet=st.characters(exclude_categories=())))
@example("\ud800")
@example('{"prompt": "\ud800"}')
def test_any_text_is_a_request_or_a_problem(body: str) -> None:
    outcome(body)


MARKED = st.recursive(
    st.just(MARK) | st.text().map(lambda text: MARK + text) | st.text().map(lambda text: text + MARK),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "model", "model_id", "parameters", "metadata", "max_tokens", "other"]),
        MARKED | st.dictionaries(st.sampled_from(["stop", "seed", "temperature", "max_tokens", "top_p"]), MARKED),
        min_size=1,
    ),
    st.integers(min_value=0, max_value=30),
)
def test_no_value_is_repeated_in_a_problem(body: dict[str, Any], cut: int) -> None:
    text = json.dumps(body, ensure_ascii=False)
    for sent in (text, text[: len(text) - cut]):
        found = outcome(sent)
        if not isinstance(found, GenerateRequest):
            assert MARK not in json.dumps(found, ensure_ascii=False)


@pytest.mark.parametrize("model", [AdminEvent, KeyCreate, ModelSet, QueueMessage, TasksEvent, UserCreate])
@given(data=st.data())
def test_no_value_of_an_operator_is_repeated(model: Any, data: st.DataObject) -> None:
    body = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys([*model.model_fields, "other"], MARKED)))
    found = outcome(json.dumps(body), model)
    if not isinstance(found, model):
        assert MARK not in json.dumps(found, ensure_ascii=False)


@pytest.mark.parametrize("body", ["", "{", "prompt", "{'prompt': 'a'}", '{"prompt": "a",}', '{"prompt": "a"} b'])
def test_body_that_is_not_json_is_refused(body: str) -> None:
    with pytest.raises(SluiceError) as caught:
        parse_json(GenerateRequest, body)
    assert (caught.value.code, STATUSES[caught.value.kind]) == ("body_not_json", 400)
    assert caught.value.detail.startswith("The body must be a JSON object. Invalid JSON: ")


@pytest.mark.parametrize("body", ["null", "[]", "5", '"prompt"', "true"])
def test_json_that_is_not_an_object_is_invalid(body: str) -> None:
    with pytest.raises(SluiceError) as caught:
        parse_json(GenerateRequest, body)
    assert problem_details(caught.value) == {
        "type": "urn:sluice:problem:invalid_input",
        "title": "Invalid input",
        "status": 422,
        "detail": "Input should be an object.",
        "code": "invalid_input",
        "errors": [{"pointer": "", "detail": "Input should be an object"}],
    }


def test_detail_names_the_first_finding_and_counts_the_others() -> None:
    with pytest.raises(SluiceError) as caught:
        parse_json(GenerateRequest, '{"prompt": 5, "other": 1, "more": 1}')
    assert caught.value.detail == "/prompt: Input should be a valid string (2 more in errors)."


def test_decoded_value_follows_the_rules_for_json() -> None:
    # Types are strict, but an id is a text in JSON and must be accepted as one.
    parsed = parse_object(QueueMessage, {"request_id": "01890a5d-ac96-774b-bcce-b302099a8057"})
    assert parsed.request_id.version == 7


# Each step of a pointer is a name with ~ and / escaped (RFC 6901).
@given(st.text(min_size=1, max_size=100).filter(lambda name: name not in {"prompt", "[key]"}))
@example("a/b")
@example("~1")
def test_pointer_leads_to_the_invalid_value(name: str) -> None:
    body = {"prompt": "hello", "metadata": {name: 5}}
    found = outcome(json.dumps(body))
    assert isinstance(found, dict)
    value: Any = body
    pointer = found["errors"][0]["pointer"]
    for step in pointer.split("/")[1:]:
        value = value[step.replace("~1", "/").replace("~0", "~")]
    assert value == 5
