"""Quotas: what remains is the seed's sum, read from two rows."""

from datetime import timedelta

import psycopg
import pytest

from tests.support.seed import (
    SEED_QUOTA,
    STATEMENTS,
    accept,
    answered,
    ask,
    claim,
    one,
    plan_of,
    raw,
    rows_read,
    seed_says,
    set_clock,
    settle,
)
from tests.support.service import Service, completed, failed


def remaining(service: Service) -> int | None:
    left: int | None = one(service, "quota_remaining", "user123")["remaining_tokens"]
    return left


def test_the_remaining_quota_equals_the_seeds_sum(seed: Service, user123: bytes) -> None:
    limit = seed.value("SELECT max_tokens FROM quotas WHERE quota_period = 'monthly'")
    assert [{"remaining_tokens": limit}] == seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}]

    answered(seed, user123, prompt_tokens=120, completion_tokens=80)
    answered(seed, user123)
    failing = accept(seed, user123)
    claim(seed, failing)
    settle(seed, failed(failing, error_code="result_too_large", prompt_tokens=4, completion_tokens=5))
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}] == [{"remaining_tokens": limit - 219}]

    # Running requests count too; the seed counts them only afterwards.
    running = accept(seed, user123)
    reserved = seed.value("SELECT reserved_tokens FROM requests WHERE request_id = %s", running)
    assert reserved > 0
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed) + reserved}]
    assert seed.database("admin").value("quota_report", user_id="user123")["periods"][2]["tokens_reserved"] == reserved

    claim(seed, running)
    settle(seed, completed(running))
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}] == [{"remaining_tokens": limit - 229}]


def test_a_past_month_is_not_counted(seed: Service) -> None:
    """The row has not been reset, since no request has come."""
    set_clock(seed, timedelta(days=32))
    answered(seed, seed.add_user("user123"))
    set_clock(seed, timedelta(0))

    assert seed.value("SELECT tokens_used FROM quotas WHERE quota_period = 'monthly'") == 10
    assert seed_says(seed, SEED_QUOTA) == [{"remaining_tokens": remaining(seed)}]
    assert remaining(seed) == seed.value("SELECT max_tokens FROM quotas WHERE quota_period = 'monthly'")


def test_a_daily_plan_has_a_daily_limit(seed: Service, user123: bytes) -> None:
    service = seed
    service.act("quota.set", user_id="user123", reset_frequency="daily", limits={"daily": {"max_tokens": 5000}})
    answered(service, user123)

    assert remaining(service) == 4990
    assert seed_says(seed, "SELECT token_limit, reset_frequency FROM quotas") == [
        {"token_limit": 5000, "reset_frequency": "daily"}
    ]
    service.act("quota.set", user_id="user123", limits={"daily": {"max_tokens": None}})
    assert remaining(service) is None, "unlimited"


def test_the_quota_check_reads_two_rows(service: Service, user123: bytes) -> None:
    service.owner.execute("""
        INSERT INTO users (user_id) SELECT 'u' || n FROM generate_series(1, 1000) n;
        INSERT INTO quota_plans (user_id, tier, reset_frequency, max_unfinished, dispatch_window)
        SELECT 'u' || n, 'basic', 'monthly', 9, 9 FROM generate_series(1, 1000) n;
        INSERT INTO quotas (user_id, quota_period, period_start, reset_at)
        SELECT 'u' || n, p, now(), now() + interval '1 day' FROM generate_series(1, 1000) n, unnest('{minute,daily,monthly}'::text[]) p;
    """)
    for _ in range(5):
        answered(service, user123)
    service.owner.execute("VACUUM ANALYZE quotas, quota_plans")

    nodes = plan_of(service, STATEMENTS["quota_remaining"][1], "user123")
    assert {node["Relation Name"]: node["Actual Rows"] for node in nodes} == {"quota_plans": 1, "quotas": 1}
    assert all("Index" in node["Node Type"] and not node.get("Rows Removed by Filter") for node in nodes)

    # The check at submit, inside the function, reads no row of any request.
    with service.owner.transaction():
        before = rows_read(service)
        accept(service, user123)
        read = rows_read(service) - before
    assert 3 <= read["quotas"] <= 12, "its three rows, a few times"
    assert [table for table in read if table.startswith(("requests", "prompts", "results", "audit", "usage"))] == []


def test_concurrent_submits_cannot_both_take_the_rest(service: Service) -> None:
    key = service.add_user("user123", monthly={"max_requests": 1})
    with psycopg.connect(service.dsn) as other:
        raw(other, STATEMENTS["accept"][1], key, "first", None)
        service.owner.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ask(service, "accept", key, "second", None)
        other.commit()
    assert one(service, "accept", key, "second", None)["outcome"] == "quota_exceeded"
