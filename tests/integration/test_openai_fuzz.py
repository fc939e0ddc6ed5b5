"""Bodies and paths that nobody would send: never an error of ours, always OpenAI's envelope, never an echo of much text."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.functions import KEYED
from tests.support.ledger import assert_books_balance
from tests.support.openai_api import Api, Reply
from tests.support.service import Service

FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    derandomize=True,
    max_examples=250,
)
MARK = "zebra" * 100
"""A text that an error must not repeat."""
NAMES = [
    "role",
    "content",
    "type",
    "text",
    "model",
    "input",
    "messages",
    "tools",
    "tool_calls",
    "id",
    "name",
    "function",
    "parameters",
    "stream",
    "store",
    "stop",
    "image_url",
    "url",
    "user",
    "metadata",
    "output",
    "call_id",
    "arguments",
    "summary",
    "n",
    "schema",
    "format",
    "strict",
    "json_schema",
    "instructions",
    "reasoning",
]
TEXTS = st.sampled_from(
    ["", "a", MARK, "\x00", "user", "assistant", "tool", "function", "message", "text", "input_text"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([2**31, 2**63, 10**40, -1, 1e308, 0.5]),
    TEXTS,
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3) | st.just(MARK), inner, max_size=4)
    ),
    max_leaves=8,
)
TOOL = {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {"a": {"$ref": "#/x"}}}}
FORM = {"name": "form", "schema": {"type": "object"}, "strict": True}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
FULL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "nova-micro",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}], "name": "u"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "r"},
        ],
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": True,
        "response_format": {"type": "json_schema", "json_schema": FORM},
        "max_completion_tokens": 5,
        "temperature": 1,
        "top_p": 0.5,
        "seed": 1,
        "stop": ["a"],
        "n": 1,
        "stream": False,
        "stream_options": {"include_usage": True},
        "metadata": {"a": "b"},
        "reasoning_effort": "low",
    },
    "/v1/responses": {
        "model": "nova-micro",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "t"}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL, "detail": "auto"}]},
            {"type": "reasoning", "summary": [], "id": "rs_1"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
        ],
        "instructions": "i",
        "tools": [{"type": "function"} | TOOL],
        "tool_choice": "auto",
        "text": {"format": {"type": "json_schema"} | FORM},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 5,
        "background": False,
        "store": True,
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "truncation": "disabled",
    },
    "/v1/embeddings": {
        "model": "embedder",
        "input": ["a", "b"],
        "encoding_format": "base64",
        "dimensions": 2,
        "user": "u",
    },
    "/v1/images/generations": {
        "model": "artist",
        "prompt": "a",
        "size": "auto",
        "quality": "high",
        "background": "opaque",
        "output_format": "png",
        "response_format": "b64_json",
        "n": 1,
        "user": "u",
    },
    "/v1/audio/speech": {
        "model": "speaker",
        "input": "a",
        "voice": "alloy",
        "response_format": "mp3",
        "speed": 1,
        "instructions": "i",
        "stream_format": "audio",
    },
}
STATUSES = {200, 400, 401, 403, 404, 429, 503}


@st.composite
def changed(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A full body in which one to three places are something else."""
    path = draw(st.sampled_from([*FULL, "/v1/responses/input_tokens"]))
    body = copy.deepcopy(FULL[path.removesuffix("/input_tokens")])
    for _ in range(draw(st.integers(1, 3))):
        here: Any = body
        while True:
            if not here:
                break
            key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
            inner = here[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
                match draw(st.integers(0, 3)):
                    case 0 if isinstance(here, dict):
                        del here[key]
                    case 1 if isinstance(here, dict):
                        here[draw(st.sampled_from([MARK, "x", "\x00", *NAMES]))] = draw(VALUES)
                    case _:
                        here[key] = draw(VALUES)
                break
            here = inner
    return path, body


def check(reply: Reply) -> None:
    assert reply.status in STATUSES
    if reply.status == 200:
        return
    error = reply.error
    assert {"message", "type", "param", "code"} <= set(error)
    assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
    assert error["param"] is None or (isinstance(error["param"], str) and error["param"])
    assert MARK[:300] not in reply.text
    assert len(reply.text) < 2000
    assert reply.headers["Content-Type"] == "application/json"


@pytest.fixture
def eager(api: Api, service: Service, alice: bytes) -> Api:
    """Takes images, and as much as comes."""
    service.act("model.set", model_id="nova-micro", image_tokens=10)
    service.act("quota.set", user_id="alice", limits={"minute": {"max_requests": None, "max_tokens": None}})
    return api


@pytest.mark.parametrize("path", FULL)
def test_the_unchanged_body_is_answered(eager: Api, path: str) -> None:
    assert eager.post(path, FULL[path]).status == 200


@FUZZ
@given(changed())
def test_a_changed_body_is_answered_or_refused(eager: Api, asked: tuple[str, dict[str, Any]]) -> None:
    check(eager.post(*asked))


@FUZZ
@given(st.sampled_from([*FULL, "/v1/responses/input_tokens"]), VALUES)
def test_any_json_is_answered_or_refused(eager: Api, path: str, body: Any) -> None:
    check(eager.post(path, json.dumps(body)))


@FUZZ
@given(st.sampled_from([*FULL]), st.text(max_size=30) | st.binary(max_size=20).map(lambda b: b.decode("latin-1")))
def test_any_text_is_refused(eager: Api, path: str, body: str) -> None:
    reply = eager.post(path, body)
    check(reply)
    assert reply.status == 400


@FUZZ
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH"]),
    st.lists(
        st.sampled_from(
            ["responses", "chat", "completions", "models", "cancel", "input_items", "resp_", "resp_" + "0" * 32]
        )
        | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
        | st.just(MARK),
        max_size=4,
    ),
    st.dictionaries(
        st.sampled_from(["limit", "after", "order", "stream", "starting_after", "include", MARK]) | st.text(max_size=4),
        st.sampled_from(["", "1", "-1", "true", "desc", MARK, "9" * 30, "\x00"]),
        max_size=3,
    ),
)
def test_any_path_is_answered_or_refused(eager: Api, method: str, parts: list[str], query: dict[str, str]) -> None:
    check(eager.call(method, "/".join(["/v1", *parts]), None, KEYED, query))


@FUZZ
@given(
    st.sampled_from([*FULL]),
    st.dictionaries(
        st.sampled_from(["x-stainless-retry-count", "idempotency-key", "authorization", "content-type"]),
        st.text(max_size=10) | st.just(MARK),
        max_size=3,
    ),
)
def test_any_header_is_taken_or_refused(eager: Api, path: str, headers: dict[str, str]) -> None:
    check(eager.post(path, FULL[path], headers))


def test_the_books_balance_after_all_of_it(eager: Api, service: Service) -> None:
    @FUZZ
    @given(changed())
    def ask(asked: tuple[str, dict[str, Any]]) -> None:
        eager.post(*asked)

    ask()
    assert_books_balance(service)
