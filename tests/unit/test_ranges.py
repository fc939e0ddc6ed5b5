"""Parts of answers: Range, If-Range, If-Match and If-None-Match as in RFC 9110."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.ranges import Span, UnsatisfiableError, has_tag, is_current, may_have_tag, wanted_span

TAG = f'"{"a" * 64}"'


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-9", 0, 9),
        ("bytes=3-5", 3, 5),
        ("bytes=3-", 3, 9),
        ("bytes=9-", 9, 9),
        ("bytes=3-100", 3, 9),
        ("bytes=-3", 7, 9),
        ("bytes=-10", 0, 9),
        ("bytes=-100", 0, 9),
        (" Bytes = 3-5 ", 3, 5),
        ("bytes=003-0005", 3, 5),
        (f"bytes=3-{'9' * 5000}", 3, 9),
        (f"bytes=-{'9' * 5000}", 0, 9),
    ],
)
def test_a_part(header: str, first: int, last: int) -> None:
    assert wanted_span(header, 10) == Span(first, last)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=x-y",
        "bytes=5-3",
        "bytes=3-5,7-8",
        "bytes=0-0,-1",
        "bytes=3-5,",
        "bytes=+3-5",
        "bytes=3.0-5",
        "bytes=3--5",
        "bytes=\u0663-\u0665",
        "items=3-5",
        "3-5",
        "bytes=3-5;bytes=1-2",
    ],
)
def test_what_is_not_one_part_is_all_of_it(header: str | None) -> None:
    assert wanted_span(header, 10) is None


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ("bytes=10-", 10),
        ("bytes=10-12", 10),
        (f"bytes={'9' * 5000}-", 10),
        ("bytes=-0", 10),
        ("bytes=0-", 0),
        ("bytes=-1", 0),
    ],
)
def test_a_part_that_is_not_there(header: str, length: int) -> None:
    with pytest.raises(UnsatisfiableError):
        wanted_span(header, length)


@given(st.integers(0, 20), st.integers(0, 30), st.integers(0, 30))
def test_a_part_lies_within_the_answer(length: int, first: int, last: int) -> None:
    for header in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        try:
            span = wanted_span(header, length)
        except UnsatisfiableError:
            continue
        assert span is None or 0 <= span.first <= span.last < length


@given(st.text(max_size=30))
def test_any_text_is_a_header(text: str) -> None:
    for header in (text, f"bytes={text}"):
        try:
            wanted_span(header, 10)
        except UnsatisfiableError:
            continue
    assert has_tag(text, TAG) in (True, False)
    assert may_have_tag(text, TAG) in (True, False)


@pytest.mark.parametrize(
    ("header", "has"),
    [
        (None, False),
        ("", False),
        (TAG, True),
        (f"W/{TAG}", True),
        (f'"x", {TAG}', True),
        (f'W/"x",{TAG}, "y"', True),
        ("*", True),
        ('"x"', False),
        (TAG.strip('"'), False),
    ],
)
def test_what_the_client_has_already(header: str | None, has: bool) -> None:
    assert has_tag(header, TAG) is has


@pytest.mark.parametrize(
    ("header", "may"),
    [
        (None, True),
        ("*", True),
        (TAG, True),
        (f'"x", {TAG}', True),
        (f'W/"x",{TAG}', True),
        (f"W/{TAG}", False),
        ('"x"', False),
        (TAG.strip('"'), False),
    ],
)
def test_what_the_client_has_a_part_of(header: str | None, may: bool) -> None:
    assert may_have_tag(header, TAG) is may


@pytest.mark.parametrize(
    ("header", "counts"),
    [
        (None, True),
        (TAG, True),
        (f" {TAG} ", True),
        ('"x"', False),
        # A weak tag does not say that the bytes are the same.
        (f"W/{TAG}", False),
        ("Fri, 27 Nov 2026 10:00:00 GMT", False),
    ],
)
def test_a_range_of_what_the_client_has_a_part_of(header: str | None, counts: bool) -> None:
    assert is_current(header, TAG) is counts
