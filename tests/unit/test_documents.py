"""Documents of requests and answers: stored as JSON, read from rows of any age."""

import json
from typing import Any, TypeVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sluice.domain.documents import (
    Document,
    EmptyReason,
    FinishReason,
    Input,
    Message,
    Output,
    OutputMessage,
    RefusalPart,
    Role,
    TextPart,
)

D = TypeVar("D", bound=Document)


def stored_and_read(document: D) -> D:
    return type(document).model_validate(json.loads(json.dumps(document.to_json())))


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PARTS = st.lists(st.builds(TextPart, text=TEXT), max_size=3).map(tuple)
ANSWER_PARTS = st.lists(
    st.builds(TextPart, text=TEXT) | st.builds(RefusalPart, type=st.just("refusal"), text=TEXT), max_size=3
).map(tuple)
MESSAGES = st.builds(Message, role=st.sampled_from(get_args(Role)), content=PARTS)
INPUTS = st.builds(Input, messages=st.lists(MESSAGES, max_size=4).map(tuple))
OUTPUTS = st.builds(
    Output,
    items=st.lists(st.builds(OutputMessage, content=ANSWER_PARTS), max_size=3).map(tuple),
    finish_reason=st.none() | st.sampled_from(get_args(FinishReason)),
    empty_reason=st.none() | st.sampled_from(get_args(EmptyReason)),
)


@given(INPUTS | OUTPUTS)
def test_document_is_read_as_it_was_stored(document: Input | Output) -> None:
    assert stored_and_read(document) == document


def test_stored_form_of_a_prompt() -> None:
    assert Input.of_prompt("hello").to_json() == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    }


def test_stored_form_of_an_answer() -> None:
    message = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "hi"}]}
    assert Output.of_text("hi", "length").to_json() == {"items": [message], "finish_reason": "length"}
    assert Output.of_text("hi").to_json() == {"items": [message]}
    empty = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": ""}]}
    assert Output.of_text("", empty_reason="reasoning").to_json() == {"items": [empty], "empty_reason": "reasoning"}


def test_stored_form_of_a_refusal() -> None:
    no = {"type": "refusal", "text": "No."}
    message = {"type": "message", "role": "assistant", "content": [no]}
    refused = Output.of_text("", "refusal", refusal="No.")
    assert refused.to_json() == {"items": [message], "finish_reason": "refusal"}
    assert refused.text == "No."
    assert Output.of_text("Well. ", refusal="No.").text == "Well. No."


@pytest.mark.parametrize("word", ["bored", "", 5])
def test_finish_reason_of_a_newer_version_is_another(word: object) -> None:
    assert Output.model_validate({"items": [], "finish_reason": word}).finish_reason == "other"


def test_unknown_fields_are_ignored() -> None:
    part = {"type": "text", "text": "hi", "language": "en"}
    given_input = {"messages": [{"role": "user", "content": [part], "mood": "a"}], "hats": []}
    assert Input.model_validate(given_input) == Input.of_prompt("hi")
    item = {"type": "message", "role": "assistant", "content": [part], "id": "1"}
    assert Output.model_validate({"items": [item], "logprobs": []}) == Output.of_text("hi")


def test_optional_fields_have_defaults() -> None:
    assert Input.model_validate({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}) == Input.of_prompt("hi")
    assert Output.model_validate({"items": [{"content": [{"text": "hi"}]}]}) == Output.of_text("hi")


@pytest.mark.parametrize(
    ("document", "given"),
    [
        (Input, {}),
        (Input, {"messages": [{"role": "robot", "content": []}]}),
        (Input, {"messages": [{"role": "user", "content": [{"type": "image", "text": ""}]}]}),
        (Output, {}),
        (Output, {"items": [], "finish_reason": "stop", "empty_reason": "bored"}),
        (Output, {"items": [{"content": [{"type": "picture", "text": "hi"}]}]}),
    ],
)
def test_documents_of_another_form_are_refused(document: type[Document], given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        document.model_validate(given)


def test_documents_are_immutable() -> None:
    with pytest.raises(ValidationError):
        Output.of_text("hi").items = ()


def test_text_joins_all_parts() -> None:
    parts = (TextPart(text="a"), TextPart(text="b"))
    assert Message(role="user", content=parts).text == "ab"
    assert Output(items=(OutputMessage(content=parts), OutputMessage(content=(TextPart(text="c"),)))).text == "abc"
    assert Output(items=()).text == ""


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("Grüße 😀", "Grüße 😀"),
        ("a\x00b", "a\ufffdb"),
        ("\ud83d", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        # Two halves that belong together are one character.
        ("\ud83d\ude00", "😀"),
    ],
)
def test_unstorable_characters_of_an_answer_are_replaced(text: str, kept: str) -> None:
    assert Output.of_text(text).text == kept


@given(st.text(st.characters(exclude_categories=())))
def test_any_answer_can_be_stored(text: str) -> None:
    output = Output.of_text(text)
    assert "\x00" not in output.text
    json.dumps(output.to_json(), ensure_ascii=False).encode()
    assert stored_and_read(output) == output


@pytest.mark.parametrize(("prompt", "length"), [("", 0), ("abc", 3), ("ü", 2), ("€", 3), ("😀", 4)])
def test_byte_length_of_a_prompt(prompt: str, length: int) -> None:
    assert Input.of_prompt(prompt).byte_length == length


@given(INPUTS)
def test_byte_length_is_that_of_all_texts(document: Input) -> None:
    assert document.byte_length == len("".join(message.text for message in document.messages).encode())
