"""What the clients of OpenAI's API get while they wait: one statement to ask, one to answer, and the queue otherwise."""

import base64
import json
import struct
from typing import Any

import pytest

from sluice import bootstrap
from sluice.backends.protocol import ModelError
from sluice.domain.documents import Output, ToolCall
from sluice.handover import NotStartedError
from tests.support.functions import KEYED
from tests.support.ledger import assert_books_balance
from tests.support.openai_api import MINIMAL, Api
from tests.support.service import Service, failed

CALL = ToolCall(id="call_1", name="look", arguments='{"at": "it"}')
STATEMENTS = """
    SELECT (regexp_match(query, 'FROM "sluice"."(\\w+)"'))[1] AS name, calls FROM pg_stat_statements
    WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND query ~ '"sluice"."request_' ORDER BY 1"""


def test_a_chat_completion_is_answered(api: Api, service: Service, alice: bytes) -> None:
    api.model.says("Oslo")
    reply = api.chat("Which capital?", max_tokens=32, temperature=0.5, metadata={"project": "apollo"})

    assert reply.status == 200
    message: Any = {"role": "assistant", "content": "Oslo", "refusal": None, "annotations": []}
    body = reply.body
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert (body["id"], body["object"]) == (f"chatcmpl-{reply.request_id.hex}", "chat.completion")
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["x-ratelimit-remaining-requests"] == "2999"
    (claim,) = api.model.claims
    assert claim.parameters == {"max_tokens": 32, "temperature": 0.5}
    assert service.rows("SELECT status, total_tokens FROM requests") == [{"status": "completed", "total_tokens": 10}]
    assert service.value("SELECT metadata FROM prompts") == {"project": "apollo"}
    assert_books_balance(service)


@pytest.mark.parametrize("path", MINIMAL)
def test_one_statement_asks_and_one_answers(api: Api, service: Service, alice: bytes, path: str) -> None:
    service.rows("SELECT pg_stat_statements_reset()")
    assert api.post(path, MINIMAL[path]).status == 200
    counts = {row["name"]: row["calls"] for row in service.rows(STATEMENTS)}
    assert counts == {"request_run": 1, "request_settle": 1}
    assert service.value("SELECT count(DISTINCT xact_id) FROM audit_log WHERE request_id IS NOT NULL") == 2


def test_a_response_is_what_its_retrieval_shows(api: Api, alice: bytes) -> None:
    api.model.says(Output.of_text("Let me see.", "tool_calls", reasoning="I need a look.", tool_calls=(CALL,)))
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}
    made = api.respond(
        "look", tools=[tool], instructions="be brief", metadata={"a": "b"}, user="u", reasoning={"effort": "low"}
    )
    again = api.get(f"/v1/responses/{made.body['id']}")

    assert (made.status, again.status) == (200, 200)
    # The end is the caller's clock in the one and the database's in the other.
    assert made.body | {"completed_at": 0} == again.body | {"completed_at": 0}
    assert [item["type"] for item in made.body["output"]] == ["reasoning", "message", "function_call"]
    assert list(made.body["tools"][0]["parameters"]["properties"]) == ["z", "a"], "the order of a schema is kept"
    assert made.headers["x-request-id"] == again.headers["x-request-id"]


