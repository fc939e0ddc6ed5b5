"""Administration of keys: rotated, expired, revoked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from sluice.domain.errors import SluiceError
from tests.support.functions import post
from tests.support.service import Service


def test_submit_waiting_for_the_user_lock_sees_the_revocation(service: Service, alice: bytes) -> None:
    key_id = service.value("SELECT key_id::text FROM api_keys")
    with psycopg.connect(service.dsn) as lock, ThreadPoolExecutor(1) as pool:
        lock.execute("SELECT FROM quota_plans FOR NO KEY UPDATE")
        waiting = pool.submit(service.submit, alice)
        while not service.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not waiting.done()
        lock.execute("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_id::text = %s", (key_id,))
        lock.commit()
        with pytest.raises(SluiceError) as refused:
            waiting.result(20)
    assert refused.value.code == "key_revoked"
    assert service.value("SELECT count(*) FROM requests") == 0


def test_a_rotated_key_works_until_the_overlap_ends(admin: Callable[..., Any], deploy: Any, service: Service) -> None:
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


def test_rotation_never_extends_a_key(admin: Callable[..., Any], alice: bytes) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    old = admin("key.create", user_id="alice", expires_at=soon)
    new = admin("key.rotate", key_id=old["key_id"])
    assert datetime.fromisoformat(new["expires_at"]) == datetime.fromisoformat(soon)
    assert datetime.fromisoformat(new["replaces"]["expires_at"]) == datetime.fromisoformat(soon)


def test_a_keys_expiry_is_set_and_removed(admin: Callable[..., Any], alice: bytes) -> None:
    made = admin("key.create", user_id="alice")
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    kept = admin("key.expire", key_id=made["key_id"], expires_at=soon)["expires_at"]
    assert datetime.fromisoformat(kept) == datetime.fromisoformat(soon)
    assert admin("key.expire", key_id=made["key_id"], expires_at=None)["expires_at"] is None
    listed = {key["key_id"]: key for key in admin("key.list", user_id="alice")}
    assert listed[made["key_id"]]["expires_at"] is None
    assert all("key_hash" not in key and "api_key" not in key for key in listed.values())
