"""Embeddings: what is asked becomes documents, and the vectors come back in the form that was asked for."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.openai.embeddings import EmbeddingRequest, embeddings_view, numbers
from sluice.domain.documents import Message, Output, OutputEmbedding, Part, TextPart, TokensPart
from sluice.domain.requests import Submission
from tests.support.openai_views import completed

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def packed(*vector: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def asked(given_input: Any, **more: Any) -> Submission:
    return EmbeddingRequest.model_validate_json(json.dumps({"input": given_input} | more)).submission()


def text(words: str) -> Part:
    return TextPart(text=words)


def tokens(*ids: int) -> Part:
    return TokensPart(type="tokens", tokens=ids)


@pytest.mark.parametrize(
    ("given_input", "parts"),
    [
        ("one", [text("one")]),
        (["one", "two"], [text("one"), text("two")]),
        ([1, 2, 3], [tokens(1, 2, 3)]),
        ([[1, 2], [3]], [tokens(1, 2), tokens(3)]),
        (["x"] * 2048, [text("x")] * 2048),
    ],
)
def test_each_text_is_a_message(given_input: Any, parts: list[Part]) -> None:
    made = asked(given_input, dimensions=8, user="u", model="m")
    assert made.input.messages == tuple(Message(role="user", content=(part,)) for part in parts)
    assert (made.kind, made.model, made.input.dimensions, made.parameters) == ("embedding", "m", 8, {})
    assert made.surface == {"api": "embeddings", "echo": {"user": "u"}}


def test_vectors_in_both_forms() -> None:
    detail = completed(Output(items=tuple(OutputEmbedding(vector=packed(*v)) for v in ((0.5, -0.25), (1, 2)))))
    view = embeddings_view(detail, None)
    assert view == {
        "object": "list",
        "model": "m",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 2.0]},
        ],
        "usage": {"prompt_tokens": 1, "total_tokens": 2},
    }
    assert embeddings_view(detail, "float") == view
    assert [each["embedding"] for each in embeddings_view(detail, "base64")["data"]] == [
        packed(0.5, -0.25),
        packed(1, 2),
    ]


@given(st.lists(FLOATS, max_size=8))
def test_no_number_is_changed_by_its_shorter_form(vector: list[float]) -> None:
    assert packed(*numbers(packed(*vector))) == packed(*vector)


def test_a_number_has_as_many_digits_as_it_needs() -> None:
    assert json.dumps(numbers(packed(1 / 3, 0.1, 1.0))) == "[0.333333343, 0.100000001, 1.0]"