def test_embeddings_in_both_forms(api: Api, service: Service, alice: bytes) -> None:
    floats = api.embed(["one", "two"])
    packed = api.embed([[1, 2], [3]], encoding_format="base64", dimensions=2)

    assert floats.body["data"][1] == {"object": "embedding", "index": 1, "embedding": [0.5, -0.25]}
    assert floats.body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    vector = packed.body["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(vector)) == (0.5, -0.25)
    assert api.model.claims[1].input.dimensions == 2
    reserved = service.rows("SELECT reserved_tokens FROM requests ORDER BY request_id")
    # 6 bytes or 3 ids of tokens, 64 of the template, 16 for the second text, and no completion.
    assert [row["reserved_tokens"] for row in reserved] == [6 + 64 + 16, 3 + 64 + 16]


def test_streams_are_sent_whole(api: Api, alice: bytes) -> None:
    api.model.says("Oslo", "Oslo")
    chat = api.chat(stream=True, stream_options={"include_usage": True})
    assert chat.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *chunks, done = chat.events
    assert done == "[DONE]"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == "Oslo"

    response = api.respond(stream=True)
    whole = response.events[-2]["response"]
    resumed = api.get(f"/v1/responses/{whole['id']}", {"stream": "true", "starting_after": "3"})
    assert [e["sequence_number"] for e in resumed.events[:-1]] == list(range(4, len(response.events) - 1))
    assert resumed.events[:-2] == response.events[4:-2]


def test_a_full_window_sends_the_request_through_the_queue(api: Api, service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=1)
    first = service.submit(alice, "first")

    waiting = api.chat("second")

    assert (waiting.status, waiting.error["code"], waiting.error["type"]) == (503, "answer_pending", "server_error")
    assert {name: waiting.headers[name] for name in ("retry-after-ms", "x-should-retry")} == {
        "retry-after-ms": "1",
        "x-should-retry": "true",
    }
    assert waiting.error["response_id"] == f"resp_{waiting.request_id.hex}"
    assert (api.runs, api.model.claims) == ([], [])
    service.claim(first)
    (dispatch,) = [row for row in service.settle(failed(first)) if row["kind"] == "dispatch"]
    assert dispatch["request_id"] == waiting.request_id
    api.sqs.send_message(
        QueueUrl=bootstrap.settings().queue_url, MessageBody=json.dumps({"request_id": str(waiting.request_id)})
    )
    assert api.work() == 1

    repeated = api.chat("second", {"x-stainless-retry-count": "1"})
    assert (repeated.status, repeated.request_id) == (200, waiting.request_id)
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert len(api.model.claims) == 1
    assert_books_balance(service)


def test_an_answer_from_the_queue_is_waited_for(api: Api, service: Service, alice: bytes) -> None:
    """The run could not begin: the request is in the queue, and a worker answers while the client waits."""

    def not_started(_: Any) -> None:
        raise NotStartedError

    def look_and_work(request_id: Any) -> bool:
        api.work()
        return ended(request_id)

    api.runner = not_started
    ledger = bootstrap.ledger()
    ended = ledger.ended
    ledger.ended = look_and_work  # type: ignore[method-assign]  # between two looks
    reply = api.respond()

    assert (reply.status, reply.body["status"]) == (200, "completed")
    assert service.value("SELECT attempts FROM requests") == 2
    assert_books_balance(service)


def test_what_the_model_refuses_is_the_callers_error(api: Api, service: Service, alice: bytes) -> None:
    api.model.says(ModelError("context_length_exceeded"))
    reply = api.chat()
    assert (reply.status, reply.error["type"], reply.error["code"]) == (
        400,
        "invalid_request_error",
        "context_length_exceeded",
    )
    assert reply.error["message"] == "The prompt and max_tokens do not fit the model's context."
    assert (reply.error["failure"], reply.headers["x-should-retry"]) == ("context_length_exceeded", "false")
    shown = api.get(f"/v1/responses/{reply.error['response_id']}").body
    assert (shown["status"], shown["error"]["code"], shown["usage"]) == ("failed", "invalid_prompt", None)
    assert_books_balance(service)


def test_an_attempt_that_may_succeed_later_is_waited_for(api: Api, service: Service, alice: bytes) -> None:
    api.model.says(ModelError("model_throttled"))
    reply = api.chat()
    assert (reply.status, reply.error["code"]) == (503, "answer_pending")
    assert service.rows("SELECT status, failed_attempts, last_error FROM inflight") == [
        {"status": "queued", "failed_attempts": 1, "last_error": "model_throttled"}
    ]
    assert_books_balance(service)


def test_a_model_that_is_cut_short_is_incomplete(api: Api, alice: bytes) -> None:
    api.model.says(Output.of_text("Os", "length"), Output.of_text("Os", "length"))
    response = api.respond().body
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (response["output"][0]["status"], response["completed_at"]) == ("incomplete", None)
    assert api.chat().body["choices"][0]["finish_reason"] == "length"


def test_an_idempotency_key_counts_here_too(api: Api, service: Service, alice: bytes) -> None:
    headers = {"idempotency-key": "once"}
    first, again = api.chat("hello", headers), api.chat("hello", headers)
    assert (first.status, again.status) == (200, 200)
    assert first.body == again.body
    other = api.chat("other", headers)
    assert (other.status, other.error["sluice_code"]) == (400, "idempotency_conflict")
    assert other.headers["x-should-retry"] == "false"
    assert len(api.model.claims) == 1
    background = api.respond("later", headers | {"idempotency-key": "2"}, background=True)
    assert api.respond("later", headers | {"idempotency-key": "2"}, background=True).body == background.body


def test_an_answer_that_cannot_be_sent_says_so(api: Api, alice: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream holds a text five times."""
    monkeypatch.setattr("sluice.domain.sizes.MAX_ANSWER_BYTES", 10_000)
    api.model.says("x" * 4000, "x" * 4000)
    reply = api.respond(stream=True)
    assert (reply.status, reply.error["code"]) == (400, "result_too_large")
    assert "without stream" in reply.error["message"]
    assert api.respond().status == 200


def test_nothing_private_is_logged(api: Api, alice: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    api.model.says("arbez")
    assert api.chat("zebra", metadata={"a": "zebra"}, user="zebra", stop=["zebra"]).status == 200
    api.post("/v1/chat/completions", {"messages": [{"role": "zebra", "content": "zebra"}]})
    api.post("/v1/responses", '{"input": "zebra"')
    logged = capsys.readouterr().out
    assert '"RequestsAnswered":[1.0]' in logged
    for secret in ("zebra", "arbez", KEYED["x-api-key"]):
        assert secret not in logged
