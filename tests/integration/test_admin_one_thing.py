"""Changing one thing changes one thing, and what a change takes away from clients is refused or warned about."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.functions import KEYED, administer, post
from tests.support.service import Service

Admin = Callable[..., Any]
FULL: dict[str, Any] = {
    "model_id": "full",
    "backend": "openai",
    "backend_model": "org/full",
    "endpoint": "https://models.example.com/v1",
    "secret_arn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:sluice/models/full",
    "max_tokens_default": 100,
    "max_tokens_limit": 2000,
    "overhead_tokens": 7,
    "item_tokens": 5,
    "image_tokens": 765,
    "timeout_seconds": 33,
    "is_default": True,
    "is_active": True,
    "kind": "chat",
    "prices": {"prompt": "0.5", "completion": "1.5"},
}
OTHER = {"model_id": "other", "backend": "bedrock", "backend_model": "other"}


def described(model: dict[str, Any]) -> dict[str, Any]:
    return {name: model[name] for name in FULL}


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens_limit": 900},
        {"max_tokens_default": 50},
        {"endpoint": "https://elsewhere.example.com/v1"},
        {"secret_arn": None},
        {"overhead_tokens": 0},
        {"item_tokens": 0},
        {"image_tokens": None},
        {"kind": "chat"},
        {"timeout_seconds": 60},
        {"backend_model": "org/fuller"},
        {"is_default": True},
        {"backend": "bedrock", "endpoint": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_model_keeps_what_is_not_named(admin: Admin, change: dict[str, Any]) -> None:
    assert described(admin("model.set", **FULL)) == FULL
    assert described(admin("model.set", model_id="full", **change)) == FULL | change


def test_a_model_keeps_its_kind(admin: Admin) -> None:
    embedding = FULL | {"model_id": "vectors", "kind": "embedding", "is_default": False, "image_tokens": None}
    assert described(admin("model.set", **embedding)) == embedding
    problem = administer("model.set", model_id="vectors", kind="chat")["problem"]
    assert (problem["code"], problem["status"]) == ("model_kind_fixed", 409)
    assert administer("model.set", model_id="vectors", is_default=True)["problem"]["code"] == "invalid_input"
    assert described(admin("model.set", model_id="vectors", kind="embedding", timeout_seconds=9)) == embedding | {
        "timeout_seconds": 9
    }


@pytest.mark.parametrize("token_class", ["prompt", "completion"])
def test_a_price_alone_leaves_the_other_price(admin: Admin, token_class: str) -> None:
    admin("model.set", **FULL)
    changed = admin("model.set", model_id="full", prices={token_class: "9"})
    assert described(changed) == FULL | {"prices": FULL["prices"] | {token_class: "9"}}
    found = admin("price.set", model_id="full", **{token_class: "8"})
    assert {row["token_class"]: row["price_per_million"] for row in found} == FULL["prices"] | {token_class: "8"}


def test_a_new_model_gets_defaults(admin: Admin) -> None:
    made = admin("model.set", **OTHER)
    assert described(made) == OTHER | {
        "endpoint": None,
        "secret_arn": None,
        "max_tokens_default": 256,
        "max_tokens_limit": 1024,
        "overhead_tokens": 64,
        "item_tokens": 16,
        "image_tokens": None,
        "timeout_seconds": 60,
        "is_default": False,
        "is_active": True,
        "kind": "chat",
        "prices": {},
    }
    assert made["warnings"] == []


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"max_tokens_limit": 900}, ["backend", "backend_model"]),
        ({"backend": "bedrock"}, ["backend_model"]),
        ({"backend_model": "x", "backend": "openai"}, ["endpoint"]),
        ({"backend": "openai"}, ["backend_model", "endpoint"]),
    ],
)
def test_a_new_model_is_refused_with_all_that_it_lacks(admin: Admin, given: dict[str, Any], missing: list[str]) -> None:
    problem = administer("model.set", model_id="new", **given)["problem"]
    assert problem["code"] == "invalid_input"
    assert [each["pointer"] for each in problem["errors"]] == [f"/{name}" for name in missing]
    assert all(name in problem["detail"] for name in missing)
    assert "new" not in {model["model_id"] for model in admin("model.list")}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"backend": None},
        {"max_tokens_limit": None},
        {"is_active": None},
        {"max_tokens_limit": 99},  # below max_tokens_default
        {"max_tokens_default": 2001},
        {"endpoint": None},  # the backend is openai
        {"is_active": False},  # it is the default
    ],
)
def test_an_unusable_model_is_refused(admin: Admin, change: dict[str, Any]) -> None:
    admin("model.set", **FULL)
    assert administer("model.set", model_id="full", **change)["problem"]["code"] == "invalid_input"
    (now,) = (model for model in admin("model.list") if model["model_id"] == "full")
    assert described(now) == FULL


def test_the_default_is_not_taken_away_by_accident(admin: Admin, deploy: Any, service: Service, alice: bytes) -> None:
    refused = administer("model.set", model_id="nova-micro", is_default=False)["problem"]
    assert (refused["code"], refused["status"]) == ("default_model_needed", 409)
    assert administer("model.set", model_id="nova-micro", is_default=False, is_active=False)["ok"] is False
    deploy("submit")
    assert post('{"prompt": "hello"}', KEYED)[0] == 202

    deploy("admin")
    done = admin("model.set", model_id="nova-micro", is_default=False, force=True)
    assert done["warnings"] == ["Requests that name no model are refused: no model is the default."]
    deploy("submit")
    status, _, answer = post('{"prompt": "hello"}', KEYED)
    assert (status, answer["code"]) == (422, "model_missing")


def test_a_new_default_is_warned_about_and_needs_no_force(admin: Admin) -> None:
    made = admin("model.set", **OTHER, is_default=True)
    assert made["warnings"] == ["Requests that name no model go to other instead of nova-micro."]
    assert admin("model.set", model_id="nova-micro", is_active=False)["warnings"] == []
    assert [model["model_id"] for model in admin("model.list") if model["is_default"]] == ["other"]


def test_a_lower_limit_and_a_deactivation_are_warned_about(admin: Admin, service: Service, alice: bytes) -> None:
    admin("model.set", **OTHER)
    lower = admin("model.set", model_id="other", max_tokens_limit=900)
    assert lower["warnings"] == ["Requests with max_tokens above 900 are refused; until now 1024 were allowed."]
    service.submit(alice, model="other")
    off = admin("model.set", model_id="other", is_active=False)
    assert off["warnings"] == ["The 1 unfinished requests for other are still processed."]
    assert admin("model.set", model_id="other", is_active=True)["warnings"] == []


def test_what_users_lose_is_warned_about(admin: Admin, service: Service, alice: bytes) -> None:
    service.submit(alice)
    (less,) = admin("user.update", user_id="alice", tier="basic")["warnings"]
    assert less.startswith("alice may use less than before: minute requests 60 instead of 3000")
    assert "max_unfinished 100 instead of 10000" in less
    assert admin("user.update", user_id="alice", tier="premium")["warnings"] == []
    assert admin("user.update", user_id="alice", name="Alice")["warnings"] == []

    off = admin("user.deactivate", user_id="alice")
    assert off["warnings"] == ["The 1 unfinished requests of alice are still processed."]
    assert admin("user.activate", user_id="alice")["warnings"] == []


def test_limits_below_what_is_used_are_warned_about(admin: Admin, service: Service, alice: bytes) -> None:
    service.submit(alice)
    waits = "alice has used as much as the new limits allow, and must wait for the reset."
    lower = admin("quota.set", user_id="alice", limits={"daily": {"max_requests": 1}})
    assert lower["warnings"] == [
        "alice may use less than before: daily requests 1 instead of 1000000.",
        waits,
    ]
    admin("quota.set", user_id="alice", limits={"daily": {"max_requests": None}})
    cleared = admin("quota.clear", user_id="alice")
    assert cleared["warnings"] == ["alice may use less than before: daily requests 1000000 instead of unlimited."]

    limited = admin("tier.set", tier="premium", limits={"daily": {"max_requests": 1}})
    assert limited["warnings"] == [
        "Its 1 users may use less than before, except where a limit is their own: daily requests 1 instead of 1000000.",
        "1 of its users have used as much as it allows now, and must wait for the reset: alice.",
    ]
    assert admin("tier.set", tier="premium", limits={"daily": {"max_requests": 1}})["warnings"] == []


def test_the_last_key_is_warned_about(admin: Admin) -> None:
    admin("user.create", user_id="carol")
    first, second = (admin("key.create", user_id="carol")["key_id"] for _ in range(2))
    assert admin("key.expire", key_id=first, expires_at="2090-01-01T00:00:00Z")["warnings"] == []
    assert admin("key.expire", key_id=second, expires_at="2091-01-01T00:00:00Z")["warnings"] == [
        "From 2091-01-01T00:00Z on, carol has no key that works."
    ]
    assert admin("key.expire", key_id=second, expires_at=None)["warnings"] == []
    assert admin("key.revoke", key_id=first)["warnings"] == []
    assert admin("key.revoke", key_id=second)["warnings"] == ["carol has no key left that works."]


def test_warnings_are_not_audited(admin: Admin, service: Service) -> None:
    admin("model.set", **OTHER, is_default=True)
    (row,) = service.rows("SELECT after FROM audit_log WHERE action = 'model.set' ORDER BY audit_id DESC LIMIT 1")
    assert row["after"]["is_default"] is True
    assert "warnings" not in row["after"]
