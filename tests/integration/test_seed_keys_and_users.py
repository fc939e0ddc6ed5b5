"""Keys and users as the seed requires."""

import psycopg
import pytest

from sluice.domain.errors import DatabaseError
from sluice.domain.keys import digest
from tests.support.seed import accept, ask, claim, one, plan_of, rows_read, settle
from tests.support.service import KEY, Service, completed


def test_key_lookup_uses_the_unique_index(service: Service, user123: bytes) -> None:
    service.owner.execute(
        "INSERT INTO api_keys (user_id, key_hash, key_prefix) SELECT 'user123', sha256(n::text::bytea), 'x' FROM generate_series(1, 3000) n"
    )
    service.owner.execute("ANALYZE api_keys")
    key_id = service.value("SELECT key_id FROM api_keys WHERE key_hash = %s", user123)

    with service.owner.transaction():
        before = rows_read(service)
        assert one(service, "key_check", user123, "read") == {"outcome": "ok", "key_id": key_id, "user_id": "user123"}
        assert rows_read(service) - before == {"api_keys": 1, "users": 1}
    (node,) = plan_of(service, "SELECT FROM api_keys WHERE key_hash = $1", user123)
    assert node["Index Name"] == "api_keys_key_hash_key"
    assert one(service, "key_check", digest("sluice_" + "z" * 43), "read")["outcome"] == "key_unknown"
    assert service.rows("SELECT FROM api_keys k WHERE k::text LIKE %s", f"%{KEY}%") == [], (
        "the key itself is not stored"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        service.owner.execute(
            "INSERT INTO api_keys (user_id, key_hash, key_prefix) VALUES ('user123', %s, 'x')", (user123,)
        )


def test_an_inactive_user_is_refused_everywhere(service: Service, user123: bytes, writer: str) -> None:
    accepted = accept(service, user123)
    service.act("user.update", user_id="user123", is_active=False)

    assert one(service, "key_check", user123, "submit")["outcome"] == "user_inactive"
    assert one(service, "accept", user123, "hello", None)["outcome"] == "user_inactive"
    assert one(service, "status_read", user123, accepted)["outcome"] == "user_inactive"
    with pytest.raises(psycopg.Error) as refused:
        ask(service, "submission", "user123", "hello", None, role=writer)
    assert refused.value.sqlstate == "SL403"
    claim(service, accepted)
    settle(service, completed(accepted))  # Accepted requests are still answered and booked.
    assert service.value("SELECT tokens_used FROM quotas WHERE quota_period = 'monthly'") == 10

    service.act("user.update", user_id="user123", is_active=True)
    assert one(service, "status_read", user123, accepted)["result"] == "an answer"


def test_emails_are_unique_if_given(service: Service, user123: bytes) -> None:
    for user_id, email in (("a", None), ("b", None), ("c", "Carol@example.com")):
        service.act("user.create", user_id=user_id, email=email, tier="basic")
    with pytest.raises(DatabaseError) as taken:
        service.act("user.create", user_id="d", email="carol@example.com", tier="basic")
    assert taken.value.constraint == "users_email_key"
