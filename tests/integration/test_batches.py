"""Batches: a file of requests becomes files of answers, each line once and in order."""

import base64
import struct
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from sluice.domain.documents import Output, OutputEmbedding, OutputFile
from tests.support.batches import BatchBench, line
from tests.support.ledger import assert_books_balance
from tests.support.service import completed, failed

RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"
VECTOR = base64.b64encode(struct.pack("<2f", 0.5, -0.25)).decode()


def bodies(lines: list[dict[str, Any]]) -> list[Any]:
    return [each["response"]["body"] for each in lines]


def test_a_batch_is_answered_in_the_order_of_its_lines(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, [line(f"line {n}") for n in range(250)], metadata={"job": "nightly"})
    batch = bench.finish(batch_id)
    assert (batch["status"], batch["total"], batch["completed"], batch["failed"]) == ("completed", 250, 250, 0)
    answers = bench.file(batch["output_file_id"])
    assert [each["custom_id"] for each in answers] == [f"line {n}" for n in range(250)]
    assert len({each["id"] for each in answers}) == 250
    assert {each["response"]["status_code"] for each in answers} == {200}
    assert {each["error"] for each in answers} == {None}
    assert answers[0]["response"]["body"]["choices"][0]["message"]["content"] == "an answer"
    assert batch["error_file_id"] is None
    usage = {"prompt_tokens": 1750, "completion_tokens": 750, "cached_tokens": 0, "reasoning_tokens": 0}
    assert batch["usage"] == usage
    assert_books_balance(bench.service)


def test_each_line_is_an_ordinary_request_of_the_ledger(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, [line("one")])
    batch = bench.finish(batch_id)
    (answer,) = bench.file(batch["output_file_id"])
    request_id = UUID(answer["response"]["request_id"])
    assert answer["response"]["body"]["id"] == f"chatcmpl-{request_id.hex}"
    state = bench.service.status(alice, request_id)
    assert (state["status"], state["usage"]["total_tokens"]) == ("completed", 10)
    key_id = bench.service.value("SELECT key_id FROM requests WHERE request_id = %s", request_id)
    assert key_id == batch["key_id"]
    actions = bench.service.rows(
        "SELECT action, actor FROM audit_log WHERE request_id = %s ORDER BY audit_id", request_id
    )
    assert [(each["action"], each["actor"]) for each in actions] == [
        ("request.queued", "batches"),
        ("request.processing", "worker"),
        ("request.completed", "worker"),
    ]
    quota = bench.service.rows("SELECT requests_used, tokens_used, tokens_reserved FROM quotas WHERE user_id = 'alice'")
    assert {tuple(each.values()) for each in quota} == {(1, 10, 0)}


def test_responses_are_answered_as_responses(bench: BatchBench, alice: bytes) -> None:
    asked = {"input": "hello", "instructions": "be brief", "metadata": {"a": "b"}}
    batch = bench.finish(bench.create(alice, [line("one", asked, RESPONSES)], RESPONSES))
    (body,) = bodies(bench.file(batch["output_file_id"]))
    assert (body["object"], body["status"], body["metadata"]) == ("response", "completed", {"a": "b"})
    assert body["instructions"] == "be brief"
    assert body["output"][0]["content"][0]["text"] == "an answer"


def test_embeddings_are_in_the_form_that_each_line_asked_for(bench: BatchBench, alice: bytes) -> None:
    def embed(claim: Mapping[str, Any]) -> dict[str, Any]:
        output = Output(items=(OutputEmbedding(vector=VECTOR),)).to_json()
        return completed(claim["request_id"], claim["attempt"], output=output, completion_tokens=0)

    asked = {"model": "embedder", "input": "hello"}
    lines = [
        line("numbers", asked, EMBEDDINGS),
        line("packed", asked | {"encoding_format": "base64"}, EMBEDDINGS),
    ]
    batch = bench.finish(bench.create(alice, lines, EMBEDDINGS), embed)
    numbers, packed = bodies(bench.file(batch["output_file_id"]))
    assert numbers["data"][0]["embedding"] == [0.5, -0.25]
    assert packed["data"][0]["embedding"] == VECTOR
    assert numbers["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_what_is_no_request_or_fails_is_in_the_error_file_in_order(bench: BatchBench, alice: bytes) -> None:
    def answer(claim: Mapping[str, Any]) -> dict[str, Any]:
        said = str(claim["input"])
        return (failed if "fails" in said else completed)(claim["request_id"], claim["attempt"])

    hello = [{"role": "user", "content": "hello"}]
    lines = [
        line("good"),
        line("no messages", {}),
        line("unknown parameter", {"messages": hello, "colour": "blue"}),
        line("streamed", {"messages": hello, "stream": True}),
        line("unknown model", {"messages": hello, "model": "nobody"}),
        line("too many tokens", {"messages": hello, "max_tokens": 10**8}),
        line("too long", {"messages": [{"role": "user", "content": "x" * 200_000}]}),
        line("it fails"),
        line("half a pair", {"messages": [{"role": "user", "content": "\ud800"}]}),
        line("wrong kind", {"messages": hello, "model": "embedder"}),
        line("good too"),
    ]
    batch = bench.finish(bench.create(alice, lines), answer)
    assert (batch["status"], batch["completed"], batch["failed"]) == ("completed", 2, 9)
    assert [each["custom_id"] for each in bench.file(batch["output_file_id"])] == ["good", "good too"]
    errors = bench.file(batch["error_file_id"])
    assert [each["custom_id"] for each in errors] == [each["custom_id"] for each in lines[1:-1]]
    found = {each["custom_id"]: each["response"] for each in errors}
    assert {name: (each["status_code"], each["body"]["error"]["code"]) for name, each in found.items()} == {
        "no messages": (400, "missing_required_parameter"),
        "unknown parameter": (400, "unknown_parameter"),
        "streamed": (400, "unsupported_parameter"),
        "unknown model": (404, "model_not_found"),
        "too many tokens": (400, "integer_above_max_value"),
        "too long": (400, "context_length_exceeded"),
        "it fails": (400, "invalid_prompt"),
        "half a pair": (400, "invalid_json"),
        "wrong kind": (400, "model_not_supported"),
    }
    assert found["it fails"]["request_id"] is not None
    assert found["no messages"]["body"]["error"]["param"] == "messages"
    assert_books_balance(bench.service)


def test_what_needs_another_request_or_waits_is_no_line(bench: BatchBench, alice: bytes) -> None:
    refused = {
        "background": {"input": "x", "background": True},
        "previous_response_id": {"input": "x", "previous_response_id": "resp_" + "0" * 32},
        "input": {"input": [{"type": "item_reference", "id": "msg_" + "0" * 36}]},
        "stream": {"input": "x", "stream": True},
    }
    lines = [line(name, body, RESPONSES) for name, body in refused.items()]
    batch = bench.finish(bench.create(alice, lines, RESPONSES))
    assert batch["output_file_id"] is None
    errors = [each["response"]["body"]["error"] for each in bench.file(batch["error_file_id"])]
    assert [(each["param"], each["code"]) for each in errors] == [(name, "unsupported_parameter") for name in refused]


def test_a_cached_answer_ends_a_line_at_once(bench: BatchBench, alice: bytes) -> None:
    hello = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "cache": {"max_age": 600}}
    first = bench.finish(bench.create(alice, [line("first", hello)]))
    assert first["completed"] == 1
    batch_id = bench.create(alice, [line("again", hello), line("and again", hello)])
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["completed"]) == ("completed", 2)
    assert bench.service.queue.messages == []
    assert batch["usage"]["prompt_tokens"] == 0
    assert_books_balance(bench.service)


