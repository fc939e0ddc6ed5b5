"""Administration that is refused changes nothing and is audited: every operation."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import Any
from uuid import UUID

import pytest

from sluice.services.admin.administer import OPERATIONS
from tests.support.functions import Context, administer
from tests.support.service import Service, completed

UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"
PAST = "2020-01-01T00:00:00Z"
PERIOD = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}
MODEL = {"model_id": "m", "backend": "bedrock", "backend_model": "m"}
EMBEDDING = MODEL | {"backend": "openai", "endpoint": "https://models.example/v1", "kind": "embedding"}


@pytest.fixture(scope="module")
def dsn(copied_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """One for all: with alice, bob whose key is revoked, an alias, and a request that has ended."""
    with copied_database() as made, closing(Service(made)) as service:
        alice = service.add_user()
        service.add_user("bob", "sluice_" + "b" * 43)
        service.owner.execute("UPDATE users SET email = user_id || '@example.com'")
        service.owner.execute("UPDATE api_keys SET revoked_at = created_at WHERE user_id = 'bob'")
        service.act("alias.set", alias="other-name", model_id="nova-micro")
        ended = service.submit(alice)
        service.claim(ended)
        service.settle(completed(ended))
        yield made


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("no.such", {}, "operation_unknown"),
        (5, {}, "invalid_input"),
        ("user.create", {}, "invalid_input"),
        ("user.create", {"user_id": ""}, "invalid_input"),
        ("user.create", {"user_id": "a b"}, "invalid_input"),
        ("user.create", {"user_id": "a" * 256}, "invalid_input"),
        ("user.create", {"user_id": "x", "email": "nobody"}, "invalid_input"),
        ("user.create", {"user_id": "x", "admin": True}, "invalid_input"),
        ("user.create", {"user_id": "x", "tier": "gold"}, "tier_unknown"),
        ("user.create", {"user_id": "alice"}, "user_exists"),
        ("user.create", {"user_id": "x", "email": "ALICE@example.com"}, "email_taken"),
        ("user.get", {"user_id": "nobody"}, "user_not_found"),
        ("webhook.list", {"user_id": "nobody"}, "user_not_found"),
        ("webhook.deliveries", {"user_id": "nobody"}, "user_not_found"),
        ("webhook.deliveries", {"user_id": "alice", "state": "late"}, "invalid_input"),
        ("webhook.enable", {"endpoint_id": "we_" + "0" * 32}, "webhook_endpoint_not_found"),
        ("webhook.disable", {"endpoint_id": "we_" + "0" * 32}, "webhook_endpoint_not_found"),
        ("webhook.delete", {"endpoint_id": "we_me:secret"}, "invalid_input"),
        ("webhook.redeliver", {"event_id": "evt_" + "0" * 32}, "webhook_event_not_found"),
        ("webhook.redeliver", {"event_id": "we_" + "0" * 32}, "invalid_input"),
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
        ("model.set", MODEL | {"kind": "embedding"}, "invalid_input"),
        ("model.set", EMBEDDING | {"backend": "sagemaker", "endpoint": None, "kind": "speech"}, "invalid_input"),
        ("model.set", MODEL | {"kind": "image"}, "invalid_input"),
        ("model.set", MODEL | {"item_tokens": None}, "invalid_input"),
        ("model.set", EMBEDDING | {"is_default": True}, "invalid_input"),
        ("model.set", {"model_id": "nova-micro", "kind": "embedding"}, "model_kind_fixed"),
        ("model.set", MODEL | {"model_id": "other-name"}, "name_taken"),
        ("model.fallback", {"model_id": "nova-micro", "fallbacks": ["none"]}, "model_unknown"),
        ("model.fallback", {"model_id": "none", "fallbacks": []}, "model_unknown"),
        ("model.fallback", {"model_id": "nova-micro", "fallbacks": ["nova-micro"]}, "fallback_unfit"),
        ("model.fallback", {"model_id": "nova-micro", "fallbacks": ["a", "a"]}, "invalid_input"),
        ("model.fallback", {"model_id": "nova-micro"}, "invalid_input"),
        ("cache.purge", {}, "invalid_input"),
        ("stats.calibration", {"start": "2027-01-02", "end": "2027-01-01"}, "invalid_input"),
        ("stats.calibration", {"model": "nova-micro"}, "invalid_input"),
        ("stats.windows", {"start": "2027-01-02", "end": "2027-01-01"}, "invalid_input"),
        ("price.windows", {"price_list": "none"}, "price_list_unknown"),
        ("price.window", {"window": "24h", "window_list": "none"}, "price_list_unknown"),
        ("cache.purge", {"user_id": "nobody"}, "user_not_found"),
        ("cache.purge", {"model_id": "none"}, "model_unknown"),
        ("key.create", {"user_id": "alice", "models": ["none"]}, "model_unknown"),
        ("key.create", {"user_id": "alice", "models": []}, "invalid_input"),
        ("key.create", {"user_id": "alice", "cache_max_age": -1}, "invalid_input"),
        ("alias.list", {"all": True}, "invalid_input"),
        ("alias.set", {"alias": "x"}, "invalid_input"),
        ("alias.set", {"alias": "a b", "model_id": "nova-micro"}, "invalid_input"),
        ("alias.set", {"alias": "x", "model_id": "other-name"}, "model_unknown"),
        ("alias.set", {"alias": "nova-micro", "model_id": "nova-micro"}, "name_taken"),
        ("alias.remove", {"alias": "x"}, "alias_unknown"),
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
        ("invoice.get", {"user_id": "alice", "month": "2026-01", "by_key": True, "by_tag": "x"}, "invalid_input"),
        ("usage.get", {"user_id": "alice", "by_tag": ""}, "invalid_input"),
        ("budget.list", {"user_id": "nobody"}, "user_not_found"),
        ("budget.set", {"user_id": "nobody", "limits": {"daily": "1"}}, "user_not_found"),
        ("budget.set", {"user_id": "alice", "limits": {}}, "invalid_input"),
        ("budget.clear", {"user_id": "nobody"}, "user_not_found"),
        ("budget.clear", {"user_id": "alice", "key_id": UNKNOWN_ID}, "key_not_found"),
        ("request.get", {}, "invalid_input"),
        ("request.get", {"request_id": UNKNOWN_ID}, "request_not_found"),
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
        ("batch.list", {"user_id": "nobody"}, "user_not_found"),
        ("batch.list", {"status": "late"}, "invalid_input"),
        ("batch.show", {"batch_id": "batch_" + "0" * 32}, "batch_not_found"),
        ("batch.cancel", {"batch_id": "batch_" + "0" * 32}, "batch_not_found"),
        ("batch.cancel", {"batch_id": UNKNOWN_ID}, "invalid_input"),
        ("audit.list", {"request_id": "1"}, "invalid_input"),
        ("audit.list", {"start": "2026-01-01T00:00:00"}, "invalid_input"),
        ("audit.list", {"action": "Robert'); DROP TABLE users"}, "invalid_input"),
        ("verify", {"full": "yes"}, "invalid_input"),
        ("verify", {"head": "1"}, "invalid_input"),
        ("rollup.run", {"tasks": ["none"]}, "invalid_input"),
        ("rollup.run", {"tasks": []}, "invalid_input"),
    ],
)
def test_refused_administration_changes_nothing_and_is_audited(
    deploy: Any, service: Service, operation: Any, arguments: dict[str, Any], code: str
) -> None:
    keys = {row["user_id"]: str(row["key_id"]) for row in service.rows("SELECT user_id, key_id FROM api_keys")}
    ended = str(service.value("SELECT request_id FROM requests"))
    known_ids = {"LIVE": keys["alice"], "DEAD": keys["bob"], "ENDED": ended}
    given = arguments | {name: known_ids[value] for name, value in arguments.items() if value in tuple(known_ids)}
    tables = (
        *("users", "api_keys", "models", "model_aliases", "prices", "price_lists", "billing_terms"),
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


def test_every_operation_has_a_refusal_case() -> None:
    (cases,) = (
        mark.args[1]
        for mark in test_refused_administration_changes_nothing_and_is_audited.pytestmark
        if mark.name == "parametrize"
    )
    assert {operation for operation, _, _ in cases} >= set(OPERATIONS)
