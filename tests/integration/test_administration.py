"""Administration: users, keys, tiers, quotas, models, the audit log; what is refused; and the schema's custom resource."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from sluice.db.migrations import migrations
from sluice.errors import SluiceError
from sluice.services.admin import OPERATIONS
from sluice.services.rollup import recover, run
from tests.support.functions import KEYED, Context, administer, event, get, load, post
from tests.support.ledger import SMALL, assert_books_balance, set_clock, settled_down, stop_the_clock
from tests.support.service import Service, completed, failed


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


UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"
PAST = "2020-01-01T00:00:00Z"
PERIOD = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}
MODEL = {"model_id": "m", "backend": "bedrock", "backend_model": "m"}


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
        ("user.get", {"user_id": "nobody"}, "user_not_found"),
        ("user.get", {"user_id": "\u0000"}, "invalid_input"),
        ("user.get", {"user_id": "\ud800"}, "invalid_input"),
        ("key.revoke", {"key_id": "\udfff", "user_id": "\ud800"}, "invalid_input"),
        ("\ud800", {}, "invalid_input"),
        ("user.list", {"limit": 0}, "invalid_input"),
        ("user.list", {"limit": 1001}, "invalid_input"),
        ("user.update", {"user_id": "alice"}, "invalid_input"),
        ("user.update", {"user_id": "alice", "is_active": "no"}, "invalid_input"),
        ("user.update", {"user_id": "alice", "is_active": None}, "invalid_input"),
        ("user.update", {"user_id": "alice", "name": ""}, "invalid_input"),
        ("user.update", {"user_id": "alice", "tier": "gold", "name": "Other"}, "tier_unknown"),
        ("user.update", {"user_id": "alice", "email": "BOB@example.com"}, "email_taken"),
        ("user.update", {"user_id": "nobody", "name": "N"}, "user_not_found"),
        ("user.deactivate", {"user_id": "nobody"}, "user_not_found"),
        ("user.activate", {"user_id": 7}, "invalid_input"),
        ("key.create", {"user_id": "nobody"}, "user_not_found"),
        ("key.create", {"user_id": "alice", "scopes": []}, "invalid_input"),
        ("key.create", {"user_id": "alice", "scopes": ["admin"]}, "invalid_input"),
        ("key.create", {"user_id": "alice", "expires_at": "tomorrow"}, "invalid_input"),
        ("key.create", {"user_id": "alice", "expires_at": "2030-01-01T00:00:00"}, "invalid_input"),
        ("key.create", {"user_id": "alice", "expires_at": "1900000000"}, "invalid_input"),
        ("key.create", {"user_id": "alice", "expires_at": 1900000000}, "invalid_input"),
        ("key.create", {"user_id": "alice", "expires_at": PAST}, "expiry_in_past"),
        ("key.list", {"user_id": "nobody"}, "user_not_found"),
        ("key.rotate", {"key_id": UNKNOWN_ID}, "key_not_found"),
        ("key.rotate", {"key_id": "LIVE", "overlap_seconds": -1}, "invalid_input"),
        ("key.rotate", {"key_id": "LIVE", "overlap_seconds": 2_592_001}, "invalid_input"),
        ("key.rotate", {"key_id": "LIVE", "expires_at": PAST}, "expiry_in_past"),
        ("key.rotate", {"key_id": "DEAD"}, "key_dead"),
        ("key.expire", {"key_id": "LIVE"}, "invalid_input"),
        ("key.expire", {"key_id": "LIVE", "expires_at": PAST}, "expiry_in_past"),
        ("key.expire", {"key_id": "DEAD", "expires_at": None}, "key_dead"),
        ("key.expire", {"key_id": UNKNOWN_ID, "expires_at": None}, "key_not_found"),
        ("key.revoke", {"key_id": "12"}, "invalid_input"),
        ("key.revoke", {"key_id": UNKNOWN_ID}, "key_not_found"),
        ("tier.get", {"tier": "gold"}, "tier_not_found"),
        ("tier.list", {"tier": "basic"}, "invalid_input"),
        ("tier.set", {"tier": "basic"}, "invalid_input"),
        ("tier.set", {"tier": "gold", "max_unfinished": 5}, "limits_missing"),
        ("tier.set", {"tier": "gold", "limits": {"minute": {}, "daily": {}}}, "limits_missing"),
        ("tier.set", {"tier": "basic", "max_unfinished": 0}, "invalid_input"),
        ("tier.set", {"tier": "basic", "max_unfinished": None}, "invalid_input"),
        ("tier.set", {"tier": "basic", "dispatch_window": 1.5}, "invalid_input"),
        ("tier.set", {"tier": "basic", "reset_frequency": "weekly"}, "invalid_input"),
        ("tier.set", {"tier": "basic", "price_list": "secret-list"}, "price_list_unknown"),
        ("tier.set", {"tier": "basic", "limits": {"hourly": {"max_requests": 1}}}, "invalid_input"),
        ("tier.set", {"tier": "basic", "limits": {"daily": {"max_requests": -1}}}, "invalid_input"),
        ("tier.set", {"tier": "basic", "limits": {"daily": {"max_requests": 2**31}}}, "invalid_input"),
        ("quota.get", {"user_id": "nobody"}, "user_not_found"),
        ("quota.set", {"user_id": "alice"}, "invalid_input"),
        ("quota.set", {"user_id": "alice", "limits": {"daily": 5}}, "invalid_input"),
        ("quota.set", {"user_id": "alice", "limits": {"daily": {"max_tokens": -1}}}, "invalid_input"),
        ("quota.set", {"user_id": "alice", "limits": {"daily": {"max_tokens": 10**16}}}, "invalid_input"),
        ("quota.set", {"user_id": "nobody", "max_unfinished": 5}, "user_not_found"),
        ("quota.clear", {"user_id": "alice", "periods": []}, "invalid_input"),
        ("quota.clear", {"user_id": "alice", "periods": ["weekly"]}, "invalid_input"),
        ("quota.clear", {"user_id": "nobody"}, "user_not_found"),
        ("model.list", {"all": True}, "invalid_input"),
        ("model.set", {"model_id": "m", "backend": "openai", "backend_model": "m"}, "invalid_input"),
        ("model.set", {"model_id": "m", "backend": "other", "backend_model": "m"}, "invalid_input"),
        (
            "model.set",
            {"model_id": "m", "backend": "openai", "backend_model": "m", "endpoint": "http://me:secret@host/v1"},
            "invalid_input",
        ),
        ("model.set", MODEL | {"max_tokens_default": 9999}, "invalid_input"),
        ("model.set", MODEL | {"prices": {"prompt": "-1"}}, "invalid_input"),
        ("price.list", {"price_list": "none"}, "price_list_unknown"),
        ("price.list", {"on": "2026-13-01"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "cheap"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "-0.1"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "0.00000000001"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "NaN"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "1_0"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "\u0661\u0662"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": True}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "1", "valid_from": "0"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "1", "currency": "usd"}, "invalid_input"),
        ("price.set", {"model_id": "nova-micro", "prompt": "1", "currency": "EUR"}, "currency_differs"),
        ("price.set", {"model_id": "none", "prompt": "1", "price_list": "new"}, "model_unknown"),
        ("price.set", {"model_id": "nova-micro", "prompt": "1", "valid_from": "today"}, "invalid_input"),
        ("usage.get", {"user_id": "nobody"}, "user_not_found"),
        ("usage.get", {"user_id": "alice", "start": "2026-02-02", "end": "2026-02-01"}, "invalid_input"),
        ("usage.get", {"user_id": "alice", "from": "2026-02-02"}, "invalid_input"),
        ("usage.tiers", {"user_id": "nobody"}, "user_not_found"),
        ("usage.tiers", {"start_month": "2026-00"}, "invalid_input"),
        ("usage.tiers", {"start_month": "2026-02", "end_month": "2026-01"}, "invalid_input"),
        ("invoice.get", {"user_id": "nobody", "month": "2026-01"}, "user_not_found"),
        ("invoice.get", {"user_id": "alice", "month": "2026-1"}, "invalid_input"),
        ("invoice.get", {"user_id": "alice", "month": "1969-12"}, "invalid_input"),
        ("invoice.get", {"user_id": "alice", "month": "2026-01", "format": "pdf"}, "invalid_input"),
        ("invoice.get", {"user_id": "alice", "month": "2026-01", "price_list": "none"}, "price_list_unknown"),
        ("request.list", {"limit": 0}, "invalid_input"),
        ("request.list", {"limit": 1001}, "invalid_input"),
        ("request.list", {"status": "lost"}, "invalid_input"),
        ("request.list", {"status": None, "user_id": "a b"}, "invalid_input"),
        ("request.list", {"error_code": "Robert'); DROP TABLE users"}, "invalid_input"),
        ("request.list", {"error_code": "\ud800"}, "invalid_input"),
        ("request.list", {"start": "2026-01-01T00:00:00"}, "invalid_input"),
        ("request.list", {"before": "1"}, "invalid_input"),
        ("request.list", {"after": UNKNOWN_ID}, "invalid_input"),
        ("request.cancel", {}, "invalid_input"),
        ("request.cancel", {"request_id": None}, "invalid_input"),
        ("request.cancel", {"request_id": "\ud800"}, "invalid_input"),
        ("request.cancel", {"request_id": UNKNOWN_ID, "user_id": "alice"}, "invalid_input"),
        ("request.cancel", {"request_id": UNKNOWN_ID}, "request_not_found"),
        ("request.cancel", {"request_id": "ENDED"}, "request_finished"),
        ("request.redrive", {}, "invalid_input"),
        ("request.redrive", {"request_id": 7}, "invalid_input"),
        ("request.redrive", {"request_id": "ENDED", "error_code": "worker_lost"} | PERIOD, "invalid_input"),
        ("request.redrive", {"request_id": "ENDED", "user_id": "alice"}, "invalid_input"),
        ("request.redrive", {"request_id": "ENDED", "dry_run": "yes"}, "invalid_input"),
        ("request.redrive", {"error_code": "worker_lost"}, "invalid_input"),
        ("request.redrive", PERIOD, "invalid_input"),
        ("request.redrive", {"error_code": "worker_lost", "start": PERIOD["start"]}, "invalid_input"),
        ("request.redrive", {"error_code": "Worker lost"} | PERIOD, "invalid_input"),
        ("request.redrive", {"error_code": "worker_lost"} | PERIOD | {"end": PERIOD["start"]}, "invalid_input"),
        ("request.redrive", {"error_code": "worker_lost", "after": "1"} | PERIOD, "invalid_input"),
        ("request.redrive", {"error_code": "worker_lost", "limit": 1001} | PERIOD, "invalid_input"),
        ("request.redrive", {"request_id": UNKNOWN_ID}, "request_not_found"),
        ("request.redrive", {"request_id": "ENDED"}, "request_not_failed"),
        ("audit.list", {"request_id": "1"}, "invalid_input"),
        ("audit.list", {"start": "2026-01-01T00:00:00"}, "invalid_input"),
        ("audit.list", {"action": "Robert'); DROP TABLE users"}, "invalid_input"),
        ("verify", {"full": "yes"}, "invalid_input"),
        ("verify", {"head": "1"}, "invalid_input"),
        ("rollup.run", {"tasks": ["none"]}, "invalid_input"),
        ("rollup.run", {"tasks": []}, "invalid_input"),
    ],
)
def test_administration_that_is_refused_changes_nothing_and_is_audited(
    deploy: Any, service: Service, alice: bytes, operation: Any, arguments: dict[str, Any], code: str
) -> None:
    service.add_user("bob", "sluice_" + "b" * 43)
    service.owner.execute("UPDATE users SET email = user_id || '@example.com'")
    service.owner.execute("UPDATE api_keys SET revoked_at = created_at WHERE user_id = 'bob'")
    keys = {row["user_id"]: str(row["key_id"]) for row in service.rows("SELECT user_id, key_id FROM api_keys")}
    ended = service.submit(alice)
    service.claim(ended)
    service.settle(completed(ended))
    known_ids = {"LIVE": keys["alice"], "DEAD": keys["bob"], "ENDED": str(ended)}
    given = arguments | {name: known_ids[value] for name, value in arguments.items() if value in tuple(known_ids)}
    tables = (
        *("users", "api_keys", "models", "prices", "price_lists", "billing_terms"),
        *("tiers", "tier_limits", "quotas", "quota_plans"),
        *("requests", "inflight"),
    )
    state = [service.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables]
    audited = service.value("SELECT count(*) FROM audit_log")
    deploy("admin")

    answer = administer(operation, **given)

    assert (answer["ok"], answer["problem"]["code"]) == (False, code)
    assert answer["problem"]["detail"]
    assert "me:secret" not in json.dumps(answer)
    assert [service.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables] == state
    *_, refused = service.rows("SELECT * FROM audit_log ORDER BY audit_id")
    assert service.value("SELECT count(*) FROM audit_log") == audited + 1
    assert (refused["actor"], refused["action"], refused["before"]) == ("admin", "admin.refused", None)
    known = operation if isinstance(operation, str) and operation in OPERATIONS else None
    assert refused["after"] == {"operation": known, "code": code}
    assert refused["invocation"] == UUID(Context.aws_request_id)
    assert refused["user_id"] in (None, "alice", "bob")
    assert (str(refused["key_id"]) if refused["key_id"] else None) == given.get("key_id") or refused["key_id"] is None


def test_every_operation_has_been_refused_here() -> None:
    (cases,) = (
        mark.args[1]
        for mark in test_administration_that_is_refused_changes_nothing_and_is_audited.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    )
    assert {operation for operation, _, _ in cases} >= set(OPERATIONS)


@pytest.fixture
def admin(deploy: Any) -> Callable[..., Any]:
    """Runs an operation that must succeed."""
    deploy("admin")

    def run(operation: str, **arguments: Any) -> Any:
        answer = administer(operation, **arguments)
        assert answer["ok"], answer
        return answer["result"]

    return run


def test_a_user_is_changed_field_by_field(admin: Callable[..., Any], service: Service) -> None:
    admin("user.create", user_id="carol", name="Carol", email="carol@example.com")
    assert admin("user.update", user_id="carol", email="c@example.com")["name"] == "Carol"
    cleared = admin("user.update", user_id="carol", name=None, email=None)
    assert (cleared["name"], cleared["email"], cleared["tier"], cleared["is_active"]) == (None, None, "basic", True)
    assert admin("user.deactivate", user_id="carol")["is_active"] is False
    assert admin("user.get", user_id="carol")["is_active"] is False
    assert admin("user.activate", user_id="carol")["is_active"] is True
    assert admin("user.activate", user_id="carol")["is_active"] is True

    rows = service.rows("SELECT before, after FROM audit_log WHERE action = 'user.updated' ORDER BY audit_id")
    assert [row["after"]["changed"] for row in rows] == [["email"], ["name", "email"], ["is_active"], ["is_active"]]
    assert "Carol" not in json.dumps(rows)
    assert "example.com" not in json.dumps(rows)
    assert [row["before"]["is_active"] for row in rows] == [True, True, True, False]


def test_an_inactive_user_is_refused_at_once(admin: Callable[..., Any], deploy: Any, alice: bytes) -> None:
    admin("user.deactivate", user_id="alice")
    deploy("submit")
    assert post('{"prompt": "hello"}')[2]["code"] == "user_inactive"
    deploy("status")
    assert get("/usage", KEYED)[2]["code"] == "user_inactive"


def test_a_submit_that_waits_for_the_gate_sees_a_key_revoked_meanwhile(service: Service, alice: bytes) -> None:
    key_id = service.value("SELECT key_id::text FROM api_keys")
    with psycopg.connect(service.dsn) as gate, ThreadPoolExecutor(1) as pool:
        gate.execute("SELECT FROM quota_plans FOR NO KEY UPDATE")
        waiting = pool.submit(service.submit, alice)
        while not service.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not waiting.done()
        gate.execute("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_id::text = %s", (key_id,))
        gate.commit()
        with pytest.raises(SluiceError) as refused:
            waiting.result(20)
    assert refused.value.code == "key_revoked"
    assert service.value("SELECT count(*) FROM requests") == 0


def test_a_rotated_key_overlaps(admin: Callable[..., Any], deploy: Any, service: Service) -> None:
    admin("user.create", user_id="carol")
    old = admin("key.create", user_id="carol", name="laptop", scopes=["submit", "submit"])
    assert old["scopes"] == ["submit"]
    new = admin("key.rotate", key_id=old["key_id"], overlap_seconds=3600)
    assert (new["name"], new["scopes"], new["expires_at"], new["user_id"]) == ("laptop", ["submit"], None, "carol")
    assert new["api_key"] != old["api_key"]
    assert new["replaces"]["key_id"] == old["key_id"]
    ends = datetime.fromisoformat(new["replaces"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=3590) < ends <= timedelta(seconds=3600)
    deploy("submit")
    for key in (old, new):
        assert post('{"prompt": "hello"}', {"x-api-key": key["api_key"]})[0] == 202

    service.owner.execute("UPDATE api_keys SET expires_at = now() WHERE expires_at IS NOT NULL")
    assert post('{"prompt": "hello"}', {"x-api-key": old["api_key"]})[2]["code"] == "key_expired"
    assert post('{"prompt": "hello"}', {"x-api-key": new["api_key"]})[0] == 202
    deploy("admin")
    again = admin("key.rotate", key_id=new["key_id"], overlap_seconds=0)
    deploy("submit")
    assert post('{"prompt": "hello"}', {"x-api-key": new["api_key"]})[2]["code"] == "key_expired"
    assert post('{"prompt": "hello"}', {"x-api-key": again["api_key"]})[0] == 202
    actions = [
        row["action"] for row in service.rows("SELECT action FROM audit_log WHERE actor = 'admin' ORDER BY audit_id")
    ]
    assert actions == ["user.created", "key.created", "key.created", "key.rotated", "key.created", "key.rotated"]


def test_a_rotation_makes_no_key_live_longer(admin: Callable[..., Any], alice: bytes) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    old = admin("key.create", user_id="alice", expires_at=soon)
    new = admin("key.rotate", key_id=old["key_id"])
    assert datetime.fromisoformat(new["expires_at"]) == datetime.fromisoformat(soon)
    assert datetime.fromisoformat(new["replaces"]["expires_at"]) == datetime.fromisoformat(soon)


def test_an_expiry_is_set_and_taken_away(admin: Callable[..., Any], alice: bytes) -> None:
    made = admin("key.create", user_id="alice")
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert datetime.fromisoformat(admin("key.expire", key_id=made["key_id"], expires_at=soon)["expires_at"])
    assert admin("key.expire", key_id=made["key_id"], expires_at=None)["expires_at"] is None
    listed = {key["key_id"]: key for key in admin("key.list", user_id="alice")}
    assert listed[made["key_id"]]["expires_at"] is None
    assert all("key_hash" not in key and "api_key" not in key for key in listed.values())


def limits(quota: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {p["period"]: (p["max_requests"], p["max_tokens"], p["is_override"]) for p in quota["periods"]}


def test_users_follow_their_tier_but_for_what_is_their_own(admin: Callable[..., Any], service: Service) -> None:
    gold = {
        "minute": {"max_requests": 10, "max_tokens": None},
        "daily": {"max_requests": 100, "max_tokens": 1000},
        "monthly": {"max_requests": None, "max_tokens": 20_000},
    }
    made = admin("tier.set", tier="gold", limits=gold, max_unfinished=7)
    assert (made["limits"], made["max_unfinished"], made["dispatch_window"], made["users_changed"]) == (gold, 7, 10, 0)
    admin("user.create", user_id="carol", tier="gold")
    admin("user.create", user_id="dave", tier="gold")
    own = admin("quota.set", user_id="dave", limits={"daily": {"max_tokens": 5000}}, max_unfinished=9)
    assert limits(own) == {"minute": (10, None, False), "daily": (100, 5000, True), "monthly": (None, 20_000, False)}
    assert (own["max_unfinished"], own["is_override"]) == (9, True)

    changed = admin("tier.set", tier="gold", limits={"daily": {"max_tokens": 2000}}, max_unfinished=8)
    assert changed["limits"]["daily"] == {"max_requests": 100, "max_tokens": 2000}
    assert (changed["users"], changed["users_changed"]) == (2, 1)
    assert limits(admin("quota.get", user_id="carol"))["daily"] == (100, 2000, False)
    assert admin("quota.get", user_id="carol")["max_unfinished"] == 8
    assert limits(admin("quota.get", user_id="dave"))["daily"] == (100, 5000, True)
    assert admin("quota.get", user_id="dave")["max_unfinished"] == 9

    back = admin("quota.clear", user_id="dave", periods=["daily"])
    assert (limits(back)["daily"], back["max_unfinished"]) == ((100, 2000, False), 9)
    assert admin("quota.clear", user_id="dave")["max_unfinished"] == 8

    admin("user.update", user_id="carol", tier="basic")
    assert limits(admin("quota.get", user_id="carol"))["daily"] == (1000, 100_000, False)
    rows = service.rows("SELECT user_id, before, after FROM audit_log WHERE action = 'quota.changed' ORDER BY audit_id")
    assert [row["user_id"] for row in rows] == ["dave", "carol", "dave", "dave", "carol"]
    assert rows[1]["before"]["limits"]["daily"]["max_tokens"] == 1000
    assert rows[1]["after"]["limits"]["daily"]["max_tokens"] == 2000


def test_who_enters_a_tier_that_is_being_changed_follows_it_as_it_will_be(
    admin: Callable[..., Any], service: Service
) -> None:
    limits = {period: {"max_requests": 10} for period in ("minute", "daily", "monthly")}
    admin("tier.set", tier="gold", limits=limits)
    admin("price.set", model_id="nova-micro", prompt="1", completion="1", price_list="golden")
    service.add_user("mover", "sluice_" + "m" * 43)
    changed = {"tier": "gold", "price_list": "golden", "limits": {period: {"max_requests": 3} for period in limits}}
    with psycopg.connect(service.dsn) as changing, ThreadPoolExecutor(2) as pool:
        changing.execute("SELECT admin_act('tier.set', %s, NULL)", (json.dumps(changed),))
        entering = [
            pool.submit(service.act, "user.create", user_id="racer", tier="gold"),
            pool.submit(service.act, "user.update", user_id="mover", tier="gold"),
        ]
        while service.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'") < 2:
            assert not any(each.done() for each in entering)
        changing.commit()
        for each in entering:
            each.result(20)
    rows = service.rows("SELECT DISTINCT max_requests FROM quotas")
    assert [row["max_requests"] for row in rows] == [3]
    lists = service.rows("SELECT DISTINCT price_list FROM billing_terms")
    assert [row["price_list"] for row in lists] == ["golden"]
    assert service.value("SELECT violations FROM books_check(true)") == []


def test_a_refusal_tells_the_counters_without_the_request(
    admin: Callable[..., Any], deploy: Any, alice: bytes, service: Service
) -> None:
    admin("quota.set", user_id="alice", max_unfinished=1, limits={"minute": {"max_requests": 5, "max_tokens": None}})
    deploy("submit")
    accepted, refused = post('{"prompt": "hello"}'), post('{"prompt": "hello"}')
    assert (accepted[0], refused[2]["code"]) == (202, "unfinished_exceeded")
    assert accepted[1]["x-ratelimit-remaining-requests"] == "4"
    for name in ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"):
        assert refused[1][name] == accepted[1][name]


def test_a_user_whose_limits_are_gone_is_not_let_in(deploy: Any, alice: bytes, service: Service) -> None:
    service.owner.execute("DELETE FROM quotas WHERE quota_period = 'daily'")
    deploy("submit")
    assert post('{"prompt": "hello"}')[2]["code"] == "internal_error"
    assert service.value("SELECT count(*) FROM requests") == 0
    (found,) = service.value("SELECT violations FROM books_check(false)")
    assert (found["invariant"], found["user_id"]) == ("plan_is_whole", "alice")


def test_a_limit_holds_from_the_next_request_on(admin: Callable[..., Any], deploy: Any, alice: bytes) -> None:
    deploy("submit")
    assert post('{"prompt": "hello"}')[0] == 202
    deploy("admin")
    admin("quota.set", user_id="alice", limits={"daily": {"max_requests": 1}})
    deploy("submit")
    status, headers, body = post('{"prompt": "hello"}')
    assert (status, body["code"]) == (429, "quota_exceeded")
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert int(headers["Retry-After"]) == int(headers["x-ratelimit-reset-requests"]) <= 86_400
    deploy("admin")
    admin("quota.set", user_id="alice", limits={"daily": {"max_requests": None}})
    deploy("submit")
    assert post('{"prompt": "hello"}')[0] == 202


def test_a_repeat_tells_the_limits_too(deploy: Any, alice: bytes) -> None:
    deploy("submit")
    key = KEYED | {"idempotency-key": "one"}
    first, again = post('{"prompt": "hello"}', key), post('{"prompt": "hello"}', key)
    assert again[2] == first[2]
    for name in ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"):
        assert again[1][name] == first[1][name]


def test_the_audit_log_is_read_by_user_request_and_time(
    admin: Callable[..., Any], service: Service, alice: bytes
) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    first, second = service.submit(alice), service.submit(alice)
    service.submit(bob)
    service.claim(first)
    service.settle(completed(first))

    of_first = admin("audit.list", request_id=str(first))
    assert [e["action"] for e in of_first["entries"]] == ["request.queued", "request.processing", "request.completed"]
    assert of_first["next_cursor"] is None
    assert {e["user_id"] for e in admin("audit.list", user_id="bob")["entries"]} == {"bob"}
    assert admin("audit.list", user_id="bob", request_id=str(second))["entries"] == []
    assert [e["request_id"] for e in admin("audit.list", user_id="alice", action="request.queued")["entries"]] == [
        str(first),
        str(second),
    ]
    everything = admin("audit.list", limit=1000)["entries"]
    paged, cursor = [], None
    while True:
        page = admin("audit.list", limit=2, **({"after": cursor} if cursor else {}))
        paged += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [e["audit_id"] for e in paged] == [e["audit_id"] for e in everything]
    # Found by millisecond, as UUIDv7 has it.
    middle = datetime.fromisoformat(everything[4]["at"]).replace(microsecond=0) + timedelta(seconds=1)
    service.owner.execute("SELECT pg_sleep_until(%s)", (middle,))
    service.submit(alice)
    early = admin("audit.list", end=middle.isoformat())["entries"]
    late = admin("audit.list", start=middle.isoformat())["entries"]
    assert [e["audit_id"] for e in early] == [e["audit_id"] for e in everything if e["at"] < middle.isoformat(" ")]
    assert [e["action"] for e in late if e["at"] > everything[-1]["at"]] == ["request.queued"]
    # What is told of a request does not depend on the request.
    service.owner.execute("DELETE FROM requests WHERE request_id = %s", (first,))
    assert admin("audit.list", request_id=str(first)) == of_first
    keys = {e["key_id"] for e in everything if e["action"] == "request.queued"}
    assert keys == {str(row["key_id"]) for row in service.rows("SELECT key_id FROM api_keys")}


# Requests -------------------------------------------------------------------------------------------------------------


def fail(service: Service, *ids: UUID, attempt: int = 1, **changes: Any) -> None:
    """Have these requests fail for model_rejected, or as `changes` say."""
    service.claim(*ids)
    service.settle(*[failed(each, attempt, **changes) for each in ids])


def now_ish(**more: Any) -> dict[str, Any]:
    """What failed for model_rejected in this test."""
    around = {name: datetime.now(UTC) + timedelta(hours=hours) for name, hours in (("start", -1), ("end", 1))}
    return {"error_code": "model_rejected"} | {name: at.isoformat() for name, at in around.items()} | more


def request_state(service: Service) -> list[Any]:
    """All that a redrive may change."""
    return [service.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("requests_all", "inflight", "quotas")]


def counters(service: Service, user_id: str = "alice") -> list[tuple[int, int, int]]:
    """Requests counted, tokens used and tokens reserved: one entry where all periods agree."""
    rows = service.rows(
        "SELECT DISTINCT requests_used, tokens_used, tokens_reserved FROM quotas WHERE user_id = %s", user_id
    )
    return [tuple(row.values()) for row in rows]


def statuses(service: Service) -> dict[UUID, str]:
    return {row["request_id"]: row["status"] for row in service.rows("SELECT request_id, status FROM requests_all")}


def outcomes(result: dict[str, Any]) -> dict[str, str]:
    return {each["request_id"]: each["outcome"] for each in result["requests"]}


def test_requests_are_listed_newest_first_by_whatever_is_known_of_them(
    admin: Callable[..., Any], service: Service, alice: bytes
) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    rejected, done, lost, of_bob, waiting = (service.submit(key) for key in (alice, alice, alice, bob, alice))
    fail(service, rejected, prompt_tokens=5)
    service.claim(done)
    service.settle(completed(done))
    fail(service, lost, error_code="worker_lost")
    service.claim(waiting)
    service.settle(failed(waiting, outcome="retry", error_code="model_timeout", retry_after=600))

    def listed(**filters: Any) -> list[UUID]:
        return [UUID(each["request_id"]) for each in admin("request.list", **filters)["requests"]]

    assert listed() == [waiting, of_bob, lost, done, rejected]
    assert listed(user_id="bob") == [of_bob]
    assert listed(status="failed") == [lost, rejected]
    assert listed(status="failed", error_code="worker_lost", user_id="alice") == [lost]
    assert listed(status="expired") == []
    assert listed(user_id="nobody") == []
    (middle,) = (each["created_at"] for each in admin("request.list", user_id="bob")["requests"])
    middle = datetime.fromisoformat(middle).isoformat()
    assert listed(start=middle, end=middle) == []
    assert set(listed(start=middle)) | set(listed(end=middle)) == set(listed())
    assert of_bob in listed(start=middle)
    assert of_bob not in listed(end=middle)

    paged, cursor = [], None
    while True:
        page = admin("request.list", limit=2, **({"before": cursor} if cursor else {}))
        paged += page["requests"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == admin("request.list")["requests"]
    shown = {UUID(each["request_id"]): each for each in paged}
    assert (shown[rejected]["error_code"], shown[rejected]["error_message"]) == ("model_rejected", "no")
    assert (shown[rejected]["prompt_tokens"], shown[rejected]["attempts"]) == (5, 1)
    assert (shown[waiting]["status"], shown[waiting]["last_error"]) == ("queued", "model_timeout")
    assert shown[waiting]["waits_for"] == "retry"
    assert datetime.fromisoformat(shown[waiting]["waits_until"]) > datetime.now(UTC)
    assert shown[done]["waits_for"] is None
    assert all("prompt" not in each and "content" not in each for each in paged)


def test_an_operator_cancels(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    queued, begun = service.submit(alice), service.submit(alice)
    service.claim(begun)

    for _ in range(2):
        answer = admin("request.cancel", request_id=str(queued))
        assert answer == {"request_id": str(queued), "user_id": "alice", "status": "cancelled"}
        assert admin("request.cancel", request_id=str(begun))["status"] == "processing"
    service.settle(completed(begun))

    assert set(statuses(service).values()) == {"cancelled"}
    assert counters(service) == [(2, 10, 0)]
    told = service.rows("SELECT request_id, action FROM audit_log WHERE actor = 'admin' AND request_id IS NOT NULL")
    assert {(row["request_id"], row["action"]) for row in told} == {
        (queued, "request.cancelled"),
        (begun, "request.cancel_requested"),
    }
    assert len(told) == 2, "what is cancelled twice is cancelled once"
    assert_books_balance(service)


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_a_failed_request_is_queued_again_and_only_its_new_end_counts(
    admin: Callable[..., Any], service: Service, alice: bytes, is_rolled_up: bool
) -> None:
    def rolled_up() -> None:
        if is_rolled_up:
            settled_down(service)
            run(service.rollup(), ["usage", "stats"])

    request_id, other = service.submit(alice), service.submit(alice)
    fail(service, request_id, other, prompt_tokens=5, completion_tokens=2)
    service.queue.take()
    rolled_up()
    assert counters(service) == [(2, 14, 0)]
    reserved = service.value("SELECT reserved_tokens FROM requests WHERE request_id = %s", request_id)

    result = admin("request.redrive", request_id=str(request_id))

    outcome = {"request_id": str(request_id), "outcome": "redriven"}
    assert result == {"redriven": 1, "requests": [outcome], "next_cursor": None}
    (row,) = service.rows("SELECT * FROM requests WHERE request_id = %s", request_id)
    assert (row["status"], row["attempts"]) == ("queued", 2)
    assert {row[name] for name in ("error_code", "error_message", "completed_at", "total_tokens")} == {None}
    (waits,) = service.rows("SELECT * FROM inflight")
    assert (waits["attempt"], waits["failures"], waits["max_attempts"]) == (2, 0, 20)
    lifetime = waits["expires_at"] - datetime.now(UTC)
    assert timedelta(hours=23) < lifetime <= timedelta(hours=24)
    assert counters(service) == [(2, 7, reserved)], "its place is reserved again, and it is not counted again"
    (audited,) = service.rows("SELECT * FROM audit_log WHERE action = 'request.redriven'")
    assert (audited["actor"], audited["user_id"], audited["request_id"]) == ("admin", "alice", request_id)
    assert audited["invocation"] == UUID(Context.aws_request_id)
    assert (audited["before"]["status"], audited["before"]["error_code"]) == ("failed", "model_rejected")
    assert audited["after"] == {"status": "queued", "wasted_tokens": 7}
    assert_books_balance(service)
    rolled_up()
    assert_books_balance(service)

    recover(service.rollup())
    assert service.queue.take() == [request_id]
    (claim,) = service.claim(request_id)
    assert claim["attempt"] == 3
    service.settle(completed(request_id, attempt=3))

    assert counters(service) == [(2, 17, 0)]
    assert_books_balance(service)
    rolled_up()
    assert_books_balance(service)
    (day,) = admin("usage.get", user_id="alice")["days"]
    assert (day["requests"], day["prompt_tokens"], day["completion_tokens"]) == (2, 12, 5)
    if is_rolled_up:
        stats = service.rows("SELECT sum(request_count) AS n, sum(failure_count) AS failed FROM request_stats")
        assert stats == [{"n": 2, "failed": 1}]


def test_all_that_failed_for_a_reason_in_a_period_are_queued_again_and_none_else(
    admin: Callable[..., Any], service: Service, alice: bytes
) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    first, second, lost, done, open_one = (service.submit(alice) for _ in range(5))
    of_bob = service.submit(bob)
    fail(service, first, second, of_bob)
    fail(service, lost, error_code="worker_lost")
    service.claim(done)
    service.settle(completed(done))

    for start, end in ((-48, -24), (24, 48)):
        period = {
            name: (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
            for name, hours in (("start", start), ("end", end))
        }
        assert admin("request.redrive", **now_ish() | period)["requests"] == []
    of_alice = admin("request.redrive", **now_ish(user_id="alice"))

    assert outcomes(of_alice) == {str(first): "redriven", str(second): "redriven"}
    assert (of_alice["redriven"], of_alice["next_cursor"]) == (2, None)
    expected = {
        first: "queued",
        second: "queued",
        lost: "failed",
        done: "completed",
        open_one: "queued",
        of_bob: "failed",
    }
    assert statuses(service) == expected
    assert outcomes(admin("request.redrive", **now_ish())) == {str(of_bob): "redriven"}

    state = request_state(service)
    again = admin("request.redrive", **now_ish())
    assert again == {"redriven": 0, "requests": [], "next_cursor": None}
    assert request_state(service) == state
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.redriven'") == 3
    assert_books_balance(service)

    fail(service, first, attempt=3, error_code="worker_lost")
    fail(service, second, attempt=3)
    assert outcomes(admin("request.redrive", **now_ish())) == {str(second): "redriven"}, "first failed otherwise since"
    assert outcomes(admin("request.redrive", **now_ish(error_code="worker_lost"))) == {
        str(first): "redriven",
        str(lost): "redriven",
    }
    assert_books_balance(service)


def test_many_are_queued_again_page_by_page(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(5)]
    fail(service, *ids)
    found: list[dict[str, Any]] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = admin("request.redrive", **now_ish(limit=2, **({"after": cursor} if cursor else {})))
        assert page["redriven"] == len(page["requests"]) <= 2
        found += page["requests"]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 3
    assert sorted(UUID(each["request_id"]) for each in found) == ids
    assert set(statuses(service).values()) == {"queued"}
    assert_books_balance(service)


@pytest.mark.parametrize(
    ("code", "hinder", "clear"),
    [
        ("user_inactive", ("user.deactivate", {"user_id": "alice"}), ("user.activate", {"user_id": "alice"})),
        ("model_unknown", ("model.set", SMALL | {"is_active": False}), ("model.set", SMALL)),
        (
            "quota_exceeded",
            ("quota.set", {"user_id": "alice", "limits": {"daily": {"max_tokens": 20}}}),
            ("quota.clear", {"user_id": "alice"}),
        ),
    ],
)
def test_what_hinders_a_redrive_is_told_and_nothing_is_changed(
    admin: Callable[..., Any], service: Service, alice: bytes, code: str, hinder: Any, clear: Any
) -> None:
    admin("model.set", **SMALL)
    request_id = service.submit(alice, model="small")
    fail(service, request_id)
    operation, arguments = hinder
    admin(operation, **arguments)
    state = request_state(service)

    answer = administer("request.redrive", request_id=str(request_id))

    assert (answer["ok"], answer["problem"]["code"]) == (False, code)
    assert answer["problem"]["detail"]
    *_, refused = service.rows("SELECT * FROM audit_log ORDER BY audit_id")
    assert (refused["actor"], refused["action"]) == ("admin", "admin.refused")
    assert refused["after"] == {"operation": "request.redrive", "code": code}
    assert refused["invocation"] == UUID(Context.aws_request_id)
    many = admin("request.redrive", **now_ish())
    assert (many["redriven"], outcomes(many)) == (0, {str(request_id): code})
    assert request_state(service) == state
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.redriven'") == 0

    operation, arguments = clear
    admin(operation, **arguments)
    assert outcomes(admin("request.redrive", **now_ish())) == {str(request_id): "redriven"}
    assert_books_balance(service)


def test_what_a_quota_has_room_for_is_queued_again(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(3)]
    fail(service, *ids)
    reserved = service.value("SELECT DISTINCT reserved_tokens FROM requests")
    admin("quota.set", user_id="alice", limits={"monthly": {"max_tokens": 2 * reserved + 1}})

    done = admin("request.redrive", **now_ish())

    assert done["redriven"] == 2
    assert sorted(outcomes(done).values()) == ["quota_exceeded", "redriven", "redriven"]
    assert counters(service) == [(3, 0, 2 * reserved)]
    assert_books_balance(service)


def test_what_is_archived_is_left_as_it_is(admin: Callable[..., Any], service: Service) -> None:
    today = datetime.now(UTC)
    stop_the_clock(service.owner, today - timedelta(days=100))
    request_id = service.submit(service.add_user())
    fail(service, request_id)
    set_clock(service.owner, today)
    assert run(service.rollup(), ["archive"])["archive"]["archived"]
    state = request_state(service)

    for operation, code in (("request.redrive", "request_archived"), ("request.cancel", "request_finished")):
        assert administer(operation, request_id=str(request_id))["problem"]["code"] == code
    assert outcomes(admin("request.redrive", **now_ish())) == {str(request_id): "request_archived"}
    assert admin("request.list")["requests"] == []
    assert request_state(service) == state
    assert_books_balance(service)


def test_a_dry_run_only_says_which(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(3)]
    fail(service, *ids[:2])
    state, audited = request_state(service), service.value("SELECT count(*) FROM audit_log")

    found = admin("request.redrive", **now_ish(dry_run=True))
    one = admin("request.redrive", request_id=str(ids[0]), dry_run=True)

    assert (found["redriven"], outcomes(found)) == (0, {str(ids[0]): "found", str(ids[1]): "found"})
    assert (one["redriven"], outcomes(one)) == (0, {str(ids[0]): "found"})
    assert request_state(service) == state
    assert service.value("SELECT count(*) FROM audit_log") == audited


def test_two_operators_queue_a_request_again_once(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(10)]
    fail(service, *ids)
    with ThreadPoolExecutor(4) as pool:
        arguments = now_ish(user_id=None, after=None, request_id=None, limit=1000, dry_run=False)
        lifetime = {"ttl_seconds": 60, "max_attempts": 3}
        done = list(pool.map(lambda _: service.act("request.redrive", **arguments | lifetime), range(4)))
    assert sum(each["redriven"] for each in done) == 10
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.redriven'") == 10
    assert_books_balance(service)


# The schema's custom resource ------------------------------------------------------------------------------------------


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
