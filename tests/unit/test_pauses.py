"""Every way in which servers ask to be left alone for some time."""

import datetime as dt
import time
from collections.abc import Callable
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.openai import OpenAIBackend
from sluice.backends.pauses import asked_pause, seconds_of
from tests.support.openai_backend import claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer


def in_ten_hours() -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(hours=10)


# An hour of tolerance for moments: the unit or the time zone could be wrong.
TEN_HOURS = pytest.approx(36_000, abs=3600)


def pause(server: ScriptedServer, backend: OpenAIBackend, reply: Reply) -> float | None:
    server.replies(reply)
    return failure(backend, claim(server)).retry_after


@pytest.mark.parametrize("status", [401, 402, 404, 408, 409, 429, 500, 503, 504, 529])
def test_every_error_that_is_retried_passes_it_on(server: ScriptedServer, backend: OpenAIBackend, status: int) -> None:
    assert pause(server, backend, Reply(status, headers={"Retry-After": "300.5"})) == 300.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", 17),
        ("  17 ", 17),
        ("0", 0),
        ("300.5", 300.5),
        ("0.25", 0.25),
        ("30s", 30),
        ("6m0s", 360),
        ("5, 10", 10),
        # A moment that has passed.
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("1500000000", 0),
        # No pause that anyone means, or none that can be read.
        ("", None),
        ("soon", None),
        ("-5", None),
        ("-0.5", None),
        ("1e3", None),
        ("NaN", None),
        ("inf", None),
        ("\N{ARABIC-INDIC DIGIT FIVE}", None),
        ("999999999", None),
        ("9" * 15, None),
        ("9" * 400, None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
    ],
)
def test_retry_after(server: ScriptedServer, backend: OpenAIBackend, value: str, seconds: Any) -> None:
    # The reply's encoding is Latin-1.
    if value.isascii():
        assert pause(server, backend, Reply(429, headers={"Retry-After": value})) == seconds
    assert asked_pause(429, {"Retry-After": value}) == seconds


@pytest.mark.parametrize(
    "written",
    [
        lambda at: format_datetime(at, usegmt=True),
        lambda at: at.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        lambda at: at.strftime("%a %b %e %H:%M:%S %Y"),
        lambda at: at.isoformat(),
        lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        lambda at: str(int(at.timestamp())),
        lambda at: str(int(at.timestamp() * 1000)),
    ],
    ids=[
        "IMF-fixdate",
        "RFC 850",
        "asctime",
        "microseconds",
        "RFC 3339",
        "seconds since 1970",
        "milliseconds since 1970",
    ],
)
def test_retry_after_as_a_moment(
    server: ScriptedServer, backend: OpenAIBackend, written: Callable[[dt.datetime], str]
) -> None:
    assert pause(server, backend, Reply(429, headers={"Retry-After": written(in_ten_hours())})) == TEN_HOURS


@pytest.mark.parametrize("name", ["retry-after-ms", "Retry-After-Ms", "x-ms-retry-after-ms"])
def test_milliseconds(server: ScriptedServer, backend: OpenAIBackend, name: str) -> None:
    assert pause(server, backend, Reply(429, headers={name: "1500"})) == 1.5
    assert pause(server, backend, Reply(429, headers={name: "-1"})) is None
    assert pause(server, backend, Reply(429, headers={name: "1500", "Retry-After": "1"})) == 1.5
    assert pause(server, backend, Reply(429, headers={name: "1500", "Retry-After": "2"})) == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1s", 1), ("6m0s", 360), ("1h2m3s", 3723), ("20ms", 0.02), ("1m30.5s", 90.5), ("2d", 172_800), ("45", 45)],
)
@pytest.mark.parametrize(
    "limit", ["x-ratelimit-{}-requests", "x-ratelimit-{}-tokens", "X-RateLimit-{}", "x-rate-limit-{}"]
)
def test_reset_of_a_limit_that_is_used_up(limit: str, value: str, seconds: float) -> None:
    remaining, reset = limit.format("remaining"), limit.format("reset")
    assert asked_pause(429, {remaining: "0", reset: value}) == pytest.approx(seconds)
    assert asked_pause(503, {remaining: "0", reset: value}) == pytest.approx(seconds)
    # Another limit is what the error is about.
    assert asked_pause(429, {remaining: "1", reset: value}) is None
    # Nobody says which: it is about too many requests, or about something else.
    assert asked_pause(429, {reset: value}) == pytest.approx(seconds)
    assert asked_pause(503, {reset: value}) is None


def test_only_the_limit_that_is_used_up_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1h0m0s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "7.66s",
    }
    assert asked_pause(429, headers) == 7.66
    assert asked_pause(429, headers | {"x-ratelimit-remaining-requests": "0"}) == 3600


