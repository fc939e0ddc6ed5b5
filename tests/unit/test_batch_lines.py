"""Lines of batches: where they are in a file, and what is wrong with them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain import batches
from sluice.domain.batches import Fault, FoundLine, Line, LinePlace, batch_name, batch_of, check_line, lines_of

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"messages": []}}


def read(content: bytes, size: int = 7) -> list[Line]:
    chunks = (content[start : start + size] for start in range(0, len(content), size))
    return list(lines_of(chunks, 0, 0, is_last=True))


def checked(line: Any, number: int = 1, position: int = 0) -> FoundLine | Fault | None:
    content = line if isinstance(line, bytes) else json.dumps(line).encode()
    return check_line(Line(LinePlace(number, position, len(content)), content), CHAT)


@given(st.lists(st.binary(max_size=20).filter(lambda each: b"\n" not in each)), st.integers(1, 30), st.booleans())
def test_lines_are_those_between_line_feeds_however_the_file_is_read(
    texts: list[bytes], size: int, ends_with_a_line_feed: bool
) -> None:
    content = b"\n".join(texts) + (b"\n" if ends_with_a_line_feed and texts else b"")
    found = read(content, size)
    expected = content.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [each.content for each in found] == [each.removesuffix(b"\r") for each in expected]
    assert [each.place.line for each in found] == list(range(1, len(expected) + 1))
    for line, text in zip(found, expected, strict=True):
        place = line.place
        assert content[place.position : place.position + place.length].removesuffix(b"\n") == text


def test_a_part_of_a_file_has_the_numbers_and_positions_of_the_whole() -> None:
    content = b"one\r\n\ntwo\nthree"
    whole = read(content)
    rest = list(lines_of([content[6:]], 6, 2, is_last=True))
    assert rest == whole[2:]
    assert [each.content for each in lines_of([content], 0, 0, is_last=False)] == [b"one", b"", b"two"]


def test_a_long_line_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_LINE_BYTES", 10)
    found = read(b"x" * 50 + b"\nshort\n" + b"y" * 11)
    assert [each.content for each in found] == [None, b"short", None]
    assert [each.place.position for each in found] == [0, 51, 57]
    fault = check_line(found[0], CHAT)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.line) == ("line_too_large", 1)


def test_a_good_line_is_found_with_its_place() -> None:
    assert checked(GOOD, 3, 99) == FoundLine(3, 99, len(json.dumps(GOOD)), "a")


@pytest.mark.parametrize("empty", [b"", b"   ", b"\t", b"\xef\xbb\xbf"])
def test_an_empty_line_is_none(empty: bytes) -> None:
    assert checked(empty) is None


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    content = b"\xef\xbb\xbf" + json.dumps(GOOD).encode()
    assert isinstance(checked(content), FoundLine)
    later = checked(content, 2, 50)
    assert isinstance(later, Fault)
    assert later.code == "invalid_json_line"


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"not json", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b'"text"', "invalid_json_line", None),
        (b'{"custom_id": "a"', "invalid_json_line", None),
        (b'{"custom_id": NaN}', "invalid_json_line", None),
        (b'{"custom_id": "a", "custom_id": "b"}', "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        ("{}".encode("utf-16"), "invalid_encoding", None),
        (b'{"custom_id": "\xe4"}', "invalid_encoding", None),
        ({}, "missing_required_parameter", "custom_id"),
        (GOOD | {"custom_id": None}, "missing_required_parameter", "custom_id"),
        (GOOD | {"custom_id": ""}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": 7}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": "a\x00b"}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": "\ud800"}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "a"}, "missing_required_parameter", "method"),
        (GOOD | {"method": "GET"}, "invalid_method", "method"),
        (GOOD | {"url": "/v1/embeddings"}, "mismatched_url", "url"),
        (GOOD | {"url": 1}, "mismatched_url", "url"),
        (GOOD | {"body": None}, "missing_required_parameter", "body"),
        (GOOD | {"body": []}, "invalid_type", "body"),
        (GOOD | {"body": "text"}, "invalid_type", "body"),
        (GOOD | {"more": 1}, "unknown_parameter", "more"),
    ],
)
def test_a_fault_names_the_line_and_the_member(line: Any, code: str, param: str | None) -> None:
    fault = checked(line, 12)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.line, fault.param) == (code, 12, param)
    assert fault.message


def test_what_a_line_holds_is_not_quoted() -> None:
    for line in (b'{"secret": 1', GOOD | {"url": "secret"}, GOOD | {"method": "secret"}, GOOD | {"body": "secret"}):
        fault = checked(line)
        assert isinstance(fault, Fault)
        assert "secret" not in fault.message


@given(st.uuids())
def test_the_id_of_a_batch_is_read_as_it_was_written(batch_id: Any) -> None:
    assert batch_of(batch_name(batch_id)) == batch_id
    assert batch_of(f"{batch_name(batch_id)}\n") is None
    assert batch_of(batch_id.hex) is None
