"""Answers in OpenAI's form are as the OpenAPI document says, whatever was asked and answered."""

import base64
import struct
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from aws_lambda_powertools.event_handler import Response

from sluice.api.exchange import HEADERS, answer
from sluice.api.openai.chat import ChatRequest, chat_view
from sluice.api.openai.embeddings import embeddings_view
from sluice.api.openai.response_view import asked_items, response_view
from sluice.api.openai.responses import ResponseRequest
from sluice.api.openai.stream import chat_stream, response_stream
from sluice.domain.documents import FINISH_REASONS, Input, Output, OutputEmbedding, ToolCall
from sluice.domain.failures import FAILURES
from sluice.domain.requests import RequestDetail
from sluice.domain.states import Status
from tests.support.conformance import check_response

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
DETAIL = RequestDetail(
    outcome="ok",
    request_id=UUID(int=7),
    model_id="small",
    status=Status.COMPLETED,
    output=Output.of_text("A text. " * 600, "stop"),
    error_code=None,
    error_message=None,
    prompt_tokens=7,
    completion_tokens=3,
    total_tokens=10,
    created_at=NOW,
    started_at=NOW,
    completed_at=NOW,
    finish_reason="stop",
    metadata=None,
    input=Input.of_prompt("hello"),
    parameters={"max_tokens": 16},
    surface=None,
)
CALLS = (ToolCall(id="call_1", name="look_up", arguments='{"a": "b"}'),)
OUTPUTS = {
    "text": Output.of_text("A text. " * 600),
    "empty": Output.of_text(""),
    "refusal": Output.of_text("", refusal="No."),
    "reasoning": Output.of_text("Yes.", reasoning="Hm."),
    "calls": Output.of_text("", tool_calls=CALLS),
    "all": Output.of_text("Yes.", refusal="No.", reasoning="Hm.", tool_calls=CALLS * 2),
}
BODIES: dict[str, dict[str, Any]] = {
    "plain": {"input": "hello"},
    "settings": {
        "input": [{"role": "user", "content": "hello"}],
        "instructions": "Be brief.",
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "out", "schema": SCHEMA}},
        "tools": [{"type": "function", "name": "look_up", "parameters": SCHEMA}],
        "tool_choice": {"type": "function", "name": "look_up"},
        "metadata": {"project": "x"},
        "temperature": 0,
        "top_p": 0.5,
        "max_output_tokens": 16,
        "background": True,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
    },
    "conversation": {
        "input": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "https://example.com/a.png"},
                ],
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "found"},
        ],
        "text": {"format": {"type": "json_object"}},
        "tool_choice": "auto",
    },
}


def asked(body: Mapping[str, Any]) -> RequestDetail:
    """A request with what was asked."""
    submission = ResponseRequest.model_validate(body).submission((), lambda item_id: None)
    return replace(
        DETAIL,
        input=submission.input,
        surface=submission.surface,
        metadata=submission.metadata,
        parameters={**DETAIL.parameters, **submission.parameters},
    )


def stream(text: str) -> Response[str]:
    return Response(200, "text/event-stream; charset=utf-8", text, dict(HEADERS))


@pytest.mark.parametrize(("output", "reason"), list(product(OUTPUTS, (*FINISH_REASONS, None))))
def test_every_answer(output: str, reason: Any) -> None:
    detail = replace(DETAIL, output=OUTPUTS[output], finish_reason=reason)
    check_response("POST /v1/chat/completions", answer(200, chat_view(detail)))
    for with_usage in (True, False):
        check_response("POST /v1/chat/completions", stream(chat_stream(detail, with_usage=with_usage)))
    check_response("POST /v1/responses", answer(200, response_view(detail)))
    check_response("GET /v1/responses/{response_id}", stream(response_stream(detail)))


@pytest.mark.parametrize(("name", "status", "code"), list(product(BODIES, Status, ("content_filtered", "worker_lost"))))
def test_every_state_of_every_question(name: str, status: Status, code: str) -> None:
    failed = status in (Status.FAILED, Status.EXPIRED)
    answered = status is Status.COMPLETED
    detail = replace(
        asked(BODIES[name]),
        status=status,
        output=DETAIL.output if answered else None,
        prompt_tokens=7 if answered else None,
        error_code=code if failed else None,
        error_message=FAILURES[code].message if failed else None,
        completed_at=NOW if status.is_final else None,
    )
    check_response("GET /v1/responses/{response_id}", answer(200, response_view(detail)))
    check_response("POST /v1/responses", stream(response_stream(detail)))


@pytest.mark.parametrize("name", BODIES)
def test_every_question_as_items(name: str) -> None:
    items = asked_items(asked(BODIES[name]))
    page = {"object": "list", "data": items, "first_id": items[0]["id"], "last_id": items[-1]["id"], "has_more": False}
    check_response("GET /v1/responses/{response_id}/input_items", answer(200, page))


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_embeddings(form: str | None) -> None:
    vector = OutputEmbedding(vector=base64.b64encode(struct.pack("<3f", 0.5, -1, 2)).decode())
    detail = replace(DETAIL, output=Output(items=(vector, vector)), finish_reason=None)
    check_response("POST /v1/embeddings", answer(200, embeddings_view(detail, form)))


def test_a_chat_is_a_response_too() -> None:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hello"}], "stop": ["."]})
    submission = body.submission()
    detail = replace(DETAIL, input=submission.input, surface=submission.surface, parameters=submission.parameters)
    check_response("GET /v1/responses/{response_id}", answer(200, response_view(detail)))
