"""Answers of a form that was asked for: validated, asked for again, kept and shown as JSON."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.api.native.bodies import GenerateRequest
from sluice.backends.protocol import ModelError
from sluice.domain.documents import Input, Output
from sluice.domain.errors import SluiceError
from sluice.domain.requests import Completion, RequestLimits, Submission
from sluice.services.repair import REPAIR_BYTES, repaired_input
from tests.support.ledger import assert_books_balance
from tests.support.models import Models, add_models, charges, work
from tests.support.service import Service, submission

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FITS = '{"name": "Ada", "age": 36}'
CANARY = "a-word-of-the-answer"
WIDE = RequestLimits(max_prompt_bytes=100_000, longest_seconds=3600, max_attempts=3)


@pytest.fixture
def models(service: Service) -> Models:
    add_models(service, "only")
    return Models()


def ask(service: Service, key: bytes, models: Models, *answers: Any, **given: Any) -> dict[str, Any]:
    """A request with a schema, worked on once; returns what its client sees."""
    models.script("only", *answers)
    request_id = service.submit(key, "who?", schema=SCHEMA, **given)
    service.queue.take()
    work(service, models, request_id)
    return service.status(key, request_id)


def generate(schema: dict[str, Any]) -> Submission:
    """What POST /generate makes of a schema."""
    return GenerateRequest.model_validate({"prompt": "who?", "schema": schema}).submission()


@pytest.mark.parametrize("answer", [FITS, f"  {FITS}\n", f"```json\n{FITS}\n```", f"```\n{FITS}```"])
def test_an_answer_that_fits_is_json(service: Service, alice: bytes, models: Models, answer: str) -> None:
    shown = ask(service, alice, models, answer)
    assert (shown["status"], shown["result"], shown["result_type"]) == ("completed", {"name": "Ada", "age": 36}, "json")
    assert "attempts" not in shown
    assert service.value("SELECT json FROM results") == {"name": "Ada", "age": 36}
    assert service.value("SELECT content FROM results") == FITS
    assert_books_balance(service)


def test_a_text_is_no_json(service: Service, alice: bytes, models: Models) -> None:
    request_id = service.submit(alice, "who?")
    models.script("only", FITS)
    work(service, models, request_id)
    shown = service.status(alice, request_id)
    assert shown["result"] == FITS
    assert "result_type" not in shown
    assert service.value("SELECT json FROM results") is None


def test_the_finding_is_told_and_both_calls_are_charged(
    service: Service, alice: bytes, models: Models, admin: Callable[..., Any]
) -> None:
    admin("price.set", model_id="only", prompt="1000000", completion="2000000")
    shown = ask(service, alice, models, '{"name": "Ada"}', Completion.of_text(FITS, 30, 5, "stop"))
    assert (shown["status"], shown["result"]["age"]) == ("completed", 36)
    assert (shown["usage"]["prompt_tokens"], shown["usage"]["completion_tokens"]) == (37, 8)
    assert shown["cost"]["amount"] == str(37 + 2 * 8)
    told = [
        (each["cause"], each["prompt_tokens"], each["charged"], each["cost"]["amount"]) for each in shown["attempts"]
    ]
    assert told == [("schema_mismatch", 7, True, "13"), (None, 30, True, "40")]
    again = models.calls[1].input.messages
    assert [message.role for message in again] == ["user", "assistant", "user"]
    assert again[1].text == '{"name": "Ada"}'
    assert "age" in again[2].text
    assert charges(service, shown["request_id"]) == [{"model_id": "only", "prompt_tokens": 37, "completion_tokens": 8}]
    assert_books_balance(service)


def test_it_fails_when_the_repair_attempts_are_used_up(service: Service, alice: bytes, models: Models) -> None:
    wrong = json.dumps({"name": CANARY, "age": "old"})
    shown = ask(service, alice, models, wrong, wrong, wrong, repair_attempts=2)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "schema_mismatch")
    assert '"type"' in shown["error"]["message"]
    assert [each["cause"] for each in shown["attempts"]] == ["schema_mismatch"] * 3
    assert shown["usage"]["total_tokens"] == 30
    assert_books_balance(service)


def test_nothing_of_an_answer_is_in_messages_audit_or_logs(
    service: Service, alice: bytes, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    shown = ask(service, alice, models, *[json.dumps({"name": CANARY, CANARY: 1})] * 2)
    assert shown["status"] == "failed"
    assert CANARY not in json.dumps(shown)
    assert CANARY not in caplog.text
    assert CANARY not in json.dumps(service.rows("SELECT before, after FROM audit_log"))
    assert CANARY not in json.dumps(service.rows("SELECT cause FROM attempts"))


@pytest.mark.parametrize(("attempts", "calls"), [(0, 1), (1, 2), (5, 6), (None, 2)])
def test_so_many_repairs_and_no_more(
    service: Service, alice: bytes, models: Models, attempts: int | None, calls: int
) -> None:
    models.always["only"] = "no JSON"
    given = {} if attempts is None else {"repair_attempts": attempts}
    assert ask(service, alice, models, **given)["status"] == "failed"
    assert len(models.calls) == calls
    assert_books_balance(service)


def test_the_attempts_before_count_too(service: Service, alice: bytes, models: Models) -> None:
    shown = ask(service, alice, models, "wrong", ModelError("model_unavailable"), repair_attempts=1)
    assert (shown["status"], shown["queue"]["last_error"]) == ("queued", "model_unavailable")
    assert [each["charged"] for each in shown["attempts"]] == [False, False]
    models.script("only", "wrong again", FITS)
    work(service, models, shown["request_id"])
    shown = service.status(alice, shown["request_id"])
    assert (shown["status"], shown["error"]["code"]) == ("failed", "schema_mismatch")
    assert shown["usage"]["total_tokens"] == 10
    assert_books_balance(service)


def test_a_repair_may_be_answered_by_a_fallback(service: Service, alice: bytes, models: Models) -> None:
    add_models(service, "second", is_default=False)
    service.act("model.fallback", model_id="only", fallbacks=["second"])
    models.script("second", FITS)
    shown = ask(service, alice, models, "wrong", ModelError("model_unavailable"))
    assert (shown["status"], shown["answered_by"]) == ("completed", "second")
    assert [(each["model"], each["charged"]) for each in shown["attempts"]] == [
        ("only", True),
        ("only", False),
        ("second", True),
    ]
    assert [each["model_id"] for each in charges(service, shown["request_id"])] == ["only", "second"]
    assert_books_balance(service)


def test_a_cut_off_answer_is_asked_for_again_and_a_filtered_one_is_not(
    service: Service, alice: bytes, models: Models
) -> None:
    shown = ask(service, alice, models, Completion.of_text('{"name": "A', 7, 16, "length"), FITS)
    assert shown["status"] == "completed"
    assert "too long" in models.calls[1].input.messages[-1].text
    models.calls.clear()
    shown = ask(service, alice, models, Completion.of_text("{", 7, 3, "content_filter"))
    assert (shown["status"], len(models.calls)) == ("failed", 1)


@pytest.mark.parametrize(
    "completion",
    [
        Completion(Output.of_text("", "refusal", refusal="I will not."), 7, 3),
        Completion(
            Output.model_validate(
                {
                    "items": [
                        {"type": "message", "content": [{"type": "text", "text": ""}]},
                        {"type": "tool_call", "id": "1", "name": "look", "arguments": "{}"},
                    ],
                    "finish_reason": "tool_calls",
                }
            ),
            7,
            3,
        ),
    ],
)
def test_a_refusal_and_a_call_of_a_tool_are_no_answers(
    service: Service, alice: bytes, models: Models, completion: Completion
) -> None:
    shown = ask(service, alice, models, completion)
    assert (shown["status"], len(models.calls)) == ("completed", 1)
    assert "result_type" not in shown


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"type": "strange"},
        {"pattern": "(?=a)b"},
        {"description": "x" * 70_000},
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_at_submit(
    service: Service, alice: bytes, models: Models, schema: dict[str, Any]
) -> None:
    with pytest.raises(SluiceError) as refused:
        service.submitter(limits=WIDE).submit(alice, generate(schema))
    assert refused.value.code == "schema_refused"
    assert service.value("SELECT count(*) FROM requests") == 0


def test_a_hostile_pattern_costs_nothing(service: Service, alice: bytes, models: Models) -> None:
    hostile = {"type": "string", "pattern": "^(a+)+$"}
    models.script("only", json.dumps("a" * 5000 + "!"), json.dumps("aaa"))
    request_id = service.submitter(limits=WIDE).submit(alice, generate(hostile)).request_id
    work(service, models, request_id)
    shown = service.status(alice, request_id)
    assert (shown["status"], shown["result"]) == ("completed", "aaa")
    assert [each["cause"] for each in shown["attempts"]] == ["schema_mismatch", None]


# The reservation covers every call ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_the_reservation_is_for_all_calls(service: Service, alice: bytes, models: Models, attempts: int) -> None:
    asked = Input.of_prompt("who?").model_copy(update={"response_format": generate(SCHEMA).input.response_format})
    once = asked.byte_length + 10 + 16
    made = service.database("submit").call_row(
        "request_submit",
        key_hash=alice,
        submission=submission(input=asked.to_json(), repair_attempts=attempts, parameters={"max_tokens": 16}),
    )
    reserved = service.value("SELECT reserved_tokens FROM requests WHERE request_id = %s", made["request_id"])
    # A response format counts as an item; a repair adds two messages, the answer and the text about it.
    assert reserved == (1 + attempts) * (once + 16) + attempts * (16 + REPAIR_BYTES + 2 * 16)
    assert_books_balance(service)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answer=st.text(max_size=3000), finding=st.text(max_size=3000), max_tokens=st.integers(0, 2000), cut=st.booleans()
)
def test_a_repaired_conversation_is_within_the_reservation(
    answer: str, finding: str, max_tokens: int, cut: bool
) -> None:
    asked = Input.of_prompt("who?")
    output = Output.of_text(answer, "length" if cut else "stop")
    again = repaired_input(asked, output, finding, max_tokens)
    assert again.byte_length - asked.byte_length <= max_tokens + REPAIR_BYTES
    assert again.extra_items - asked.extra_items <= 2


def test_a_budget_reserves_all_calls(service: Service, alice: bytes, models: Models, admin: Callable[..., Any]) -> None:
    admin("price.set", model_id="only", prompt="1000000", completion="3000000")
    admin("budget.set", user_id="alice", limits={"daily": "100000"})
    request_id = service.submit(alice, "who?", schema=SCHEMA, repair_attempts=2)
    reserved = service.value("SELECT amount_reserved FROM budgets")
    tokens = service.status(alice, request_id)["reserved_tokens"]
    assert reserved == (tokens - 3 * 16) + 3 * 3 * 16
    models.script("only", "wrong", "wrong", FITS)
    work(service, models, request_id)
    assert service.value("SELECT amount_used FROM budgets") == 3 * (7 + 9)
    assert_books_balance(service)
