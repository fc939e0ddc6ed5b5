"""Usage, statistics and recommended tiers equal the results of the seed's statements."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from sluice.db.administration import Administration
from sluice.db.reports import Reports, TierCandidate
from sluice.services import billing
from sluice.services.admin.administer import administer
from sluice.services.admin.operation import AdminContext
from tests.support.seed import (
    OTHER_KEY,
    SEED_TIERS,
    SEED_USAGE,
    accept,
    answered,
    ask,
    assert_figures_equal_the_seeds,
    claim,
    monthly,
    roll_up,
    seed_says,
    settle,
)
from tests.support.service import Service, completed, failed, retry


def mixed_work(service: Service, alice: bytes, bob: bytes) -> None:
    """Requests of each user with every kind of end, with and without tokens, some unfinished."""
    ids = [accept(service, key) for key in (alice, bob) for _ in range(6)]
    claim(service, *ids[:5], *ids[6:10])
    time.sleep(0.005)
    settle(
        service,
        completed(ids[0], prompt_tokens=120, completion_tokens=80),
        failed(ids[1]),
        failed(ids[2], error_code="result_too_large", prompt_tokens=9, completion_tokens=8),
        retry(ids[3]),
        completed(ids[6]),
        failed(ids[7]),
    )
    service.owner.execute(
        "UPDATE inflight SET expires_at = clock_now() WHERE request_id = ANY (%s)", ([ids[5], ids[10]],)
    )
    service.database("rollup").call_row("request_recover", limit=100)
    assert service.value("SELECT count(*) FROM requests WHERE status = 'expired'") > 0


def test_figures_equal_the_seeds_statements(seed: Service, user123: bytes) -> None:
    bob = seed.add_user("bob", OTHER_KEY)
    seed.add_user("nobody", "sluice_" + "c" * 43)
    for _ in range(2):
        mixed_work(seed, user123, bob)
        assert_figures_equal_the_seeds(seed)
    assert [row["user_id"] for row in monthly(seed)] == ["bob", "user123"], (
        "users without requests have no row, as in the seed"
    )

    # Later ends are added to the figures.
    open_ids = [row["request_id"] for row in ask(seed, "unfinished", "queued")]
    claim(seed, *open_ids)
    for row in seed.rows("SELECT request_id, attempt FROM inflight"):
        settle(seed, completed(row["request_id"], row["attempt"]))
    assert seed.value("SELECT count(*) FROM inflight") == 0
    assert_figures_equal_the_seeds(seed)

    total = seed.value("SELECT sum(total_tokens) FROM requests WHERE user_id = 'user123'")
    by_quota = seed.value("SELECT tokens_used FROM quotas WHERE user_id = 'user123' AND quota_period = 'monthly'")
    assert [row["tokens_used"] for row in monthly(seed) if row["user_id"] == "user123"] == [total] == [by_quota]


def recommended(service: Service, **arguments: Any) -> dict[str, str]:
    """The tier that usage.tiers recommends for each user."""
    database = service.database("admin")
    context = AdminContext(Administration(database, None), Reports(database), lambda event: None, 60, 3)
    found = administer(context, {"operation": "usage.tiers", "arguments": arguments})
    return {user["user_id"]: user["recommended_tier"] for user in found}


def in_tier_order(service: Service) -> dict[str, str]:
    """The same, from the page's statement."""
    this_month = datetime.now(UTC).date().replace(day=1)
    rows = ask(service, "tier_analysis", None, this_month.replace(year=this_month.year - 1), this_month, "", 1000)
    return {user["user_id"]: user["recommended_tier"] for user in billing.tiers(TierCandidate(**row) for row in rows)}


def test_the_recommended_tier_is_the_seeds(seed: Service) -> None:
    expected = {0: "basic", 99_999: "basic", 100_000: "standard", 999_999: "standard", 1_000_000: "premium"}
    for n, tokens in enumerate(expected):
        key = seed.add_user(f"user{tokens}", "sluice_" + f"{n}" * 43)
        answered(seed, key, prompt_tokens=tokens, completion_tokens=0)
    idle = seed.add_user("idle", OTHER_KEY)
    roll_up(seed)
    seed_says(seed, SEED_USAGE)

    by_seed = {row["user_id"]: row["recommended_tier"] for row in seed_says(seed, SEED_TIERS)}
    assert by_seed == {f"user{tokens}": tier for tokens, tier in expected.items()}
    assert recommended(seed) == in_tier_order(seed) == by_seed

    # The largest month counts, not the last one; users appear once they have a row.
    accept(seed, idle)
    roll_up(seed)
    seed_says(seed, SEED_USAGE)
    last_month = (datetime.now(UTC).date().replace(day=1) - timedelta(days=1)).replace(day=1)
    for table in ("seed.usage", "usage"):
        seed.owner.execute(
            f"INSERT INTO {table} (user_id, period, period_start, period_end, requests_count, tokens_used)"
            " VALUES ('user0', 'monthly', %s, %s, 3, 500000)",
            (last_month, last_month),
        )
    by_seed = {row["user_id"]: row["recommended_tier"] for row in seed_says(seed, SEED_TIERS)}
    assert (by_seed["user0"], by_seed["idle"]) == ("standard", "basic")
    assert recommended(seed) == in_tier_order(seed) == by_seed


def test_the_recommended_tier_must_cover_the_requests_too(seed: Service, user123: bytes) -> None:
    """Sluice differs: the seed recommends a tier that refuses the 10,001st request."""
    for table in ("seed.usage", "usage"):
        seed.owner.execute(
            f"INSERT INTO {table} (user_id, period, period_start, period_end, requests_count, tokens_used)"
            " SELECT 'user123', 'monthly', date_trunc('month', now()), now(), 10001, 99"
        )
    (by_seed,) = seed_says(seed, SEED_TIERS)
    assert (by_seed["max_requests"], by_seed["recommended_tier"]) == (10_001, "basic")
    assert recommended(seed) == in_tier_order(seed) == {"user123": "standard"}


def test_the_recommended_tier_follows_the_tiers(seed: Service, user123: bytes) -> None:
    answered(seed, user123)
    roll_up(seed)
    assert recommended(seed) == {"user123": "basic"}
    seed.act("tier.set", tier="basic", limits={"monthly": {"max_tokens": 10}})
    assert recommended(seed) == in_tier_order(seed) == {"user123": "standard"}
