"""The main job, through the deployed template: HTTP API, queue, worker, model, database, schedules."""

import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from operator import mul
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from local.llm import EMBEDDING_MODEL_NAME
from local.stack import Stack, StackInfo

from .conftest import Client

Database = psycopg.Connection[dict[str, Any]]


def test_twenty_prompts_at_once_are_all_answered_by_the_model(client: Client, database: Database) -> None:
    prompts = [f"Name one thing that is as heavy as {n} elephants." for n in range(2, 22)]

    with ThreadPoolExecutor(20) as pool:
        ids = list(pool.map(lambda prompt: client.submit(prompt, parameters={"max_tokens": 16}), prompts))
        answers = list(pool.map(client.wait, ids))

    assert len(set(ids)) == 20
    for answer in answers:
        assert answer["status"] == "completed"
        assert answer["error"] is None
        assert answer["model"] == "smollm2-135m-instruct"
        assert answer["result"].strip()
        usage = answer["usage"]
        assert usage["prompt_tokens"] > 10
        assert 0 < usage["completion_tokens"] <= 16
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        created, started, completed = (
            datetime.fromisoformat(answer[f"{event}_at"]) for event in ("created", "started", "completed")
        )
        assert created <= started <= completed
        took = (completed - started).total_seconds() * 1000
        assert answer["processing_time_ms"] == pytest.approx(took, abs=2)
    counts = database.execute(
        "SELECT count(*) AS n FROM requests JOIN results USING (result_id) WHERE requests.request_id = ANY (%s)"
        " AND token_count = completion_tokens",
        (ids,),
    ).fetchone()
    assert counts == {"n": 20}


def test_the_rollup_equals_the_seeds_queries(client: Client, stack: Stack, database: Database) -> None:
    client.wait(client.submit("Say yes.", parameters={"max_tokens": 4}))

    figures = stack.admin("rollup.run", tasks=["usage", "stats"])

    assert set(figures) == {"usage", "stats"}
    usage = database.execute(
        "SELECT user_id, requests_count, tokens_used FROM usage WHERE period = 'monthly' ORDER BY 1"
    ).fetchall()
    assert (
        usage
        == database.execute("""
        SELECT user_id, count(*) AS requests_count, coalesce(sum(total_tokens), 0)::bigint AS tokens_used
        FROM requests WHERE created_at >= date_trunc('month', current_date) GROUP BY user_id ORDER BY 1
    """).fetchall()
    )
    stats = database.execute(
        "SELECT day, user_id, model_id, request_count, avg_processing_time, failure_count FROM request_stats ORDER BY 1, 2, 3"
    ).fetchall()
    assert (
        stats
        == database.execute("""
        SELECT date_trunc('day', created_at) AS day, user_id, model_id, count(*) AS request_count,
               avg(processing_time_ms) AS avg_processing_time,
               sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failure_count
        FROM requests GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    """).fetchall()
    )


def test_history_models_and_health(client: Client, info: StackInfo) -> None:
    ids = [client.submit(f"Say {n}.", parameters={"max_tokens": 2}) for n in range(3)]

    page = client.get("/requests?limit=2").body
    following = client.get(f"/requests?limit=1&cursor={page['next_cursor']}").body
    assert [entry["request_id"] for entry in page["requests"] + following["requests"]] == ids[::-1]
    models = {model["model"]: model for model in client.get("/models").body["models"]}
    assert models["smollm2-135m-instruct"]["is_default"] is True
    assert models["smollm2-135m-embeddings"]["kind"] == "embedding"
    assert Client(info.api_url, None).get("/health").body == {"status": "ok", "database": "ok"}


