"""The pipelines of examples/benthos, each line of a file: what the view refuses, and how a busy service is asked again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.benthos import lines, prompts, run
from tests.support.service import Service
from tests.unit.scripted_server import Exchange, Reply, ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def writer_dsn(service: Service, writer: str, dsn: str) -> str:
    """The role that may only insert into and select from the view, as the engine connects."""
    service.owner.execute(f"ALTER ROLE {writer} LOGIN PASSWORD 'writes'")
    to = conninfo_to_dict(dsn)
    return f"postgres://{writer}:writes@{to['host']}:{to['port']}/{quote(str(to['dbname']))}?sslmode=disable"


def test_an_insert_that_is_refused_is_kept_with_the_reason(
    service: Service, alice: bytes, writer_dsn: str, tmp_path: Path
) -> None:
    service.add_user("poor", "a key of poor", "basic")
    service.owner.execute("UPDATE quotas SET max_requests = 1 WHERE user_id = 'poor' AND quota_period = 'daily'")
    prompts(
        tmp_path,
        {"prompt": "hello", "id": "first", "parameters": {"max_tokens": 7, "seed": 2147483647}, "metadata": {"a": "b"}},
        {"prompt": "other", "id": "first"},
        "no JSON",
        {"prompt": ""},
        {"prompt": 5},
        {"prompt": "x", "model": "nope"},
        {"prompt": "x", "user_id": "nobody"},
        {"prompt": "x", "model": "y" * 300},
        {"prompt": "\0"},
        {"prompt": "x", "schema": {}},
        {"prompt": "x", "user_id": "poor"},
        {"prompt": "x", "user_id": "poor"},
    )
    run("insert", tmp_path, SLUICE_USER="alice", SLUICE_DSN=writer_dsn, TRIES="1", THREADS="1")
    first = lines(tmp_path, "refused")
    assert {each["line"]: each["code"] for each in first} == {
        2: "idempotency_conflict",
        3: "line_not_json",
        4: "invalid_input",
        5: "invalid_input",
        6: "model_unknown",
        7: "user_inactive",
        8: "sqlstate_22001",
        9: "sqlstate_22021",
        10: "field_not_taken",
        12: "quota_exceeded",
    }
    assert next(each["text"] for each in first if each["line"] == 3) == "no JSON"
    run("insert", tmp_path, SLUICE_USER="alice", SLUICE_DSN=writer_dsn, TRIES="1", THREADS="1")
    again = lines(tmp_path, "refused")[len(first) :]
    assert {each["line"] for each in again} == {each["line"] for each in first} - {2}, "its name is known by now"

    # Killed before it could write what it had inserted: the names lead to the same requests.
    known = {each["name"]: each["request_id"] for each in lines(tmp_path, "accepted")}
    (tmp_path / "out/accepted.jsonl").unlink()
    run("insert", tmp_path, SLUICE_USER="alice", SLUICE_DSN=writer_dsn, TRIES="1", THREADS="1")
    accepted = {each["name"]: each["request_id"] for each in lines(tmp_path, "accepted")}
    assert accepted == known
    booked = service.rows("SELECT request_id::text, user_id, prompt, parameters, metadata FROM submissions ORDER BY 2")
    assert [tuple(each.values()) for each in booked] == [
        (accepted["first"], "alice", "hello", {"max_tokens": 7, "seed": 2147483647}, {"a": "b"}),
        (accepted["11"], "poor", "x", {"max_tokens": 512}, None),
    ]


def test_a_database_that_is_away_is_tried_again_and_then_refused(tmp_path: Path) -> None:
    prompts(tmp_path, {"prompt": "hello"})
    run("insert", tmp_path, SLUICE_USER="alice", SLUICE_DSN="postgres://x:x@127.0.0.1:9/x?sslmode=disable", TRIES="2")
    assert [each["code"] for each in lines(tmp_path, "refused")] == ["unreachable"]


def test_a_busy_service_is_asked_again_when_it_says_with_the_same_key(server: ScriptedServer, tmp_path: Path) -> None:
    accepted = Reply(202, {"request_id": "r", "status": "queued"})
    busy = {"code": "quota_exceeded", "detail": "It is used up.", "retry_after": 2}
    server.replies(
        *(Reply(429, busy, {"Retry-After": "2"}), accepted),
        *(Reply(502, b"<html>"), accepted),
        *(Exchange.hang_up, accepted),
        Reply(429, {**busy, "retry_after": 3600}, {"Retry-After": "3600"}),
    )
    prompts(tmp_path, *({"prompt": f"prompt {n}", "id": f"{n}/ü,"} for n in range(4)))
    run("submit", tmp_path, SLUICE_URL=server.url, SLUICE_KEY="a key", JOB="nightly", THREADS="1")

    assert [each.json["prompt"][-1] for each in server.received] == list("0011223")
    keys = [each.headers["idempotency-key"] for each in server.received]
    assert keys == [f"nightly%2F{n}%2F%C3%BC%2C" for n in (0, 0, 1, 1, 2, 2, 3)]
    assert {each.headers["x-api-key"] for each in server.received} == {"a key"}
    assert {each["line"] for each in lines(tmp_path, "accepted")} == {1, 2, 3}
    (refused,) = lines(tmp_path, "refused")
    assert (refused["line"], refused["code"], refused["retry_after"]) == (4, "quota_exceeded", 3600)
    assert "a key" not in (tmp_path / "submit.log").read_text()


def test_no_line_is_left_out_or_changed(server: ScriptedServer, tmp_path: Path) -> None:
    server.replies(*(Reply(202, {"request_id": f"r{n}", "status": "queued"}) for n in range(4)))
    given: list[Any] = [
        {"prompt": "x" * 17_000_000},
        b'{"prompt": "\xff"}',
        r'{"prompt": "\ud800"}',
        {"prompt": "\ufffd", "metadata": {"n": "12345678901234567890"}, "max_cost": 12345678901234567890},
        r'{"prompt": "\uFFFD \ud83d\ude00"}',
        '{"prompt": "the last one"}',
    ]
    prompts(tmp_path, *given)
    (tmp_path / "prompts.jsonl").write_bytes((tmp_path / "prompts.jsonl").read_bytes().removesuffix(b"\n"))
    run("submit", tmp_path, SLUICE_URL=server.url, SLUICE_KEY="a key", THREADS="1")
    sent = [each.json for each in server.received]
    assert sent == [given[0], given[3], {"prompt": "\ufffd \U0001f600"}, {"prompt": "the last one"}]
    assert {each["line"]: each["code"] for each in lines(tmp_path, "refused")} == {
        2: "line_not_json",
        3: "line_not_json",
    }
