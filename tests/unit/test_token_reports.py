"""Token reports that do not add up, are unreadable or absurd: what is booked and what is flagged."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.backends.openai import OpenAIBackend
from sluice.backends.tokens import ALLOWANCE_TOKENS, TokenReport, counted, with_cache
from sluice.domain.documents import ImagePart, Input, Message, TextPart
from sluice.domain.requests import Claim, Completion
from tests.support.openai_backend import PATIENT, PROMPT, WORDS, answer, claim, failure
from tests.unit.scripted_server import Reply, ScriptedServer

# The claim of these tests: a prompt of 21 bytes, overhead 64, max_tokens 7.
SHARE = len(PROMPT) + 64
MOST_PROMPT = SHARE + ALLOWANCE_TOKENS
# WORDS are longer than seven bytes.
MOST_COMPLETION = len(WORDS) + ALLOWANCE_TOKENS


@pytest.fixture
def asked(server: ScriptedServer) -> Claim:
    return claim(server, overhead_tokens=64)


def booked(server: ScriptedServer, backend: OpenAIBackend, asked: Claim, usage: Any, **message: Any) -> Completion:
    choice = {"message": {"role": "assistant", "content": WORDS, **message}, "finish_reason": "stop"}
    server.replies(Reply(body=answer(choices=[choice], usage=usage)))
    return backend.complete(asked, PATIENT)


def usage(prompt: Any, completion: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    reported = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return {name: value for name, value in reported.items() if value is not None} | more


def reasoning(tokens: int) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": tokens}}


def cached(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens_details": {"cached_tokens": tokens}}


@pytest.mark.parametrize(
    ("reported", "tokens", "flag"),
    [
        (usage(11, 5), (11, 5), None),
        (usage(11, 5, 16), (11, 5), None),
        # Reasoning inside, as at OpenAI.
        (usage(11, 65, 76, **reasoning(60)), (11, 65), None),
        (usage(11, 60, 71, **reasoning(60)), (11, 60), None),
        # Beside.
        (usage(21, 0, 81, **reasoning(60)), (21, 60), "inconsistent"),
        (usage(21, 5, 86, **reasoning(60)), (21, 65), "inconsistent"),
        (usage(21, 100, 181, **reasoning(60)), (21, 160), "inconsistent"),
        (usage(21, 5, **reasoning(60)), (21, 65), "inconsistent"),
        (usage(21, 5, 26, **reasoning(60)), (21, 65), "inconsistent"),
        (usage(21, 5, reasoning_tokens=60), (21, 65), "inconsistent"),
        # The total has more, or less.
        (usage(21, 5, 90), (21, 69), "inconsistent"),
        (usage(21, 5, 20), (21, 5), "inconsistent"),
        # A cached prompt: inside, and beside.
        (usage(30, 5, 35, **cached(20)), (30, 5), None),
        (usage(10, 5, 35, **cached(20)), (30, 5), "inconsistent"),
        (usage(10, 5, 15, **cached(20)), (30, 5), "inconsistent"),
        # What is missing or unreadable follows from the total.
        (usage(11, None, 16), (11, 5), "inconsistent"),
        (usage(None, 5, 16), (11, 5), "inconsistent"),
        (usage(11, True, 16), (11, 5), "inconsistent"),
        (usage(-1, 5, 16), (11, 5), "inconsistent"),
        # Numbers in other forms.
        (usage(11.0, 5.0, 16.0), (11, 5), None),
        (usage("11", "5", "16"), (11, 5), None),
        (usage(11, 5, "many"), (11, 5), None),
        ({"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}, (11, 5), None),
        # No tokens for what is there: about four bytes each, at most the request's share.
        (usage(11, 0, 11), (11, 5), "estimated"),
        (usage(0, 5, 5), (6, 5), "estimated"),
        (usage(0, 0), (6, 5), "estimated"),
        # The largest that may be, and more.
        (usage(MOST_PROMPT, MOST_COMPLETION), (MOST_PROMPT, MOST_COMPLETION), None),
        (usage(MOST_PROMPT + 1, 5), (SHARE, 5), "implausible"),
        (usage(11, MOST_COMPLETION + 1), (11, 7), "implausible"),
        (usage(900_000_000, 5), (SHARE, 5), "implausible"),
        (usage(11, 900_000_000), (11, 7), "implausible"),
        (usage(2**64, 10**300), (SHARE, 7), "implausible"),
        (usage(11, 5, 900_000_000), (11, 5), "implausible"),
        (usage(11, 5, **reasoning(900_000_000)), (11, 5), "implausible"),
        (usage(11, 5, **cached(900_000_000)), (11, 5), "implausible"),
        (usage(11, None, 900_000_000), (11, 7), "implausible"),
    ],
)
def test_what_is_booked_and_flagged(
    server: ScriptedServer,
    backend: OpenAIBackend,
    asked: Claim,
    reported: dict[str, Any],
    tokens: tuple[int, int],
    flag: str | None,
) -> None:
    found = booked(server, backend, asked, reported)
    assert (found.prompt_tokens, found.completion_tokens) == tokens
    assert (found.doubt.flag if found.doubt else None) == flag


@pytest.mark.parametrize(
    ("reported", "details"),
    [
        (usage(11, 5), (0, 0)),
        (usage(30, 65, 95, **cached(20), **reasoning(60)), (20, 60)),
        (usage(30, 5, 35, prompt_cache_hit_tokens=20, prompt_cache_miss_tokens=10), (20, 0)),
        (usage(30, 5, 35, **cached(20), prompt_cache_hit_tokens=10), (20, 0)),
        # Beside the others, where they become part of what is booked.
        (usage(10, 5, 35, **cached(20)), (20, 0)),
        (usage(21, 5, 86, **reasoning(60)), (0, 60)),
        # In part of a report that is estimated.
        (usage(30, 0, 30, **cached(20)), (20, 0)),
        # A report that is not believed.
        (usage(30, 900_000_000, **cached(20)), (0, 0)),
        (usage(900_000_000, 65, **cached(20), **reasoning(60)), (0, 0)),
        (usage(30, 5, 900_000_000, **cached(20)), (0, 0)),
        (usage(11, 5, **cached(900_000_000)), (0, 0)),
        (usage(11, 5, **reasoning(900_000_000)), (0, 0)),
        (usage(11, 5, **cached(-1), **reasoning(-1)), (0, 0)),
    ],
)
def test_cached_and_reasoning_tokens_are_parts_of_what_is_booked(
    server: ScriptedServer,
    backend: OpenAIBackend,
    asked: Claim,
    reported: dict[str, Any],
    details: tuple[int, int],
) -> None:
    found = booked(server, backend, asked, reported)
    assert (found.cached_tokens, found.reasoning_tokens) == details


@pytest.mark.parametrize(("more", "flag"), [(0, None), (1, "implausible")])
def test_messages_and_images_may_count_what_was_reserved_for_them(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim, more: int, flag: str | None
) -> None:
    image = ImagePart(type="image", url="https://example.com/a.png")
    pictured = Message(role="user", content=(TextPart(text=PROMPT), image))
    conversation = replace(asked, input=Input(messages=(pictured, pictured)), item_tokens=100, image_tokens=1000)
    share = 2 * len(PROMPT) + 64 + 100 + 2 * 1000
    assert conversation.prompt_tokens_most == share
    found = booked(server, backend, conversation, usage(share + ALLOWANCE_TOKENS + more, 5))
    assert found.prompt_tokens == (share if more else share + ALLOWANCE_TOKENS)
    assert (found.doubt.flag if found.doubt else None) == flag


def test_a_doubt_has_what_was_reported(server: ScriptedServer, backend: OpenAIBackend, asked: Claim) -> None:
    doubt = booked(server, backend, asked, usage(11, 900_000_000)).doubt
    assert doubt is not None
    assert doubt.to_json() == {
        "usage_flag": "implausible",
        "reported_prompt_tokens": 11,
        "reported_completion_tokens": 900_000_000,
    }


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_that_is_shown_counts_as_written(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim, field: str
) -> None:
    thought = {field: "x" * 20_000}
    assert booked(server, backend, asked, usage(11, 25_000), **thought).completion_tokens == 25_000
    # An estimate is at most what was reserved for it.
    empty = booked(server, backend, asked, usage(11, 0), content=None, **thought)
    assert (empty.completion_tokens, empty.output.text) == (7, "")


def test_no_tokens_for_no_text_are_none(server: ScriptedServer, backend: OpenAIBackend, asked: Claim) -> None:
    found = booked(server, backend, asked, usage(11, 0), content=None)
    assert (found.completion_tokens, found.doubt) == (0, None)


def test_an_estimate_is_at_least_one_token(server: ScriptedServer, backend: OpenAIBackend, asked: Claim) -> None:
    assert booked(server, backend, asked, usage(11, 0), content="a").completion_tokens == 1


UNREADABLE: list[Any] = [
    *(-1, True, False, 7.5, float("inf"), float("nan"), [], {}),
    *("", "-7", "7.5", "seven", "\N{ARABIC-INDIC DIGIT SEVEN}"),
]


@pytest.mark.parametrize(
    "reported",
    [
        None,
        [],
        "7",
        7,
        {},
        usage(None, None, 7),
        usage(7, None),
        usage(None, 7),
        usage(7, None, 5),
        *(usage(7, value) for value in UNREADABLE),
        *(usage(value, 7) for value in UNREADABLE),
    ],
)
def test_answer_whose_tokens_are_unknown_is_an_error(
    server: ScriptedServer, backend: OpenAIBackend, reported: Any
) -> None:
    server.replies(Reply(body=answer(usage=reported)))
    error = failure(backend, claim(server))
    assert error.code == "model_usage_missing"
    # Another call would cost again, and its answer would lack the counts too.
    assert not error.is_transient


def test_tokens_of_a_failure_are_bounded_but_never_estimated(
    server: ScriptedServer, backend: OpenAIBackend, asked: Claim
) -> None:
    server.replies(
        *(Reply(body=answer(5, usage=reported)) for reported in (usage(0, 0), usage(11, 0), usage(11, 900_000_000)))
    )
    found = [failure(backend, asked) for _ in range(3)]
    assert [(each.prompt_tokens, each.completion_tokens) for each in found] == [(None, None), (11, 0), (11, 7)]
    assert found[2].doubt is not None


def test_cached_tokens_beside_the_prompt_are_added() -> None:
    report = TokenReport(prompt=10, completion=5, total=15)
    assert with_cache(report, 20, 30) == TokenReport(prompt=60, completion=5, total=65, cached=20)
    whole = TokenReport(prompt=10, completion=5, total=65)
    assert with_cache(whole, 20, 30) == TokenReport(prompt=60, completion=5, total=65, cached=20)
    assert with_cache(report, None, 0) == report


COUNTS = st.none() | st.integers(min_value=0, max_value=2**70) | st.integers(min_value=0, max_value=20_000)


@given(
    report=st.builds(TokenReport, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    prompt=st.text(max_size=50),
    max_tokens=st.integers(min_value=1, max_value=10**9),
    overhead=st.integers(min_value=0, max_value=10**9),
    answer_bytes=st.none() | st.integers(min_value=0, max_value=5_000_000),
)
def test_whatever_is_reported_what_is_booked_is_plausible(
    report: TokenReport, prompt: str, max_tokens: int, overhead: int, answer_bytes: int | None
) -> None:
    with ScriptedServer() as server:
        given_claim = claim(
            server, input=Input.of_prompt(prompt), overhead_tokens=overhead, parameters={"max_tokens": max_tokens}
        )
    found = counted(report, given_claim, answer_bytes)
    if found is None:
        assert report.prompt is None or report.completion is None
        return
    assert 0 <= found.prompt <= len(prompt.encode()) + overhead + ALLOWANCE_TOKENS
    assert 0 <= found.completion <= max(max_tokens, answer_bytes or 0) + ALLOWANCE_TOKENS
    assert 0 <= found.cached <= found.prompt
    assert 0 <= found.reasoning <= found.completion
    # PostgreSQL's integer holds their sum.
    assert found.prompt + found.completion < 2**31
    if not answer_bytes and answer_bytes is not None:
        assert found.prompt or not prompt or not given_claim.input.byte_length + overhead
    if answer_bytes:
        assert found.completion > 0
    if (found.prompt, found.completion) != (report.prompt, report.completion):
        assert found.doubt is not None
        assert (found.doubt.prompt_tokens, found.doubt.completion_tokens) == (report.prompt, report.completion)
