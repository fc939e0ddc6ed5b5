"""Administration of tiers and quotas: who follows them, and what clients see of them."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from tests.support.functions import KEYED, post
from tests.support.ledger import assert_books_balance
from tests.support.service import Service


def limits(quota: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {p["period"]: (p["max_requests"], p["max_tokens"], p["is_override"]) for p in quota["periods"]}


def test_users_follow_their_tier_except_for_overrides(admin: Callable[..., Any], service: Service) -> None:
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


def test_one_limit_of_ones_own_leaves_the_others_to_the_tier(admin: Callable[..., Any], service: Service) -> None:
    service.add_user(tier="basic")
    admin("quota.set", user_id="alice", limits={"daily": {"max_tokens": 7}}, dispatch_window=3)
    own = admin("quota.set", user_id="alice", limits={"daily": {"max_tokens": 5}})
    assert (own["overrides"], own["periods"][1]["overrides"]) == (["dispatch_window"], ["max_tokens"])

    admin("tier.set", tier="basic", limits={"daily": {"max_requests": 11, "max_tokens": 12}}, max_unfinished=13)

    found = admin("quota.get", user_id="alice")
    assert limits(found)["daily"] == (11, 5, True)
    assert (found["max_unfinished"], found["dispatch_window"]) == (13, 3)
    assert_books_balance(service)
    # As the version before wrote it, without names: all of the period is the user's own.
    service.owner.execute("UPDATE quotas SET overrides = '{}' WHERE quota_period = 'daily'")
    admin("tier.set", tier="basic", limits={"daily": {"max_requests": 21}})
    assert limits(admin("quota.get", user_id="alice"))["daily"] == (11, 5, True)


def test_users_entering_a_tier_during_its_change_get_the_new_limits(
    admin: Callable[..., Any], service: Service
) -> None:
    limits = {period: {"max_requests": 10} for period in ("minute", "daily", "monthly")}
    admin("tier.set", tier="gold", limits=limits)
    admin("price.set", model_id="nova-micro", prompt="1", completion="1", price_list="golden")
    service.add_user("mover", "sluice_" + "m" * 43)
    changed = {"tier": "gold", "price_list": "golden", "limits": {period: {"max_requests": 3} for period in limits}}
    with psycopg.connect(service.dsn) as changing, ThreadPoolExecutor(2) as pool:
        changing.execute("SELECT admin_run('tier.set', %s, NULL)", (json.dumps(changed),))
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
    assert service.value("SELECT violations FROM ledger_verify(true)") == []


def test_a_refusal_shows_the_counters_without_the_request(
    admin: Callable[..., Any], deploy: Any, alice: bytes, service: Service
) -> None:
    admin("quota.set", user_id="alice", max_unfinished=1, limits={"minute": {"max_requests": 5, "max_tokens": None}})
    deploy("submit")
    accepted, refused = post('{"prompt": "hello"}'), post('{"prompt": "hello"}')
    assert (accepted[0], refused[2]["code"]) == (202, "unfinished_exceeded")
    assert accepted[1]["x-ratelimit-remaining-requests"] == "4"
    for name in ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"):
        assert refused[1][name] == accepted[1][name]


def test_a_user_without_limits_is_refused(deploy: Any, alice: bytes, service: Service) -> None:
    service.owner.execute("DELETE FROM quotas WHERE quota_period = 'daily'")
    deploy("submit")
    assert post('{"prompt": "hello"}')[2]["code"] == "internal_error"
    assert service.value("SELECT count(*) FROM requests") == 0
    (found,) = service.value("SELECT violations FROM ledger_verify(false)")
    assert (found["invariant"], found["user_id"]) == ("plan_is_whole", "alice")


def test_a_new_limit_applies_to_the_next_request(admin: Callable[..., Any], deploy: Any, alice: bytes) -> None:
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


def test_a_repeat_shows_the_limits_too(deploy: Any, alice: bytes) -> None:
    deploy("submit")
    key = KEYED | {"idempotency-key": "one"}
    first, again = post('{"prompt": "hello"}', key), post('{"prompt": "hello"}', key)
    assert again[2] == first[2]
    for name in ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"):
        assert again[1][name] == first[1][name]
