"""Mappings at work: values of requests get into a template exactly as they are, and what has no place is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.json_text import written
from sluice.backends.mapping import CHAT_PLACEHOLDERS, PARAMETERS, mapped_body
from sluice.backends.protocol import ModelError
from sluice.domain.documents import ImagePart, Input, Message, ResponseFormat, TextPart, TokensPart, Tool
from sluice.domain.requests import Claim
from tests.support.sagemaker_backend import CLAIM, PROMPT, TGI

# Texts that a careless replacement would look into again, or that would end a JSON string.
TRICKY = st.sampled_from(
    [
        "{{prompt}}",
        "{{max_tokens}}",
        '"}, "parameters": {"x": "',
        "\\u007b\\u007b",
        "{{",
        "}}",
        "\x00",
        "\u2028",
        "😀",
        "",
    ]
)
TEXTS = st.one_of(st.text(), TRICKY, st.lists(st.one_of(st.text(max_size=5), TRICKY)).map("".join))
NUMBERS = st.one_of(st.integers(0, 2**31), st.floats(0, 2, allow_nan=False))
GIVEN: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(PARAMETERS, NUMBERS) | {
    "stop": st.lists(TEXTS, min_size=1, max_size=4),
    "reasoning_effort": TEXTS,
}
EVERYTHING = {
    "said": ["{{messages}}", {name: f"{{{{{name}}}}}" for name in CHAT_PLACEHOLDERS}],
    "fixed": [1, None, "x"],
}


def body(template: Any, **changes: Any) -> Any:
    """What the server reads."""
    claim: Claim = replace(CLAIM, **changes)
    return json.loads(written(mapped_body(template, claim)))


def text(role: Any, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextPart(text=each) for each in texts))


def embedded(*parts: Any, **more: Any) -> dict[str, Any]:
    messages = tuple(Message(role="user", content=(part,)) for part in parts)
    return {"kind": "embedding", "input": Input(messages=messages, **more), "parameters": {}}


@given(prompt=TEXTS, instructions=st.none() | TEXTS, parameters=st.fixed_dictionaries({}, optional=GIVEN))
def test_every_value_arrives_as_it_is(prompt: str, instructions: str | None, parameters: dict[str, Any]) -> None:
    asked = Input(messages=(text("user", prompt),), instructions=instructions)
    found = body(EVERYTHING, input=asked, parameters=parameters)
    told = {} if instructions is None else {"instructions": instructions}
    messages = [{"role": "user", "content": prompt}]
    assert found == {
        "said": [messages, {"prompt": prompt, "messages": messages} | told | parameters],
        "fixed": [1, None, "x"],
    }


@given(texts=st.lists(TEXTS, min_size=1), dimensions=st.none() | st.integers(1, 4096))
def test_every_text_to_be_embedded_arrives_as_it_is(texts: list[str], dimensions: int | None) -> None:
    asked = embedded(*(TextPart(text=each) for each in texts), dimensions=dimensions)
    found = body({"inputs": "{{texts}}", "options": {"dimensions": "{{dimensions}}"}}, **asked)
    # An object that becomes empty stays.
    assert found == {"inputs": texts, "options": {} if dimensions is None else {"dimensions": dimensions}}


@given(
    template=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text().filter(lambda each: "{{" not in each),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_no_placeholder_stays(template: Any) -> None:
    assert body({"p": "{{prompt}}", "rest": template}) == {"p": PROMPT, "rest": template}


def test_the_template_is_not_changed() -> None:
    before = json.dumps(TGI["request"])
    body(TGI["request"])
    assert json.dumps(TGI["request"]) == before


def test_a_parameter_without_a_place_is_left_out() -> None:
    assert body({"inputs": "{{prompt}}"}, parameters={"max_tokens": 7, "seed": 3}) == {"inputs": PROMPT}


def test_a_missing_value_is_left_out_of_lists_too() -> None:
    assert body({"p": ["{{prompt}}", "{{seed}}", 1]}, parameters={}) == {"p": [PROMPT, 1]}


@pytest.mark.parametrize("parameters", [{"seed": 0}, {"seed": False}, {"stop": []}, {"reasoning_effort": ""}])
def test_values_that_count_as_false_are_values(parameters: dict[str, Any]) -> None:
    (name,) = parameters
    assert body({"p": "{{prompt}}", "x": f"{{{{{name}}}}}"}, parameters=parameters)["x"] == parameters[name]


def test_instructions_and_system_messages_are_one_text() -> None:
    asked = Input(messages=(text("system", "be ", "brief"), text("user", "a", "b")), instructions="obey")
    template = {"system": "{{instructions}}", "p": "{{prompt}}", "m": "{{messages}}"}
    assert body(template, input=asked) == {
        "system": "obey\n\nbe brief",
        "p": "ab",
        "m": [{"role": "user", "content": "ab"}],
    }


def test_messages_have_the_system_messages_if_nothing_else_does() -> None:
    asked = Input(messages=(text("user", "a"), text("assistant", "b"), text("user", "c")), instructions="obey")
    assert body({"m": "{{messages}}"}, input=asked)["m"] == [
        {"role": "system", "content": "obey"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


USER = text("user", "a")
IMAGE = Message(role="user", content=(ImagePart(type="image", url="https://x.example/i.png"),))
ALONE = {"p": "{{prompt}}"}
ANY = {"p": "{{messages}}", "i": "{{instructions}}"}


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        # Nothing of a conversation is lost in silence.
        (ALONE, Input(messages=(USER, text("assistant", "b"), USER))),
        (ALONE, Input(messages=(text("assistant", "b"),))),
        (ALONE, Input(messages=())),
        (ALONE, Input(messages=(USER,), instructions="obey")),
        (ALONE, Input(messages=(text("system", "s"), USER))),
        (ALONE, Input(messages=(IMAGE,))),
        (ANY, Input(messages=(Message(role="system", content=IMAGE.content), USER))),
        (ANY, Input(messages=(USER,), tools=(Tool(name="t"),))),
        (ANY, Input(messages=(USER,), response_format=ResponseFormat(type="json_object"))),
        (ANY, Input(messages=(Message(role="user", content=(TokensPart(type="tokens", tokens=(1,)),)),))),
        ({"x": 1}, Input(messages=(USER,))),
    ],
)
def test_a_request_that_the_template_has_no_place_for_is_refused(template: Any, asked: Input) -> None:
    with pytest.raises(ModelError) as caught:
        body(template, input=asked)
    assert caught.value.code == "model_rejected"


def test_images_and_calls_are_in_the_messages() -> None:
    (message,) = body({"m": "{{messages}}"}, input=Input(messages=(IMAGE,)))["m"]
    assert message["content"] == [{"type": "image_url", "image_url": {"url": "https://x.example/i.png"}}]


@pytest.mark.parametrize(
    "asked",
    [
        embedded(TokensPart(type="tokens", tokens=(1, 2))),
        embedded(TextPart(text="a"), TokensPart(type="tokens", tokens=(1, 2))),
        embedded(TextPart(text="a"), dimensions=8),
    ],
)
def test_embeddings_that_the_template_has_no_place_for_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        body({"inputs": "{{texts}}"}, **asked)
    assert caught.value.code == "model_rejected"
