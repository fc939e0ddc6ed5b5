"""The functions that operators and deployments call: administration and migration, from event to answer."""

import json
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from sluice.db.migrations import migrations
from tests.support.functions import Context, event, load, post
from tests.support.service import Service


def administer(operation: Any, **arguments: Any) -> dict[str, Any]:
    return load("admin.app").handler({"operation": operation, "arguments": arguments}, Context())


def test_a_fresh_deployment_can_be_used(deploy: Any, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    deploy("admin")
    user = administer("user.create", user_id="carol", name="Carol", email="Carol@example.com", tier="standard")
    assert (user["ok"], user["result"]["tier"], user["result"]["is_active"]) == (True, "standard", True)
    key = administer("key.create", user_id="carol", name="laptop")["result"]
    assert key["api_key"].startswith(key["key_prefix"])
    model = {
        "model_id": "small",
        "backend": "openai",
        "backend_model": "small-1",
        "endpoint": "http://127.0.0.1:9/v1",
        "is_default": True,
        "prices": {"prompt": "0.1", "completion": "0.25"},
    }
    assert administer("model.set", **model)["result"]["prices"] == {"prompt": "0.1", "completion": "0.25"}
    listed = {m["model_id"]: m for m in administer("model.list")["result"]}
    assert {m: listed[m]["is_default"] for m in listed} == {"small": True, "nova-micro": False}
    assert [u["user_id"] for u in administer("user.list")["result"]] == ["carol"]
    (kept,) = administer("key.list", user_id="carol")["result"]
    assert "api_key" not in kept
    assert key["api_key"] not in json.dumps(
        service.rows("SELECT *, encode(key_hash, 'escape') AS h FROM api_keys"), default=str
    )

    deploy("submit")
    assert post('{"prompt": "hello"}', {"x-api-key": key["api_key"]})[0] == 202

    deploy("admin")
    revoked = administer("key.revoke", key_id=key["key_id"])["result"]
    assert administer("key.revoke", key_id=key["key_id"])["result"] == revoked
    deploy("submit")
    assert post('{"prompt": "hello"}', {"x-api-key": key["api_key"]})[2]["code"] == "key_revoked"
    actions = [
        row["action"] for row in service.rows("SELECT action FROM audit_log WHERE actor = 'admin' ORDER BY audit_id")
    ]
    assert actions == ["user.created", "key.created", "price.set", "price.set", "model.set", "key.revoked"]
    written = json.dumps(service.rows("SELECT * FROM audit_log"), default=str) + capsys.readouterr().out
    for secret in (key["api_key"], "Carol@example.com", "Carol"):
        assert secret not in written


def test_a_price_that_stays_is_not_written_again(deploy: Any, service: Service) -> None:
    deploy("admin")
    model = {"model_id": "m", "backend": "bedrock", "backend_model": "m", "prices": {"prompt": "1"}}
    administer("model.set", **model)
    service.owner.execute("UPDATE prices SET valid_from = valid_from - 1")
    administer("model.set", **model | {"prices": {"prompt": "1.0"}})
    administer("model.set", **model | {"prices": {"prompt": "3"}})
    administer("model.set", **model | {"prices": {"prompt": "2"}})
    prices = service.rows("SELECT price_per_million AS p FROM prices WHERE model_id = 'm' ORDER BY valid_from")
    assert [row["p"] for row in prices] == [1, 2], "what a day costs is corrected on that day, and kept afterwards"


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("no.such", {}, "operation_unknown"),
        (5, {}, "invalid_input"),
        ("user.create", {}, "invalid_input"),
        ("user.create", {"user_id": ""}, "invalid_input"),
        ("user.create", {"user_id": "a b"}, "invalid_input"),
        ("user.create", {"user_id": "a" * 51}, "invalid_input"),
        ("user.create", {"user_id": "x", "email": "nobody"}, "invalid_input"),
        ("user.create", {"user_id": "x", "admin": True}, "invalid_input"),
        ("user.create", {"user_id": "x", "tier": "gold"}, "tier_unknown"),
        ("user.create", {"user_id": "alice"}, "user_exists"),
        ("user.create", {"user_id": "x", "email": "ALICE@example.com"}, "email_taken"),
        ("key.create", {"user_id": "nobody"}, "user_not_found"),
        ("key.create", {"user_id": "alice", "scopes": []}, "invalid_input"),
        ("key.create", {"user_id": "alice", "scopes": ["admin"]}, "invalid_input"),
        ("key.create", {"user_id": "alice", "expires_at": "tomorrow"}, "invalid_input"),
        ("key.create", {"user_id": "alice", "expires_at": "2030-01-01T00:00:00"}, "invalid_input"),
        ("key.revoke", {"key_id": "12"}, "invalid_input"),
        ("key.revoke", {"key_id": "00000000-0000-7000-8000-000000000000"}, "key_not_found"),
        ("model.set", {"model_id": "m", "backend": "openai", "backend_model": "m"}, "invalid_input"),
        ("model.set", {"model_id": "m", "backend": "other", "backend_model": "m"}, "invalid_input"),
        (
            "model.set",
            {"model_id": "m", "backend": "openai", "backend_model": "m", "endpoint": "http://me:secret@host/v1"},
            "invalid_input",
        ),
        (
            "model.set",
            {"model_id": "m", "backend": "bedrock", "backend_model": "m", "max_tokens_default": 9999},
            "invalid_input",
        ),
        (
            "model.set",
            {"model_id": "m", "backend": "bedrock", "backend_model": "m", "prices": {"prompt": "-1"}},
            "invalid_input",
        ),
        ("rollup.run", {"tasks": ["none"]}, "invalid_input"),
    ],
)
def test_administration_that_is_refused_changes_nothing(
    deploy: Any, service: Service, alice: bytes, operation: Any, arguments: dict[str, Any], code: str
) -> None:
    service.owner.execute("UPDATE users SET email = 'alice@example.com'")
    tables = ("users", "api_keys", "models", "prices", "quotas", "quota_plans")
    state = [service.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    deploy("admin")

    answer = administer(operation, **arguments)

    assert (answer["ok"], answer["problem"]["code"]) == (False, code)
    assert answer["problem"]["detail"]
    assert "secret" not in json.dumps(answer)
    assert [service.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables] == state


def test_the_custom_resource_migrates(deploy: Any, empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("migrate", empty_dsn)
    migrate = load("admin.migrate")
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(migrate, "_answer", lambda _, report: told.append(report))

    for name in ("migrate-create", "migrate-update", "migrate-delete"):
        report = migrate.handler(event(name), Context())
        assert report["Status"] == "SUCCESS"
        assert told.pop() == report

    deploy("migrate", make_conninfo(empty_dsn, port=1))
    report = migrate.handler(event("migrate-create"), Context())
    assert (report["Status"], told.pop()["Status"]) == ("FAILED", "FAILED")
    assert migrate.handler(event("migrate-delete"), Context())["Status"] == "SUCCESS", "a stack can always be deleted"


def test_cloudformation_gets_its_answer(deploy: Any, dsn: str) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    heard: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        deploy("migrate")
        request = event("migrate-create", ResponseURL=f"http://127.0.0.1:{server.server_port}/answer")
        load("admin.migrate").handler(request, Context())
        thread.join(20)

    (answer,) = heard
    assert answer["Status"] == "SUCCESS"
    assert answer["PhysicalResourceId"] == "sluice-schema"
    for member in ("StackId", "RequestId", "LogicalResourceId"):
        assert answer[member] == request[member]
    assert answer["Data"] == {"SchemaVersion": str(len(migrations()))}