def test_reset_as_a_moment() -> None:
    for kind in ("requests", "tokens", "input-tokens", "output-tokens"):
        limit = f"anthropic-ratelimit-{kind}-"
        when = in_ten_hours().strftime("%Y-%m-%dT%H:%M:%SZ")
        assert asked_pause(429, {limit + "remaining": "0", limit + "reset": when}) == TEN_HOURS
        assert asked_pause(429, {limit + "remaining": "7", limit + "reset": when}) is None
    milliseconds = str(int(in_ten_hours().timestamp() * 1000))
    assert asked_pause(429, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": milliseconds}) == TEN_HOURS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('"default";r=0;t=30', 30),
        ("r=0;t=30", 30),
        ('"burst";r=5;t=60, "daily";r=0;t=7', 7),
        ('"default";r=5;t=30', None),
        ("limit=100, remaining=0, reset=50", 50),
        ("limit=100, remaining=3, reset=50", None),
        ("nonsense", None),
    ],
)
def test_the_header_of_the_ietf(value: str, seconds: float | None) -> None:
    assert asked_pause(429, {"RateLimit": value}) == seconds
    assert asked_pause(429, {"RateLimit-Remaining": "0", "RateLimit-Reset": "9"}) == 9


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"}]}}, 30),
        ([{"error": {"details": [{"retryDelay": "38.25s"}]}}], 38.25),
        ({"error": {"details": [{"retryDelay": {"seconds": 30, "nanos": 500_000_000}}]}}, 30.5),
        ({"error": {"message": "Rate limit reached. Please try again in 20s. Visit …"}}, 20),
        ({"error": {"message": "Please try again in 6m0s."}}, 360),
        ({"error": {"message": "Please try again in 1h2m3s"}}, 3723),
        ({"error": {"message": "Please try again in 123ms."}}, 0.123),
        ({"error": {"message": "Please retry after 30 seconds."}}, 30),
        ({"error": {"message": "Please retry your request after 1 minute and 5 seconds."}}, 65),
        ({"error": {"message": "Please retry in 38.5s."}}, 38.5),
        ({"error": "Try again in 7 seconds"}, 7),
        ({"detail": "Too many. Retry after 4 s."}, 4),
        ({"message": "Wait for 9 seconds"}, 9),
        ({"error": "Model is loading", "estimated_time": 20.5}, 20.5),
        ({"error": {"retry_after": 12}}, 12),
        ({"error": {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}}}}, 60),
        ({"error": {"message": "Please try again later."}}, None),
        ({"error": {"message": "Please wait for 5 more requests"}}, None),
        ({"error": {"retry_after": -12}}, None),
        ({"error": {"retry_after": True}}, None),
        ({"error": {"retry_after": [5]}}, None),
        ({"error": {"details": [{"retryDelay": "soon"}, {"retryDelay": {"seconds": "x"}}]}}, None),
    ],
)
def test_what_the_body_says(server: ScriptedServer, backend: OpenAIBackend, body: Any, seconds: float | None) -> None:
    assert pause(server, backend, Reply(429, body)) == seconds
    assert pause(server, backend, Reply(503, body)) == seconds


def test_the_longest_of_several_counts(server: ScriptedServer, backend: OpenAIBackend) -> None:
    body = {"error": {"message": "Please try again in 20s."}}
    headers = {"Retry-After": "5", "retry-after-ms": "7000", "x-ratelimit-remaining-tokens": "0"}
    assert pause(server, backend, Reply(429, body, headers)) == 20
    assert pause(server, backend, Reply(429, body, headers | {"x-ratelimit-reset-tokens": "1m"})) == 60
    # One that no one means does not hide the others.
    assert pause(server, backend, Reply(429, body, {"Retry-After": "9" * 15})) == 20


def test_a_success_with_an_error_inside_may_ask_too(server: ScriptedServer, backend: OpenAIBackend) -> None:
    body = {"error": {"code": 429, "message": "Please try again in 20s."}}
    assert pause(server, backend, Reply(200, body)) == 20
    assert pause(server, backend, Reply(200, {"error": {"code": 503}}, {"Retry-After": "8"})) == 8


@given(
    st.text()
    | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ ([+-]\d+|[A-Z]{3})", fullmatch=True)
    | st.from_regex(r"(\d{1,12}(\.\d+)?\s?[a-z]{0,8},? ?){1,4}", fullmatch=True)
)
def test_any_value_is_none_or_not_negative(value: str) -> None:
    seconds = seconds_of(value)
    assert seconds is None or seconds >= 0
    asked = asked_pause(429, {"Retry-After": value, "x-ratelimit-reset": value, "RateLimit": value}, {"error": value})
    assert asked is None or 0 <= asked <= 366 * 86_400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "details", "retryDelay", "retry_after", "headers", "x"]), inner
        )
    ),
)


@given(JSON)
def test_any_document_can_be_read(document: Any) -> None:
    asked = asked_pause(429, {}, document)
    assert asked is None or asked >= 0


def test_moments_count_from_now() -> None:
    assert seconds_of(str(int(time.time()) + 1000)) == pytest.approx(1000, abs=900)
