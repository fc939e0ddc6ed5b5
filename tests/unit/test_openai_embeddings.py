"""The OpenAI-compatible backend: embeddings."""

import base64
import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.openai import OpenAIBackend
from sluice.backends.parts import UnreadableError
from sluice.backends.tokens import ALLOWANCE_TOKENS
from sluice.backends.vectors import read_vectors
from sluice.domain.documents import Input, Message, Output, OutputEmbedding, Part, TextPart, TokensPart
from sluice.domain.requests import Claim, Completion
from tests.support.openai_backend import PATIENT, PROMPT, WORDS, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer

# Numbers that 32 bits hold exactly.
ONE, TWO = [0.5, -1.0, 0.0], [1.0, 2.0, -0.25]


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def embedded(*vectors: Any, **changes: Any) -> dict[str, Any]:
    """An answer; changes replace its members."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    return {"object": "list", "data": data, "model": "m", "usage": usage} | changes


def output(*vectors: list[float]) -> Output:
    return Output(items=tuple(OutputEmbedding(vector=packed(vector)) for vector in vectors))


def texts(*parts: Part) -> Input:
    return Input(messages=tuple(Message(role="user", content=(part,)) for part in parts))


@pytest.fixture
def asked(server: ScriptedServer) -> Claim:
    return claim(server, kind="embedding", input=texts(TextPart(text=PROMPT), TextPart(text="more")), parameters={})


def test_an_answer_may_have_as_many_numbers_as_can_be_kept(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim
) -> None:
    """A server writes many digits; of texts, this backend takes a thousand bytes."""
    vector = [1 / 3] * 10_000
    server.replies(Reply(body=embedded(vector, vector)))
    found = backend.complete(asked, PATIENT)
    assert [len(item.vector) for item in found.output.items if isinstance(item, OutputEmbedding)] == [53_336] * 2


# What is asked --------------------------------------------------------------------------------------------------------


def test_texts_are_sent_without_sampling_parameters(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim
) -> None:
    server.replies(Reply(body=embedded(ONE, TWO)))
    found = backend.complete(replace(asked, parameters={"max_tokens": 7, "temperature": 0.5}), PATIENT)
    assert found == Completion(output(ONE, TWO), 9, 0)
    (request,) = server.received
    assert request.path == "/v1/embeddings"
    assert request.json == {"model": "org/small-1b", "input": [PROMPT, "more"], "encoding_format": "float"}


def test_dimensions_and_tokens_are_sent(server: ScriptedServer, backend: OpenAIBackend, asked: Claim) -> None:
    server.replies(Reply(body=embedded(ONE, TWO)))
    tokens = texts(TokensPart(type="tokens", tokens=(1, 2)), TokensPart(type="tokens", tokens=(3,)))
    backend.complete(replace(asked, input=tokens.model_copy(update={"dimensions": 3})), PATIENT)
    assert server.received[0].json["input"] == [[1, 2], [3]]
    assert server.received[0].json["dimensions"] == 3


@pytest.mark.parametrize(
    "mixed",
    [
        texts(TextPart(text="a"), TokensPart(type="tokens", tokens=(1,))),
        Input(messages=(Message(role="user", content=(TextPart(text="a"), TextPart(text="b"))),)),
        Input(messages=(Message(role="user", content=()),)),
    ],
)
def test_input_that_is_no_list_of_texts_is_refused(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim, mixed: Input
) -> None:
    assert failure(backend, replace(asked, input=mixed)).code == "model_rejected"
    assert server.received == []


def test_tokens_are_no_part_of_a_conversation(server: ScriptedServer, backend: OpenAIBackend) -> None:
    tokens = texts(TokensPart(type="tokens", tokens=(1, 2)))
    assert failure(backend, claim(server, input=tokens)).code == "model_rejected"


# What is answered -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": ONE}, {"index": 1, "embedding": TWO}],
        [{"index": 1, "embedding": TWO}, {"index": 0, "embedding": ONE}],
        [{"embedding": ONE}, {"embedding": TWO}],
        [{"index": 0, "embedding": packed(ONE)}, {"index": 1, "embedding": packed(TWO)}],
        [{"index": 0, "embedding": packed(ONE)}, {"index": 1, "embedding": TWO}],
        # Whole numbers.
        [{"index": 0, "embedding": [0.5, -1, 0]}, {"index": 1, "embedding": [1, 2, -0.25]}],
    ],
)
def test_vectors_are_read_in_every_form(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim, data: Any
) -> None:
    server.replies(Reply(body=embedded(data=data)))
    assert backend.complete(asked, PATIENT).output == output(ONE, TWO)


@pytest.mark.parametrize(
    "data",
    [
        None,
        5,
        WORDS,
        {},
        [],
        [{"embedding": ONE}],
        [{"embedding": ONE}] * 3,
        [None, None],
        [ONE, TWO],
        [{"embedding": ONE}, {}],
        [{"embedding": ONE}, {"embedding": None}],
        [{"embedding": ONE}, {"embedding": {"0": 0.5}}],
        # Of another length, or none.
        [{"embedding": ONE}, {"embedding": TWO[:2]}],
        [{"embedding": []}, {"embedding": []}],
        [{"embedding": ""}, {"embedding": ""}],
        # No numbers, or none that 32 bits hold.
        [{"embedding": ONE}, {"embedding": [1.0, "2", 3.0]}],
        [{"embedding": ONE}, {"embedding": [1.0, None, 3.0]}],
        [{"embedding": ONE}, {"embedding": [1.0, True, 3.0]}],
        [{"embedding": ONE}, {"embedding": [ONE]}],
        [{"embedding": ONE}, {"embedding": [1.0, float("nan"), 3.0]}],
        [{"embedding": ONE}, {"embedding": [1.0, float("inf"), 3.0]}],
        [{"embedding": ONE}, {"embedding": [1.0, 1e39, 3.0]}],
        [{"embedding": ONE}, {"embedding": [1.0, 10**400, 3.0]}],
        [{"embedding": ONE}, {"embedding": packed([1.0, float("nan"), 3.0])}],
        # No base64, or not of floats.
        [{"embedding": ONE}, {"embedding": WORDS}],
        [{"embedding": ONE}, {"embedding": "AAAA"}],
        # Indexes that are not those of the texts.
        [{"index": 0, "embedding": ONE}, {"index": 0, "embedding": TWO}],
        [{"index": 1, "embedding": ONE}, {"index": 2, "embedding": TWO}],
        [{"index": 0, "embedding": ONE}, {"embedding": TWO}],
        [{"index": "0", "embedding": ONE}, {"index": "1", "embedding": TWO}],
        [{"index": False, "embedding": ONE}, {"index": True, "embedding": TWO}],
    ],
)
def test_other_answers_are_bad_and_tell_their_tokens(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim, data: Any
) -> None:
    server.replies(Reply(body=embedded(data=data)))
    error = failure(backend, asked)
    assert (error.code, error.is_answer) == ("model_bad_response", True)
    assert (error.prompt_tokens, error.completion_tokens) == (9, 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"data: {}\n\ndata: [DONE]\n\n", b'{"data": ['])
def test_what_is_no_answer_is_bad(server: ScriptedServer, backend: OpenAIBackend, asked: Claim, body: bytes) -> None:
    server.replies(Reply(body=body))
    assert failure(backend, asked).code == "model_bad_response"


def test_errors_have_the_codes_of_other_calls(server: ScriptedServer, backend: OpenAIBackend, asked: Claim) -> None:
    refused = {"error": {"message": WORDS, "code": "unsupported_parameter", "param": "encoding_format"}}
    inside = {"error": {"code": 429, "message": WORDS}}
    server.replies(Reply(404, {}), Reply(429, {}), Reply(400, refused), Reply(body=inside))
    codes = [failure(backend, asked).code for _ in range(4)]
    assert codes == ["model_misconfigured", "model_throttled", "model_misconfigured", "model_throttled"]


# Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "tokens", "flag"),
    [
        ({"prompt_tokens": 9, "total_tokens": 9}, 9, None),
        ({"prompt_tokens": 9}, 9, None),
        ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}, 9, None),
        ({"input_tokens": 9, "total_tokens": 9}, 9, None),
        ({"total_tokens": 9}, 9, "inconsistent"),
        # There is nothing but the prompt.
        ({"prompt_tokens": 9, "total_tokens": 12}, 12, "inconsistent"),
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}, 12, "inconsistent"),
        ({"prompt_tokens": 0, "total_tokens": 0}, 7, "estimated"),
        ({"prompt_tokens": 9, "total_tokens": 900_000_000}, 9, "implausible"),
        # The bytes of both texts, and an item more than the first.
        ({"prompt_tokens": 900_000_000, "total_tokens": 900_000_000}, 25 + 2 + 3, "implausible"),
        ({"prompt_tokens": 30 + ALLOWANCE_TOKENS}, 30 + ALLOWANCE_TOKENS, None),
    ],
)
def test_what_is_booked_and_flagged(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim, usage: Any, tokens: int, flag: str | None
) -> None:
    server.replies(Reply(body=embedded(ONE, TWO, usage=usage)))
    found = backend.complete(replace(asked, overhead_tokens=2, item_tokens=3), PATIENT)
    assert (found.prompt_tokens, found.completion_tokens) == (tokens, 0)
    assert (found.doubt.flag if found.doubt else None) == flag


@pytest.mark.parametrize("usage", [None, {}, [], 5, {"prompt_tokens": -1}, {"prompt_tokens": 1.5}])
def test_answer_whose_tokens_are_unknown_is_an_error(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim, usage: Any
) -> None:
    server.replies(Reply(body=embedded(ONE, TWO, usage=usage)))
    assert failure(backend, asked).code == "model_usage_missing"


VECTORS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5)


@given(VECTORS)
def test_both_forms_of_a_vector_are_kept_alike(vector: list[float]) -> None:
    as_list, as_base64 = ({"data": [{"embedding": form}]} for form in (vector, packed(vector)))
    assert read_vectors(json.loads(json.dumps(as_list)), 1) == read_vectors(as_base64, 1) == output(vector)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["index", "embedding", "object"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES, st.integers(min_value=1, max_value=3))
def test_whatever_is_answered_is_read_or_unreadable(data: Any, expected: int) -> None:
    try:
        found = read_vectors({"data": data}, expected)
    except UnreadableError:
        return
    assert len(found.items) == expected
