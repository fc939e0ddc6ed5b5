"""The Bedrock backend: conversations, images and the form of the answer, as Converse takes them."""

import base64
from typing import Any

import pytest

from sluice.domain.documents import ImagePart, Input, Message, RefusalPart, ResponseFormat, TextPart, TokensPart
from tests.support.bedrock_backend import GOOD, PROMPT, Bedrock
from tests.unit.scripted_server import ScriptedServer

ASKED = Message(role="user", content=(TextPart(text=PROMPT),))
PIXELS = base64.b64encode(b"pixels").decode()
SCHEMA = '{"type": "object",  "properties": {"z": {}, "a": {}}}'


def sent(server: ScriptedServer, bedrock: Bedrock, asked: Input, **parameters: Any) -> dict[str, Any]:
    """The body that is sent for an input."""
    server.replies(GOOD)
    bedrock.complete(input=asked, parameters=parameters)
    body: dict[str, Any] = server.received[-1].json
    return body


def said(role: Any, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextPart(text=text) for text in texts))


def image(url: str) -> Input:
    return Input(messages=(Message(role="user", content=(TextPart(text=PROMPT), ImagePart(type="image", url=url))),))


def test_instructions_come_before_system_messages(server: ScriptedServer, bedrock: Bedrock) -> None:
    asked = Input(messages=(said("system", "be ", "brief"), ASKED, said("system", "")), instructions="be kind")
    body = sent(server, bedrock, asked)
    assert body["system"] == [{"text": "be kind"}, {"text": "be brief"}]
    assert body["messages"] == [{"role": "user", "content": [{"text": PROMPT}]}]


def test_neighbours_of_the_same_role_are_one_message_and_empty_texts_are_left_out(
    server: ScriptedServer, bedrock: Bedrock
) -> None:
    refused = Message(role="assistant", content=(RefusalPart(type="refusal", text="No."),), name="bot")
    conversation = (
        *(said("user", "one"), said("system", "hm"), said("user", "", "two"), said("assistant", "")),
        *(said("user", "three"), refused, said("assistant", "Sorry."), said("user", "four")),
    )
    assert sent(server, bedrock, Input(messages=conversation))["messages"] == [
        {"role": "user", "content": [{"text": "one"}, {"text": "two"}, {"text": "three"}]},
        {"role": "assistant", "content": [{"text": "No."}, {"text": "Sorry."}]},
        {"role": "user", "content": [{"text": "four"}]},
    ]


@pytest.mark.parametrize(
    ("media_type", "image_format"),
    [
        ("image/png", "png"),
        ("image/jpeg", "jpeg"),
        ("image/jpg", "jpeg"),
        ("image/gif", "gif"),
        ("image/webp", "webp"),
        ("IMAGE/PNG", "png"),
    ],
)
def test_image_in_the_request_is_a_block(
    server: ScriptedServer, bedrock: Bedrock, media_type: str, image_format: str
) -> None:
    body = sent(server, bedrock, image(f"data:{media_type};base64,{PIXELS}"))
    assert body["messages"][0]["content"] == [
        {"text": PROMPT},
        {"image": {"format": image_format, "source": {"bytes": PIXELS}}},
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        f"data:image/bmp;base64,{PIXELS}",
        f"data:;base64,{PIXELS}",
        "data:image/png,pixels",
        "data:image/png;base64,!",
        "data:image/png;base64,",
    ],
)
def test_other_images_are_refused(server: ScriptedServer, bedrock: Bedrock, url: str) -> None:
    error = bedrock.failure(input=image(url))
    assert (error.code, error.is_transient, server.received) == ("model_rejected", False, [])


@pytest.mark.parametrize("strict", [True, None])
def test_answer_may_have_to_match_a_schema(server: ScriptedServer, bedrock: Bedrock, strict: bool | None) -> None:
    form = ResponseFormat(type="json_schema", name="sum", description="A sum.", schema_text=SCHEMA, strict=strict)
    body = sent(server, bedrock, Input(messages=(ASKED,), response_format=form))
    described = {"schema": SCHEMA, "name": "sum", "description": "A sum."}
    text_format = {"type": "json_schema", "structure": {"jsonSchema": described}}
    assert body["outputConfig"] == {"textFormat": text_format}


def test_schema_needs_no_name(server: ScriptedServer, bedrock: Bedrock) -> None:
    form = ResponseFormat(type="json_schema", schema_text=SCHEMA)
    body = sent(server, bedrock, Input(messages=(ASKED,), response_format=form), reasoning_effort="low")
    text_format = {"type": "json_schema", "structure": {"jsonSchema": {"schema": SCHEMA}}}
    assert body["outputConfig"] == {"effort": "low", "textFormat": text_format}


def test_effort_is_passed_on_and_penalties_are_not(server: ScriptedServer, bedrock: Bedrock) -> None:
    asked = Input(messages=(ASKED,))
    body = sent(server, bedrock, asked, reasoning_effort="high", frequency_penalty=1, presence_penalty=1, seed=3)
    assert body == {
        "messages": [{"role": "user", "content": [{"text": PROMPT}]}],
        "inferenceConfig": {},
        "outputConfig": {"effort": "high"},
    }


@pytest.mark.parametrize(
    "asked",
    [
        Input(messages=(ASKED,), response_format=ResponseFormat(type="json_object")),
        Input(messages=(ASKED,), response_format=ResponseFormat(type="json_schema")),
        Input(messages=(Message(role="user", content=(TokensPart(type="tokens", tokens=(1,)),)),)),
    ],
)
def test_what_converse_has_no_form_for_is_refused(server: ScriptedServer, bedrock: Bedrock, asked: Input) -> None:
    error = bedrock.failure(input=asked)
    assert (error.code, server.received) == ("model_rejected", [])


def test_embeddings_are_refused(server: ScriptedServer, bedrock: Bedrock) -> None:
    assert bedrock.failure(kind="embedding").code == "model_rejected"
    assert server.received == []
