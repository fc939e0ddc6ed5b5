"""API keys: their form, and what is stored of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.keys import PREFIX, NewKey, digest, is_well_formed, new_key


def test_new_key_is_well_formed_and_holds_256_bits() -> None:
    key = new_key()
    assert is_well_formed(key.secret)
    assert key.secret.startswith("sluice_")
    # 43 characters of 6 bits each hold 32 bytes.
    assert len(key.secret) == len(PREFIX) + 43


def test_keys_are_unique() -> None:
    keys = [new_key() for _ in range(1000)]
    assert len({key.secret for key in keys}) == len(keys)
    assert len({key.digest for key in keys}) == len(keys)


def test_shown_part_is_a_short_prefix() -> None:
    key = new_key()
    assert key.secret.startswith(key.shown)
    # 6 of 43 characters: 222 bits stay secret.
    assert len(key.shown) == len(PREFIX) + 6


def test_digest_is_sha_256() -> None:
    # printf sluice_aaa… | sha256sum; a change here would make every stored key unusable.
    assert digest("sluice_" + "a" * 43).hex() == "73cac25d1fec85e8439e466b0c1159f53495e34ae206a7563ae7046e2402c579"
    key = new_key()
    assert key.digest == digest(key.secret)


def test_key_is_immutable() -> None:
    key = new_key()
    with pytest.raises(AttributeError):
        key.secret = "another"  # type: ignore[misc]
    assert key == NewKey(key.secret, key.shown, key.digest)


GOOD = "sluice_" + "aZ09_-x" * 6 + "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sluice_",
        GOOD[:-1],
        GOOD + "a",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        GOOD.replace("sluice_", "sk-"),
        GOOD[:-1] + "=",
        GOOD[:-1] + "é",
        # A digit to Unicode, and to Python's \d
        GOOD[:-1] + "٣",
        GOOD[:-1] + "\x00",
    ],
)
def test_malformed_key_is_recognised(text: str) -> None:
    assert is_well_formed(GOOD)
    assert not is_well_formed(text)


@given(st.text())
def test_any_text_can_be_checked(text: str) -> None:
    assert not is_well_formed(text)
