"""Administration makes a fresh deployment usable: a user, a key, a model with prices."""

import json
from typing import Any

import pytest

from tests.support.functions import administer, post
from tests.support.service import Service


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
