"""A refusal says what is in the way: what is used, until the reset; or what unfinished requests hold, until they end."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.errors import SluiceError
from tests.support.functions import KEYED, get, post
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.service import Service, completed, retry

NOON = datetime(2031, 2, 10, 12, 0, 30, tzinfo=UTC)
OVERHEAD = 64
UNTIL = {"minute": 30, "daily": 12 * 3600 - 30, "monthly": 18 * 86_400 + 12 * 3600 - 30}
PERIODS = ("minute", "daily", "monthly")
# A prompt of 100 bytes and an answer of up to 36 tokens.
SIZE = 100 + OVERHEAD + 36


@pytest.fixture
def clock(service: Service) -> Callable[[timedelta], None]:
    """Stops the clock at noon, and moves it on."""
    stop_the_clock(service.owner, NOON)
    now = [NOON]

    def move(by: timedelta) -> None:
        now[0] += by
        set_clock(service.owner, now[0])

    return move


def ask(service: Service, key: bytes, **given: Any) -> Any:
    return service.submit(key, "x" * 100, parameters={"max_tokens": 36}, **given)


def refused(service: Service, key: bytes, **given: Any) -> SluiceError:
    with pytest.raises(SluiceError) as refusal:
        ask(service, key, **given)
    assert refusal.value.retry_after is not None
    return refusal.value


@pytest.mark.parametrize("period", PERIODS)
def test_what_unfinished_requests_hold_comes_back_when_they_end(
    service: Service, clock: Callable[[timedelta], None], period: str
) -> None:
    limits: dict[str, Any] = {period: {"max_tokens": 2 * SIZE + 100}}
    key = service.add_user(**limits)
    first, second = ask(service, key), ask(service, key)

    refusal = refused(service, key)

    assert (refusal.code, refusal.retry_after) == ("quota_reserved", 5)
    assert refusal.extra == {
        "period": period,
        "limit": "tokens",
        "maximum": 2 * SIZE + 100,
        "used": 0,
        "reserved": 2 * SIZE,
        "tokens_needed": SIZE,
    }
    assert "used up" not in refusal.detail
    headers = rate_limit_headers(refusal.quotas)
    assert headers["x-ratelimit-limit-tokens"] == str(2 * SIZE + 100)
    assert (headers["x-ratelimit-remaining-tokens"], headers["x-ratelimit-reset-tokens"]) == ("100", "5")
    assert headers["x-ratelimit-reset-requests"] == str(UNTIL[period]), "requests are not what is reserved"

    service.claim(first, second)
    service.settle(completed(first, prompt_tokens=30, completion_tokens=10))
    ask(service, key)
    assert_books_balance(service)


@pytest.mark.parametrize("period", PERIODS)
def test_what_is_used_comes_back_with_the_reset(
    service: Service, clock: Callable[[timedelta], None], period: str
) -> None:
    limits: dict[str, Any] = {period: {"max_tokens": 2 * SIZE}}
    key = service.add_user(**limits)
    first = ask(service, key)
    service.claim(first)
    service.settle(completed(first, prompt_tokens=SIZE, completion_tokens=1))

    refusal = refused(service, key)

    assert (refusal.code, refusal.retry_after) == ("quota_exceeded", UNTIL[period])
    assert (refusal.extra["period"], refusal.extra["used"], refusal.extra["reserved"]) == (period, SIZE + 1, 0)
    assert "used up" in refusal.detail
    clock(timedelta(seconds=UNTIL[period]))
    service.owner.execute("SELECT partitions_ensure()")
    ask(service, key)


def test_requests_are_used_up_whatever_is_unfinished(service: Service, clock: Callable[[timedelta], None]) -> None:
    key = service.add_user(daily={"max_requests": 1})
    ask(service, key)
    refusal = refused(service, key)
    assert (refusal.code, refusal.retry_after, refusal.extra["limit"]) == ("quota_exceeded", UNTIL["daily"], "requests")


def test_the_longest_wait_decides(service: Service, clock: Callable[[timedelta], None]) -> None:
    """The minute has no requests left, and unfinished requests hold the month."""
    key = service.add_user(minute={"max_requests": 1}, monthly={"max_tokens": SIZE + 1})
    ask(service, key)
    refusal = refused(service, key)
    assert (refusal.code, refusal.retry_after, refusal.extra["period"]) == ("quota_exceeded", 30, "minute")


def test_a_request_that_waits_holds_its_reservation_until_it_may_start(
    service: Service, clock: Callable[[timedelta], None]
) -> None:
    key = service.add_user(monthly={"max_tokens": 2 * SIZE})
    ask(service, key, not_before=(NOON + timedelta(minutes=20)).isoformat())
    ask(service, key, not_before=(NOON + timedelta(minutes=10)).isoformat())
    assert refused(service, key).retry_after == 600 + 5
    # Two must end before there is room for both.
    service.act("quota.set", user_id="alice", limits={"monthly": {"max_tokens": 2 * SIZE - 100}})
    with pytest.raises(SluiceError) as refusal:
        service.submit(key, "x" * 101, parameters={"max_tokens": 36})
    assert refusal.value.retry_after == 1200 + 5


def test_a_retry_that_pauses_holds_its_reservation(service: Service, clock: Callable[[timedelta], None]) -> None:
    key = service.add_user(monthly={"max_tokens": SIZE})
    request_id = ask(service, key)
    service.claim(request_id)
    service.settle(retry(request_id, after=900))
    assert refused(service, key).retry_after == 905


def test_the_wait_ends_with_the_period_at_the_latest(service: Service, clock: Callable[[timedelta], None]) -> None:
    key = service.add_user(minute={"max_tokens": SIZE})
    ask(service, key, not_before=(NOON + timedelta(minutes=50)).isoformat())
    refusal = refused(service, key)
    assert (refusal.code, refusal.retry_after) == ("quota_reserved", 30)


def test_the_wait_is_at_the_rate_at_which_requests_ended(service: Service) -> None:
    """With the real clock, as the audit log has it: five requests ended in the last minute."""
    key = service.add_user(monthly={"max_tokens": 7 * SIZE})
    ids = [ask(service, key) for _ in range(7)]
    service.claim(*ids)
    service.settle(*[completed(request_id, prompt_tokens=SIZE, completion_tokens=0) for request_id in ids[:5]])
    # As if the two that are left had been accepted a minute ago.
    service.owner.execute("UPDATE inflight SET not_before = clock_timestamp() - interval '60 seconds'")

    refusal = refused(service, key)

    assert (refusal.code, refusal.extra["used"], refusal.extra["reserved"]) == ("quota_reserved", 5 * SIZE, 2 * SIZE)
    # 60 s / 5, and as the test itself takes time, a little more.
    assert refusal.retry_after is not None
    assert 12 <= refusal.retry_after < 120


def test_too_many_unfinished_requests_wait_for_the_first(service: Service, clock: Callable[[timedelta], None]) -> None:
    key = service.add_user()
    service.act("quota.set", user_id="alice", max_unfinished=1)
    ask(service, key, not_before=(NOON + timedelta(minutes=20)).isoformat())
    refusal = refused(service, key)
    assert (refusal.code, refusal.retry_after) == ("unfinished_exceeded", 1205)


def test_the_view_says_what_is_in_the_way(service: Service, clock: Callable[[timedelta], None]) -> None:
    key = service.add_user(monthly={"max_tokens": SIZE})
    ask(service, key)
    with pytest.raises(psycopg.Error) as refusal:
        service.owner.execute(
            "INSERT INTO submissions (user_id, prompt, parameters) VALUES ('alice', %s, '{\"max_tokens\": 36}')",
            ("x" * 100,),
        )
    assert (refusal.value.sqlstate, refusal.value.diag.constraint_name) == ("SL429", "quota_reserved")
    detail = json.loads(refusal.value.diag.message_detail or "")
    assert (detail["period"], detail["used"], detail["reserved"], detail["retry_after"]) == ("monthly", 0, SIZE, 5)


def test_over_http(service: Service, deploy: Any) -> None:
    service.add_user(tier="basic")
    service.act("quota.set", user_id="alice", limits={"minute": {"max_tokens": None}, "daily": {"max_tokens": None}})
    service.act("quota.set", user_id="alice", limits={"monthly": {"max_tokens": 50_000}})
    deploy("submit")
    body = {"prompt": "x" * 20_000, "parameters": {"max_tokens": 64}}
    assert [post(json.dumps(body), KEYED)[0] for _ in range(2)] == [202, 202]

    status, headers, problem = post(json.dumps(body), KEYED)

    assert (status, problem["code"], headers["Retry-After"]) == (429, "quota_reserved", "5")
    assert (problem["period"], problem["used"], problem["reserved"]) == ("monthly", 0, 2 * 20_128)
    assert headers["x-ratelimit-reset-tokens"] == "5"
    deploy("status")
    monthly = get("/usage", KEYED)[2]["limits"][2]
    assert (monthly["tokens_used"], monthly["tokens_reserved"], monthly["tokens_remaining"]) == (0, 40_256, 9_744)
