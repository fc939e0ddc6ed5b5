"""Administration of users: changing fields and deactivating."""

import json
from collections.abc import Callable
from typing import Any

from tests.support.functions import KEYED, get, post
from tests.support.service import Service


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