def test_equal_lines_share_one_call(bench: BatchBench, alice: bytes) -> None:
    hello = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "cache": {"max_age": 600}}
    batch_id = bench.create(alice, [line(f"line {n}", hello) for n in range(5)])
    bench.run()
    assert bench.answer() == 1
    bench.run()
    batch = bench.batch(batch_id)
    assert (batch["status"], batch["completed"]) == ("completed", 5)
    assert_books_balance(bench.service)


def test_large_inputs_and_answers_come_from_the_bucket(bench: BatchBench, alice: bytes) -> None:
    text = "ä" * 50_000

    def answer(claim: Mapping[str, Any]) -> dict[str, Any]:
        assert claim["input"]["stored"]["object_class"] == "inputs"
        described = OutputFile.of(text.encode(), "text/plain; charset=utf-8")
        return completed(
            claim["request_id"],
            claim["attempt"],
            output=Output(items=(described,), finish_reason="stop").to_json(),
            stored=bench.keep("results", text.encode(), "text/plain; charset=utf-8").to_row(),
        )

    body = {"instructions": "be long", "input": "x" * 90_000, "tools": []}
    batch = bench.finish(bench.create(alice, [line("large", body, RESPONSES)], RESPONSES), answer)
    (body,) = bodies(bench.file(batch["output_file_id"]))
    assert body["output"][0]["content"][0]["text"] == text
    assert body["instructions"] == "be long"
    assert_books_balance(bench.service)


def test_an_answer_that_was_deleted_meanwhile_is_in_no_file(bench: BatchBench, alice: bytes) -> None:
    batch_id = bench.create(alice, [line("one"), line("two")])
    bench.run()
    ids = [each["request_id"] for each in bench.service.rows("SELECT request_id FROM batch_lines ORDER BY line")]
    bench.answer()
    bench.service.ledger("openai").erase(alice, ids[0])
    batch = bench.finish(batch_id)
    assert (batch["completed"], batch["failed"]) == (1, 1)
    assert [each["custom_id"] for each in bench.file(batch["output_file_id"])] == ["two"]
    (error,) = bench.file(batch["error_file_id"])
    assert (error["response"], error["error"]["code"]) == (None, "response_deleted")
    assert_books_balance(bench.service)


def test_the_end_of_a_batch_is_told_to_endpoints_that_want_to_know(bench: BatchBench, alice: bytes) -> None:
    for types in (["batch.completed", "batch.failed"], ["response.completed"]):
        bench.service.rows(
            "SELECT webhook_act('alice', 'openai', NULL, 'create', %s)",
            Jsonb({"url": "https://example.com/", "name": "x", "event_types": types}),
        )
    good, bad = bench.create(alice, [line("one")]), bench.create(alice, b"no line\n")
    bench.finish(good)
    assert bench.batch(bad)["status"] == "failed"
    events = bench.service.rows("SELECT event_type, data_id, batch_id FROM webhook_events ORDER BY event_type")
    assert [(each["event_type"], each["data_id"]) for each in events if each["batch_id"]] == [
        ("batch.completed", f"batch_{good.hex}"),
        ("batch.failed", f"batch_{bad.hex}"),
    ]
    assert [each["event_type"] for each in events if not each["batch_id"]] == ["response.completed"]