def test_the_model_server_embeds_texts_too(info: StackInfo) -> None:
    texts = ["A cat sits on the mat.", "A kitten lies on a rug.", "The stock market fell sharply today."]
    body = json.dumps({"model": EMBEDDING_MODEL_NAME, "input": texts}).encode()
    asked = urllib.request.Request(f"{info.llm_url}/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as response:
        answer = json.loads(response.read())
    assert answer["usage"]["prompt_tokens"] > len(texts)
    cat, kitten, market = (each["embedding"] for each in answer["data"])
    assert sum(map(mul, cat, cat)) == pytest.approx(1)
    assert sum(map(mul, cat, kitten)) > sum(map(mul, cat, market))


def test_direct_inserts_are_sent_by_the_schedule(client: Client, database: Database) -> None:
    """The schedule runs every minute; the test does not invoke it."""
    database.execute(
        "INSERT INTO submissions (user_id, prompt, parameters) VALUES ('demo', 'Say no.', '{\"max_tokens\": 2}')"
    )
    row = database.execute("SELECT request_id FROM submissions WHERE prompt = 'Say no.'").fetchone()

    assert row is not None
    assert client.wait(str(row["request_id"]), seconds=130)["status"] == "completed"


@pytest.mark.parametrize(
    ("script", "code", "tokens"),
    [
        ({"status": 400, "body": {"error": {"message": "zebra is not allowed"}}}, "model_rejected", None),
        ({"status": 429, "body": "", "headers": {"Retry-After": "1"}}, "model_throttled", None),
        ({"status": 500, "body": "zebra"}, "model_unavailable", None),
        ({"body": "<html>zebra</html>"}, "model_bad_response", None),
        ({"body": {"choices": []}}, "model_bad_response", None),
        ({"body": {"choices": [{"message": {"content": "zebra"}}]}}, "model_usage_missing", None),
        ({"text": "zebra" * 2001}, "result_too_large", 10),
        ({"hang": True}, "model_timeout", None),
    ],
)
def test_a_failing_model_fails_the_request_with_a_reason(
    client: Client, script: dict[str, Any], code: str, tokens: int | None
) -> None:
    answer = client.wait(client.submit(json.dumps(script), model="scripted", parameters={"max_tokens": 8}))

    assert (answer["status"], answer["result"], answer["error"]["code"]) == ("failed", None, code)
    assert answer["error"]["message"]
    assert "zebra" not in json.dumps(answer)
    assert answer["usage"]["total_tokens"] == tokens


def test_an_unreachable_model_fails_the_request(client: Client, stack: Stack) -> None:
    answer = client.wait(client.submit("Are you there?", model="away", parameters={"max_tokens": 8}))
    assert (answer["status"], answer["error"]["code"]) == ("failed", "model_unavailable")


def test_a_prompt_beyond_the_models_context_fails(client: Client) -> None:
    answer = client.wait(client.submit("word " * 6000, parameters={"max_tokens": 8}))
    assert (answer["status"], answer["error"]["code"]) == ("failed", "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "body_not_json"),
        (b"\xff", {}, 400, "body_not_json"),
        (b"{}", {}, 422, "invalid_input"),
        (b'{"prompt": ""}', {}, 422, "invalid_input"),
        (b'{"prompt": "a\\u0000"}', {}, 422, "invalid_input"),
        (b'{"prompt": "a", "colour": "red"}', {}, 422, "invalid_input"),
        (b'{"prompt": "a", "model": "none"}', {}, 422, "model_unknown"),
        (json.dumps({"prompt": "x" * 40_000}).encode(), {}, 422, "prompt_too_long"),
        (b'{"prompt": "a"}', {"x-api-key": "nonsense"}, 401, "key_malformed"),
        (b'{"prompt": "a"}', {"x-api-key": "sluice_" + "z" * 43}, 401, "key_unknown"),
    ],
)
def test_invalid_input_is_a_problem_document(
    client: Client, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = client.call("POST", "/generate", body, {"content-type": "application/json"} | headers)

    assert (answer.status, answer.body["code"], answer.body["status"]) == (status, code, status)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_queries_ids_and_repeats_through_the_gateway(client: Client) -> None:
    """As they arrive: the gateway decodes paths, and joins repeated parameters and headers with commas."""
    headers = {"content-type": "application/json", "idempotency-key": str(uuid4())}
    body = json.dumps({"prompt": "Say yes.", "parameters": {"max_tokens": 4}}).encode()
    first = client.call("POST", "/generate", body, headers)
    request_id = first.body["request_id"]
    client.wait(request_id)
    again = client.call("POST", "/generate", body, headers)

    assert (first.status, again.status) == (202, 200)
    assert again.body == {"request_id": request_id, "status": "completed"}
    assert again.headers["Idempotent-Replayed"] == "true"
    found = client.get("/requests?status=completed,failed&limit=1&start=2026-01-01T00:00:00.123456789%2B01:00")
    assert [entry["request_id"] for entry in found.body["requests"]] == [request_id]
    for query in ("statuss=failed", "limit=1&limit=1", "status=", "start=2026-01-01T00:00:00+01:00"):
        assert (client.get(f"/requests?{query}").status) == 422, query
    for other in (f"%20{request_id}", f"{request_id}%0A", request_id.upper(), f"{request_id}%2F"):
        assert client.get(f"/status/{other}").status == 404, other


def test_users_cannot_read_requests_of_others(client: Client, stack: Stack, info: StackInfo) -> None:
    stack.admin("user.create", user_id="eve")
    eve = Client(info.api_url, stack.admin("key.create", user_id="eve")["api_key"])
    request_id = client.submit("Say maybe.", parameters={"max_tokens": 2})

    others, unknown = eve.get(f"/status/{request_id}"), eve.get(f"/status/{uuid4()}")

    assert (others.status, others.body["title"]) == (404, "Request not found")
    assert others.body == unknown.body
    assert eve.get("/requests").body["requests"] == []


def test_an_unreadable_message_does_not_block_others(client: Client, stack: Stack, info: StackInfo) -> None:
    sqs = stack.client("sqs")
    for body in ("nonsense", '{"request_id": "12"}', json.dumps({"request_id": str(uuid4())})):
        sqs.send_message(QueueUrl=info.queue_url, MessageBody=body)

    assert client.wait(client.submit("Say so.", parameters={"max_tokens": 2}))["status"] == "completed"


def test_the_stack_survives_a_database_outage(client: Client, stack: Stack, info: StackInfo) -> None:
    before = client.submit("Say when.", parameters={"max_tokens": 2})
    stack.postgres.stop()
    try:
        refused = client.generate("Say never.")
        assert (refused.status, refused.body["code"]) == (503, "database_unavailable")
        assert refused.headers["Retry-After"] == "5"
        assert client.get(f"/status/{before}").status == 503
    finally:
        stack.restart_postgres()

    after = client.submit("Say again.", parameters={"max_tokens": 2})
    # A worker that does not connect again yet gives the message back, and the queue hides it for its visibility timeout.
    assert client.wait(after, seconds=200)["status"] == "completed"
    # If a worker had claimed it, its lease must expire first.
    assert client.wait(before, seconds=200)["status"] == "completed"


def test_each_function_acts_as_its_own_role(client: Client, database: Database) -> None:
    client.wait(client.submit("Say who.", parameters={"max_tokens": 2}))
    names = database.execute(
        "SELECT DISTINCT application_name AS name FROM pg_stat_activity WHERE application_name LIKE 'sluice_%'"
    ).fetchall()
    assert {row["name"] for row in names} >= {"sluice_submit", "sluice_status", "sluice_worker"}


def test_logs_are_in_one_place_and_contain_no_secrets(client: Client, info: StackInfo, database: Database) -> None:
    prompt = f"Repeat this: zebra{uuid4().hex}."
    answer = client.wait(client.submit(prompt, parameters={"max_tokens": 24}))

    def read_logs() -> dict[str, str]:
        return {path.stem: path.read_text() for path in Path(info.logs, "functions").glob("*.log")}

    deadline = time.monotonic() + 30
    logs = read_logs()
    called = {"submit", "status", "worker", "admin", "migrate"}
    while time.monotonic() < deadline:
        logs = read_logs()
        if called <= set(logs) and answer["request_id"] in logs["submit"]:
            break
        time.sleep(0.5)  # they are collected once a second
    assert called <= set(logs)
    everything = "".join(logs.values()) + json.dumps(database.execute("SELECT before, after FROM audit_log").fetchall())
    assert answer["request_id"] in logs["submit"]
    for secret in (prompt, answer["result"].strip(), info.api_key, "demo@example.com"):
        assert secret not in everything


def test_keys_are_not_in_the_database(info: StackInfo, database: Database) -> None:
    tables = database.execute(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'sluice'::regnamespace"
    ).fetchall()
    for table in tables:
        row = database.execute(
            f"SELECT count(*) AS n FROM {table['name']} t WHERE t::text LIKE %s", (f"%{info.api_key[7:]}%",)
        )
        assert row.fetchone() == {"n": 0}, table
