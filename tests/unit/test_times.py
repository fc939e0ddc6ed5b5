"""Times as RFC 3339 has them, and as the common languages write them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.errors import SluiceError
from sluice.domain.fields import Strict, Time
from sluice.validation import parse_object

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Given(Strict):
    at: Time


def read(text: object) -> datetime:
    return parse_object(Given, {"at": text}).at


def refusal(text: object) -> str:
    with pytest.raises(SluiceError) as caught:
        read(text)
    assert caught.value.code == "invalid_input"
    return caught.value.detail


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-27T12:00:00Z", NOON),
        ("2026-11-27T12:00Z", NOON),
        ("2026-11-27T12:00:00.000Z", NOON),  # JavaScript
        ("2026-11-27T12:00:00+00:00", NOON),  # Python
        ("2026-11-27T12:00:00-00:00", NOON),
        ("2026-11-27t12:00:00z", NOON),
        ("2026-11-27 12:00:00Z", NOON),
        ("2026-11-27T17:30:00+05:30", NOON),
        ("2026-11-27T00:30:00-11:30", NOON),
        ("2026-11-28T11:59:00+23:59", NOON),
        ("2026-11-27T12:00:00.5Z", NOON + timedelta(milliseconds=500)),
        ("2026-11-27T12:00:00.123456Z", NOON + timedelta(microseconds=123456)),
        ("2026-11-27T12:00:00.123456789Z", NOON + timedelta(microseconds=123456)),  # Go, Java, Rust
        ("2026-11-27T12:00:00.1234567+00:00", NOON + timedelta(microseconds=123456)),  # .NET
        ("2026-11-27T12:00:00.9999999999999999999999Z", NOON + timedelta(microseconds=999999)),
        ("2026-11-27T12:00:00." + "1" * 43 + "Z", NOON + timedelta(microseconds=111111)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2017-01-01T00:59:60.25+01:00", datetime(2017, 1, 1, 0, 0, 0, 250000, tzinfo=UTC)),
        ("2028-02-29T00:00:00Z", datetime(2028, 2, 29, tzinfo=UTC)),
        ("1971-01-01T00:00:00+23:59", datetime(1970, 12, 31, 0, 1, tzinfo=UTC)),
        ("9000-12-31T23:59:59-23:59", datetime(9001, 1, 1, 23, 58, 59, tzinfo=UTC)),
    ],
)
def test_a_time_is_read(text: str, at: datetime) -> None:
    assert (read(text), read(text).tzinfo) == (at, UTC)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2026-11-27T12:00:00", "needs a time zone"),
        ("2026-11-27 12:00:00.123456789", "needs a time zone"),
        ("2026-11-27T12:00:00,5Z", "must be a time of RFC 3339"),
        ("2026-11-27T12:00:00.Z", "must be a time of RFC 3339"),
        ("2026-W48-5T12:00:00Z", "must be a time of RFC 3339"),
        ("2026-331T12:00:00Z", "must be a time of RFC 3339"),
        ("20261127T120000Z", "must be a time of RFC 3339"),
        ("2026-11-27T12Z", "must be a time of RFC 3339"),
        ("2026-11-27", "must be a time of RFC 3339"),
        ("2026-11-27T12:00:00+0100", "must be a time of RFC 3339"),
        ("2026-11-27T12:00:00+01", "must be a time of RFC 3339"),
        ("2026-11-27T12:00:00 Z", "must be a time of RFC 3339"),
        ("2026-11-27T12:00:00Z\n", "must be a time of RFC 3339"),
        (" 2026-11-27T12:00:00Z", "must be a time of RFC 3339"),
        ("2026-11-27T12:00:00UTC", "must be a time of RFC 3339"),
        ("Fri, 27 Nov 2026 12:00:00 GMT", "must be a time of RFC 3339"),
        ("٢٠٢٦-11-27T12:00:00Z", "must be a time of RFC 3339"),
        ("now", "must be a time of RFC 3339"),
        ("", "must be a time of RFC 3339"),
        ("1795780800", "must be a time of RFC 3339"),
        (1795780800, "must be a time of RFC 3339"),
        (1795780800.5, "must be a time of RFC 3339"),
        (True, "must be a time of RFC 3339"),
        ("2026-11-27T12:00:00 01:00", "write + as %2B"),
        ("2026-11-27T24:00:00Z", "no such time of day"),
        ("2026-11-27T12:60:00Z", "no such time of day"),
        ("2026-11-27T12:00:61Z", "no such time of day"),
        ("2026-11-27T12:00:60Z", "a leap second is 23:59:60 in UTC"),
        ("2026-11-27T23:59:60+01:00", "a leap second is 23:59:60 in UTC"),
        ("2026-02-29T12:00:00Z", "no day of the calendar"),
        ("2026-13-01T12:00:00Z", "no day of the calendar"),
        ("2026-00-00T12:00:00Z", "no day of the calendar"),
        ("2026-11-27T12:00:00+24:00", "no such time zone"),
        ("2026-11-27T12:00:00+01:60", "no such time zone"),
        ("1970-01-01T00:00:00Z", "from 1971 to 9000"),
        ("9999-12-31T23:59:59Z", "from 1970 to 9000"),
        ("2026-11-27T12:00:00." + "1" * 50 + "Z", "at most 64 characters"),
    ],
)
def test_what_is_no_time_is_refused_with_a_reason(text: object, says: str) -> None:
    assert says in refusal(text)


@given(
    st.floats(31_622_400, 221_845_305_600).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.integers(-1439, 1439),
    st.sampled_from("Tt "),
)
def test_what_python_writes_is_read_back(at: datetime, offset: int, between: str) -> None:
    here = at.astimezone(timezone(timedelta(minutes=offset)))
    assert read(here.isoformat(between)) == here
