"""The arithmetic of limits: x-ratelimit headers and the pause before another attempt."""

import math

from hypothesis import example, given
from hypothesis import strategies as st

from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.requests import QuotaCounter
from sluice.services.process import MAX_BACKOFF_SECONDS, MAX_REPAIR_BACKOFF_SECONDS, MAX_RETRY_AFTER_SECONDS, backoff


def quota(max_requests: int | None, requests: int, max_tokens: int | None, tokens: int, reset: int) -> QuotaCounter:
    return QuotaCounter(
        period="daily",
        max_requests=max_requests,
        requests_used=requests,
        max_tokens=max_tokens,
        tokens_used=tokens,
        reset_seconds=reset,
    )


def test_headers_describe_the_period_nearest_its_limit() -> None:
    minute = quota(10, 2, 1000, 990, 30)
    day = quota(100, 90, 10_000, 2_000, 5000)
    assert rate_limit_headers([minute, day]) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "10",
        "x-ratelimit-reset-requests": "5000",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "10",
        "x-ratelimit-reset-tokens": "30",
    }


def test_of_two_periods_equally_near_the_longer_one_counts() -> None:
    headers = rate_limit_headers([quota(10, 5, None, 0, 30), quota(100, 50, None, 0, 5000)])
    assert headers["x-ratelimit-reset-requests"] == "5000"


def test_unlimited_quotas_have_no_headers() -> None:
    assert rate_limit_headers([]) == {}
    assert rate_limit_headers([quota(None, 5, None, 5, 30)]) == {}
    assert set(rate_limit_headers([quota(None, 5, 100, 5, 30)])) == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    }


LIMIT = st.none() | st.integers(min_value=1, max_value=2**31)
USED = st.integers(min_value=0, max_value=2**31)
QUOTA = st.builds(quota, LIMIT, USED, LIMIT, USED, st.integers(min_value=0, max_value=3_000_000))


@given(st.lists(QUOTA, max_size=4))
# More is used than the limit allows: the limit was lowered.
@example([quota(1, 5, None, 0, 1)])
def test_headers_are_the_whole_numbers_of_one_period(quotas: list[QuotaCounter]) -> None:
    headers = rate_limit_headers(quotas)
    requests = [(q.max_requests, q.requests_used, q.reset_seconds) for q in quotas if q.max_requests is not None]
    tokens = [(q.max_tokens, q.tokens_used, q.reset_seconds) for q in quotas if q.max_tokens is not None]
    for kind, limited in (("requests", requests), ("tokens", tokens)):
        found = [headers.get(f"x-ratelimit-{part}-{kind}") for part in ("limit", "remaining", "reset")]
        if not limited:
            assert found == [None] * 3
            continue
        limit, remaining, reset = (int(value or "") for value in found)
        assert 0 <= remaining <= limit
        assert (limit, remaining, reset) in [(most, max(0, most - used), seconds) for most, used, seconds in limited]
        # No period leaves a smaller share.
        assert all(remaining / limit <= max(0, 1 - used / most) + 1e-9 for most, used, _ in limited)


# The pause before another attempt -------------------------------------------------------------------------------------

ATTEMPT = st.integers(min_value=1, max_value=100_000)
BASE = st.floats(min_value=0.001, max_value=10_000)


def longest(attempt: int, base: float) -> float:
    """The longest possible pause: it doubles with each attempt, up to fifteen minutes."""
    return min(MAX_BACKOFF_SECONDS, base * math.pow(2.0, min(attempt - 1, 20)))


@given(ATTEMPT, BASE)
def test_pause_is_between_half_and_all_of_the_longest(attempt: int, base: float) -> None:
    pause = backoff(attempt, base)
    assert longest(attempt, base) / 2 <= pause <= longest(attempt, base)


@given(ATTEMPT, BASE)
def test_longest_pause_never_becomes_shorter(attempt: int, base: float) -> None:
    # Each pause is at least half of the longest.
    assert backoff(attempt, base) <= 2 * backoff(attempt + 1, base)


def test_pauses_double_and_stop_at_fifteen_minutes() -> None:
    bounds = [(5, 10), (10, 20), (20, 40), (40, 80), (80, 160), (160, 320), (320, 640), (450, 900), (450, 900)]
    for attempt, (shortest, longest_) in enumerate(bounds, start=1):
        assert all(shortest <= backoff(attempt, 10) <= longest_ for _ in range(50))


def test_pauses_differ_so_that_attempts_are_spread_out() -> None:
    assert len({backoff(1, 10) for _ in range(50)}) > 40


@given(ATTEMPT, BASE, st.floats(min_value=0, allow_infinity=True, allow_nan=False))
@example(1, 10.0, math.inf)
def test_pause_that_a_model_asks_for_is_kept_up_to_an_hour(attempt: int, base: float, asked: float) -> None:
    pause = backoff(attempt, base, asked)
    assert pause >= min(asked, MAX_RETRY_AFTER_SECONDS)
    assert pause <= max(longest(attempt, base), min(asked, MAX_RETRY_AFTER_SECONDS))
    assert MAX_RETRY_AFTER_SECONDS == 3600


def test_pause_that_a_model_asks_for_does_not_shorten_the_pause() -> None:
    assert all(backoff(8, 10, retry_after=1) >= 450 for _ in range(50))
    assert 5 <= backoff(1, 10, None) <= 10


def test_pauses_are_longer_while_somebody_has_to_repair_something() -> None:
    bounds = [(60, 120), (120, 240), (240, 480), (480, 960), (960, 1920), (1800, 3600), (1800, 3600)]
    for attempt, (shortest, longest_) in enumerate(bounds, start=1):
        assert all(shortest <= backoff(attempt, 10, needs_repair=True) <= longest_ for _ in range(50))
    assert backoff(1, 10, 3000, needs_repair=True) == 3000
    assert MAX_REPAIR_BACKOFF_SECONDS == 3600
