"""Digests: equal for equal questions and submissions, different for others."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from sluice.api.native.bodies import GenerateRequest
from sluice.domain.documents import Input, Message, TextPart
from sluice.domain.fingerprint import question_digest, question_fingerprint, submission_digest
from sluice.domain.requests import Claim, Submission
from sluice.validation import parse_json

CLAIM = Claim(
    request_id=UUID(int=1),
    attempt=1,
    user_id="alice",
    model_id="small",
    input=Input.of_prompt("hello"),
    parameters={"max_tokens": 7, "temperature": 0.5},
    backend="openai",
    backend_model="org/small-1b",
    endpoint="https://models.example/v1",
    secret_arn=None,
    timeout_seconds=60,
)
SYSTEM = Message(role="system", content=(TextPart(text="hello"),))


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": UUID(int=2)},
        {"attempt": 2},
        {"parameters": {"temperature": 0.5, "max_tokens": 7}},
        {"backend": "bedrock"},
        {"backend_model": "org/other"},
        {"endpoint": None},
        {"secret_arn": "arn:key"},
        {"timeout_seconds": 61},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_depends_only_on_the_question(change: dict[str, Any]) -> None:
    assert question_fingerprint(replace(CLAIM, **change)) == question_fingerprint(CLAIM)


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "bob"},
        {"model_id": "large"},
        {"parameters": {"max_tokens": 8, "temperature": 0.5}},
        {"parameters": {"max_tokens": 7}},
        {"input": Input.of_prompt("hello ")},
        {"input": Input(messages=(SYSTEM,))},
        {"input": Input(messages=(SYSTEM, *CLAIM.input.messages))},
        {"input": Input(messages=(Message(role="user", content=(TextPart(text="hel"), TextPart(text="lo"))),))},
    ],
)
def test_fingerprint_differs_for_each_part_of_the_question(change: dict[str, Any]) -> None:
    assert question_fingerprint(replace(CLAIM, **change)) != question_fingerprint(CLAIM)


def test_fingerprint_is_stable() -> None:
    # Kept with answers: a change here means that no new question equals an old one.
    content = [
        {"temperature": 0.5},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    ]
    question = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert question_digest(CLAIM.input, CLAIM.parameters) == question
    whole = f"alice\nsmall\n7\n{question}"
    assert question_fingerprint(CLAIM) == hashlib.sha256(whole.encode()).hexdigest()


# Submissions ----------------------------------------------------------------------------------------------------------

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SUBMISSION = Submission(input=Input.of_prompt("hello"))


def test_digest_leaves_out_fields_without_a_value() -> None:
    content = {
        "input": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        "parameters": {},
    }
    assert submission_digest(SUBMISSION) == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def test_digest_does_not_depend_on_the_idempotency_key() -> None:
    assert submission_digest(replace(SUBMISSION, idempotency_key="a")) == submission_digest(SUBMISSION)


def test_digest_differs_for_each_field() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"input": Input.of_prompt("other")},
        {"model": "small"},
        {"parameters": {"seed": 1}},
        {"metadata": {}},
        {"metadata": {"a": "b"}},
        {"ttl_seconds": 60},
        {"expires_at": NOW},
        {"not_before": NOW},
    ]
    assert len({submission_digest(replace(SUBMISSION, **change)) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("body", "other"),
    [
        ('{"prompt": "a", "model": "small"}', '{ "model_id":"small","prompt":"\\u0061" }'),
        ('{"prompt": "a", "parameters": {"temperature": 1}}', '{"prompt": "a", "parameters": {"temperature": 1.0}}'),
        ('{"prompt": "a", "parameters": {"stop": "x"}}', '{"prompt": "a", "parameters": {"stop": ["x"]}}'),
        ('{"prompt": "a"}', '{"prompt": "a", "parameters": {"seed": null}, "model": null, "ttl_seconds": null}'),
        (
            '{"prompt": "a", "expires_at": "2030-01-01T00:00:00Z"}',
            '{"prompt": "a", "expires_at": "2030-01-01T00:00:00.000+00:00"}',
        ),
    ],
)
def test_digest_does_not_depend_on_the_spelling_of_the_body(body: str, other: str) -> None:
    first, second = (parse_json(GenerateRequest, text).submission() for text in (body, other))
    assert submission_digest(first) == submission_digest(second)
