"""Ids in OpenAI's form: there and back, and nothing else is one."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.openai.ids import answer_item_id, answer_item_of, asked_item_id, completion_id, request_of, response_id

NUMBERS = st.integers(0, 0x7FFF)
PREFIXES = st.sampled_from(["msg", "fc", "rs"])


@given(st.uuids())
def test_a_response_is_found_by_its_id(request_id: UUID) -> None:
    assert request_of(response_id(request_id)) == request_id
    assert completion_id(request_id).endswith(request_id.hex)
    assert request_of(completion_id(request_id)) is None


@given(st.uuids(), PREFIXES, NUMBERS)
def test_an_item_of_an_answer_is_found_by_its_id(request_id: UUID, prefix: str, number: int) -> None:
    assert answer_item_of(answer_item_id(prefix, request_id, number)) == (request_id, number)


@given(st.uuids(), PREFIXES, NUMBERS)
def test_an_item_that_was_asked_is_no_item_of_an_answer(request_id: UUID, prefix: str, number: int) -> None:
    asked = asked_item_id(prefix, request_id, number)
    assert answer_item_of(asked) is None
    assert asked != answer_item_id(prefix, request_id, number)


@given(st.uuids(), st.lists(NUMBERS, unique=True, max_size=5), st.lists(NUMBERS, unique=True, max_size=5))
def test_ids_of_one_request_differ(request_id: UUID, answered: list[int], asked: list[int]) -> None:
    ids = [answer_item_id("msg", request_id, n) for n in answered] + [
        asked_item_id("msg", request_id, n) for n in asked
    ]
    assert len(set(ids)) == len(ids)


ZERO = "0" * 32


@pytest.mark.parametrize(
    "given_id",
    [
        "",
        "resp_",
        ZERO,
        f"resp_{ZERO}0",
        f"resp_{ZERO}\n",
        f"RESP_{ZERO}",
        f"resp_{'A' * 32}",
        "resp_" + "\u0660" * 32,
        f"msg_{ZERO}0000",
    ],
)
def test_what_is_no_id_of_a_response(given_id: str) -> None:
    assert request_of(given_id) is None


@pytest.mark.parametrize(
    "given_id", ["", "msg_", f"msg_{ZERO}", f"msg_{ZERO}000", f"msg_{ZERO}00000", f"x_{ZERO}0000", f"msg_{ZERO}000A"]
)
def test_what_is_no_id_of_an_item(given_id: str) -> None:
    assert answer_item_of(given_id) is None


@given(st.text() | st.from_regex(r"(resp|msg|fc|rs)_[0-9a-f]{30,40}"))
def test_any_text_is_an_id_or_none(given_id: str) -> None:
    found: Any = request_of(given_id)
    assert found is None or response_id(found) == given_id
    item = answer_item_of(given_id)
    assert item is None or given_id.endswith(f"{item[0].hex}{item[1]:04x}")
