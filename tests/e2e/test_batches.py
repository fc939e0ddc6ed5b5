"""Batches on the deployed stack, as OpenAI's clients make them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from local.processes import wait_until
from local.stack import Stack
from tests.support.openai_clients import OpenAI, SdkError
from tests.support.receiver import receiving

from .test_ledger import sluice

__all__ = ["sluice"]  # a fixture

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"


def says(text: str, **more: Any) -> dict[str, Any]:
    """A request of which the scripted model says this."""
    content = json.dumps({"text": text} | more)
    return {"model": "scripted", "messages": [{"role": "user", "content": content}]}


def line(custom_id: str, body: Any, url: str = CHAT) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def upload(openai: OpenAI, path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n")
    uploaded = openai("files.create", file=str(path), purpose="batch")
    assert (uploaded["purpose"], uploaded["bytes"]) == ("batch", path.stat().st_size)
    name: str = uploaded["id"]
    return name


def ended(openai: OpenAI, batch_id: str, seconds: float = 120) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(openai("batches.retrieve", batch_id=batch_id))
        return found["status"] in ("completed", "failed", "expired", "cancelled")

    assert wait_until(has_ended, seconds), found
    return found


def content(openai: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    found = openai("files.content", file_id=file_id)
    return [json.loads(each) for each in base64.b64decode(found["content"]).decode().split("\n") if each]


@pytest.fixture
def one(client_processes: Any, stack: Stack) -> OpenAI:
    """The demo user, with the newest major."""
    return OpenAI(client_processes[3], stack.info.api_url, stack.info.api_key)


def test_a_batch_from_the_file_to_the_answers(openai: OpenAI, tmp_path: Path, sluice: Any) -> None:
    lines = [line(f"line {n}", says(f"answer {n}")) for n in range(12)]
    lines.insert(5, line("wrong", {"model": "scripted"}))
    made = openai(
        "batches.create",
        input_file_id=upload(openai, tmp_path / "lines.jsonl", lines),
        endpoint=CHAT,
        completion_window="24h",
        metadata={"job": "nightly"},
    )
    assert (made["status"], made["metadata"], made["completion_window"]) == ("validating", {"job": "nightly"}, "24h")
    batch = ended(openai, made["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 13, "completed": 12, "failed": 1}
    answers = content(openai, batch["output_file_id"])
    assert [each["custom_id"] for each in answers] == [f"line {n}" for n in range(12)]
    said = [each["response"]["body"]["choices"][0]["message"]["content"] for each in answers]
    assert said == [f"answer {n}" for n in range(12)]
    (error,) = content(openai, batch["error_file_id"])
    assert (error["custom_id"], error["response"]["status_code"]) == ("wrong", 400)
    assert made["id"] in [each["id"] for each in openai("batches.list", limit=100)]
    assert batch["usage"]["total_tokens"] > 0
    with pytest.raises(SdkError) as finished:
        openai("batches.cancel", batch_id=made["id"])
    assert finished.value.status == 400
    assert sluice("batches", "show", made["id"])["completed"] == 12


def test_two_thousand_lines_with_every_kind_of_fault(one: OpenAI, tmp_path: Path, sluice: Any) -> None:
    hello = [{"role": "user", "content": '{"text": "hello"}'}]
    wrong: list[Any] = [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": hello, "model": "nobody"},
        {"messages": hello, "colour": "blue"},
        {"messages": hello, "stream": True},
        {"messages": hello, "temperature": 9},
        {"messages": hello, "model": "scripted", "max_tokens": 10**8},
        {"messages": [{"role": "user", "content": "x" * 40_000}]},
        {"messages": [{"role": "user", "content": "half a pair \ud800"}]},
        {"messages": hello, "n": 2},
        says("", status=400, body={"error": "no"}),
    ]
    # Most ask what others ask too, and share their answers: a model is called about five hundred times.
    shared = {"temperature": 0, "cache": {"max_age": 600}}
    asked = [
        (f"wrong {n}", wrong[n // 100 % len(wrong)])
        if n % 100 == 50
        else (f"line {n}", says(f"answer {n}") if n % 4 == 0 else says(f"answer {n % 20}") | shared)
        for n in range(2000)
    ]
    lines = [line(name, body) for name, body in asked]
    file_id = upload(one, tmp_path / "many.jsonl", lines)
    made = one("batches.create", input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    batch = ended(one, made["id"])
    assert batch["request_counts"] == {"total": 2000, "completed": 1980, "failed": 20}
    answers = content(one, batch["output_file_id"])
    assert [each["custom_id"] for each in answers] == [name for name, _ in asked if name.startswith("line")]
    for each in answers:
        said = each["response"]["body"]["choices"][0]["message"]["content"]
        number = int(each["custom_id"].removeprefix("line "))
        assert said == f"answer {number if number % 4 == 0 else number % 20}"
    errors = content(one, batch["error_file_id"])
    assert [each["custom_id"] for each in errors] == [name for name, _ in asked if name.startswith("wrong")]
    assert {each["response"]["status_code"] for each in errors} <= {400, 404}
    assert len({each["id"] for each in (*answers, *errors)}) == 2000
    assert sluice("verify", "--full")["violations"] == []


def test_faults_of_a_file_are_listed_with_their_lines(one: OpenAI, tmp_path: Path) -> None:
    lines = [line("a", says("a")), "no json", line("a", says("a")), line("b", says("b"), RESPONSES)]
    file_id = upload(one, tmp_path / "faults.jsonl", lines)
    made = one("batches.create", input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    batch = ended(one, made["id"])
    assert (batch["status"], batch["output_file_id"]) == ("failed", None)
    assert [(each["line"], each["code"]) for each in batch["errors"]["data"]] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "mismatched_url"),
    ]


def test_a_batch_is_cancelled_and_told_of(one: OpenAI, tmp_path: Path) -> None:
    with receiving() as receiver:
        endpoint = one(
            "webhooks.create", name="batches", url=receiver.url, event_types=["batch.completed", "batch.cancelled"]
        )
        try:
            lines = [line(f"slow {n}", says("late", seconds=1)) for n in range(400)]
            file_id = upload(one, tmp_path / "slow.jsonl", lines)
            made = one("batches.create", input_file_id=file_id, endpoint=CHAT, completion_window="24h")
            assert wait_until(
                lambda: one("batches.retrieve", batch_id=made["id"])["request_counts"]["completed"] > 0, 60
            )
            cancelled = one("batches.cancel", batch_id=made["id"])
            assert cancelled["status"] == "cancelling"
            batch = ended(one, made["id"])
            assert batch["status"] == "cancelled"
            answers, errors = content(one, batch["output_file_id"]), content(one, batch["error_file_id"])
            assert len(answers) + len(errors) == 400
            assert len(answers) == batch["request_counts"]["completed"] > 0
            assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
            assert wait_until(lambda: bool(receiver.received), 30)
            (call,) = receiver.received
            event = one(
                "webhooks.unwrap",
                payload=call.body,
                headers=dict(call.headers),
                secret=endpoint["signing_secret"],
            )
            assert (event["type"], event["data"]["id"]) == ("batch.cancelled", made["id"])
        finally:
            one("webhooks.delete", webhook_endpoint_id=endpoint["id"])


def test_what_is_not_ones_own_is_not_there(one: OpenAI, stack: Stack, tmp_path: Path) -> None:
    file_id = upload(one, tmp_path / "own.jsonl", [line("a", says("a"))])
    made = one("batches.create", input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    stack.admin("user.create", user_id="mallory", tier="basic")
    other = one.with_key(stack.admin("key.create", user_id="mallory")["api_key"])
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("batches.retrieve", {"batch_id": made["id"]}),
        ("batches.cancel", {"batch_id": made["id"]}),
        ("files.retrieve", {"file_id": file_id}),
        ("files.content", {"file_id": file_id}),
        ("files.delete", {"file_id": file_id}),
        ("batches.create", {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}),
    ]
    for method, arguments in attempts:
        with pytest.raises(SdkError) as refused:
            other(method, **arguments)
        assert refused.value.status == 404, method
    assert other("batches.list") == other("files.list") == []
