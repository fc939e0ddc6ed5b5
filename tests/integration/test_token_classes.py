"""Cached and reasoning tokens are parts of a request's tokens: kept, audited, shown and added up like the whole."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from sluice.domain.documents import Output
from sluice.domain.requests import Claim, Completion
from tests.integration.test_worker import deliver, new_worker
from tests.support.functions import administer
from tests.support.ledger import assert_books_balance, cancelled, wait_until_visible
from tests.support.service import Service, completed, failed, retry

PARTS = ("cached_tokens", "reasoning_tokens")


def claimed(service: Service, key: bytes, **given: Any) -> UUID:
    request_id = service.submit(key, **given)
    service.claim(request_id)
    return request_id


def kept(service: Service, request_id: UUID) -> tuple[int | None, int | None]:
    (row,) = service.rows("SELECT cached_tokens, reasoning_tokens FROM requests_all WHERE request_id = %s", request_id)
    return row["cached_tokens"], row["reasoning_tokens"]


def audited(service: Service, request_id: UUID, side: str = "after") -> dict[str, Any]:
    """The parts in the last audit row of a request."""
    found = service.rows("SELECT before, after FROM audit_log WHERE request_id = %s ORDER BY audit_id", request_id)
    return {name: found[-1][side][name] for name in PARTS if name in found[-1][side]}


def test_parts_are_kept_audited_and_shown(service: Service, alice: bytes) -> None:
    request_id = claimed(service, alice)

    service.settle(completed(request_id, cached_tokens=5, reasoning_tokens=2))

    assert kept(service, request_id) == (5, 2)
    assert audited(service, request_id) == {"cached_tokens": 5, "reasoning_tokens": 2}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "cached_tokens": 5, "reasoning_tokens": 2}
    assert service.status(alice, request_id)["usage"] == usage
    assert [request["usage"] for request in service.history(alice)["requests"]] == [usage]
    assert service.value("SELECT tokens_used FROM quotas WHERE quota_period = 'daily'") == 10, "parts of the whole"
    assert_books_balance(service)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({}, (None, None)),
        ({"cached_tokens": 0, "reasoning_tokens": 0}, (None, None)),
        ({"cached_tokens": None, "reasoning_tokens": 1}, (None, 1)),
        ({"cached_tokens": 7, "reasoning_tokens": 3}, (7, 3)),
        ({"cached_tokens": 8, "reasoning_tokens": 2_000_000_000}, (7, 3)),
        ({"cached_tokens": -1, "reasoning_tokens": -5}, (None, None)),
        ({"cached_tokens": 4, "prompt_tokens": 0}, (None, None)),
        ({"cached_tokens": 4, "reasoning_tokens": 2, "prompt_tokens": None}, (None, 2)),
        ({"cached_tokens": 4, "reasoning_tokens": 2, "prompt_tokens": None, "completion_tokens": None}, (None, None)),
    ],
)
def test_a_part_is_never_more_than_its_whole(
    service: Service, alice: bytes, reported: dict[str, Any], expected: tuple[int | None, int | None]
) -> None:
    """An outcome of the version that knows no parts has none: it settles as before."""
    request_id = claimed(service, alice)

    (settled, *_) = service.settle(completed(request_id, **reported))

    assert (settled["kind"], settled["status"]) == ("settled", "completed")
    assert kept(service, request_id) == expected
    assert audited(service, request_id) == {
        name: tokens for name, tokens in zip(PARTS, expected, strict=True) if tokens is not None
    }
    assert_books_balance(service)


def test_every_ending_with_tokens_keeps_their_parts(service: Service, alice: bytes) -> None:
    tokens: dict[str, Any] = {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 6, "reasoning_tokens": 1}
    refused, dropped, tired = (claimed(service, alice) for _ in range(3))
    service.canceller().cancel(alice, dropped)
    for _ in range(2):
        service.settle(retry(tired, service.value("SELECT attempts FROM requests WHERE request_id = %s", tired)))
        service.owner.execute("UPDATE inflight SET dispatched_at = clock_now() WHERE request_id = %s", (tired,))
        service.claim(tired)

    service.settle(failed(refused, **tokens), completed(dropped, **tokens), retry(tired, 3, **tokens))

    ended = service.rows("SELECT request_id, status FROM requests")
    assert {row["request_id"]: row["status"] for row in ended} == {
        refused: "failed",
        dropped: "cancelled",
        tired: "failed",
    }
    assert {kept(service, request_id) for request_id in (refused, dropped, tired)} == {(6, 1)}
    assert_books_balance(service)


def test_a_flush_that_is_sent_twice_counts_once(service: Service, alice: bytes) -> None:
    request_id = claimed(service, alice)
    flush = [completed(request_id, cached_tokens=5, reasoning_tokens=2)] * 2
    kinds = [row["kind"] for _ in range(2) for row in service.settle(*flush) if row["kind"] != "dispatch"]
    assert kinds == ["settled"] * 4
    assert_books_balance(service)


def test_a_redrive_undoes_the_parts_of_a_failure(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    request_id = claimed(service, alice, metadata={"project": "apollo"})
    service.settle(failed(request_id, prompt_tokens=7, completion_tokens=3, cached_tokens=6, reasoning_tokens=1))
    rolled_up(service)

    admin("request.redrive", request_id=str(request_id))

    assert kept(service, request_id) == (None, None)
    assert audited(service, request_id, "before") == {"cached_tokens": 6, "reasoning_tokens": 1}
    assert parts_of(admin("usage.get", user_id="alice")["days"][0]) == (0, 0)
    assert_books_balance(service)
    service.owner.execute("UPDATE inflight SET dispatched_at = clock_now()")
    (claim,) = service.claim(request_id)
    service.settle(completed(request_id, claim["attempt"], cached_tokens=4))
    rolled_up(service)
    assert parts_of(admin("usage.get", user_id="alice")["days"][0]) == (4, 0)
    assert_books_balance(service)


def rolled_up(service: Service) -> None:
    wait_until_visible(service)
    service.database("rollup").call("rollup_usage")


def parts_of(sums: dict[str, Any]) -> tuple[int | None, int | None]:
    return sums.get("cached_tokens", 0), sums.get("reasoning_tokens", 0)


def test_usage_has_the_parts_rolled_up_or_not(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    for project, cached in (("apollo", 5), ("gemini", 0), ("apollo", 1)):
        request_id = claimed(service, alice, metadata={"project": project})
        service.settle(completed(request_id, cached_tokens=cached, reasoning_tokens=3 - cached // 2))
    for _ in range(2):
        document = admin("usage.get", user_id="alice", by_tag="project")
        (day,), (month,) = document["days"], document["months"]
        assert parts_of(day) == parts_of(month) == parts_of(day["models"][0]) == (6, 7)
        assert (day["prompt_tokens"], day["completion_tokens"], day["total_tokens"]) == (21, 9, 30)
        assert {tag["tag_value"]: parts_of(tag) for tag in day["tags"]} == {"apollo": (6, 4), "gemini": (0, 3)}
        (key,) = admin("usage.get", user_id="alice", by_key=True)["days"][0]["keys"]
        assert parts_of(key) == (6, 7)
        rolled_up(service)
    first, *_ = admin("usage.get", user_id="alice", format="csv")["csv"].splitlines()
    assert first.endswith("amount,unpriced_tokens,cached_tokens,reasoning_tokens")
    assert_books_balance(service)


def test_an_operator_sees_the_parts(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    request_id = claimed(service, alice)
    service.settle(completed(request_id, cached_tokens=5))
    assert parts_of(admin("request.get", request_id=str(request_id))) == (5, None)


class ThinkingModel:
    """Answers with parts of its tokens; a long text to the prompt "long"."""

    def complete(self, claim: Claim, timeout: float) -> Completion:
        text = "x" * 2000 if claim.input.messages[0].text == "long" else "yes"
        # More than the whole prompt, as a server that counts them beside it may report.
        return Completion(Output.of_text(text), 7, 3, cached_tokens=10**12, reasoning_tokens=2)


def test_the_worker_reports_the_parts(service: Service, alice: bytes) -> None:
    """Also of an answer that is too large to keep, for which the tokens are charged all the same."""
    ids = [service.submit(alice, "hello"), service.submit(alice, "long")]

    report = new_worker(service, {"bedrock": ThinkingModel()}).work(deliver(*ids))

    assert report.counts == {"completed": 1, "failed": 1}
    assert [kept(service, request_id) for request_id in ids] == [(7, 2), (7, 2)]
    assert_books_balance(service)


def test_a_cancellation_before_the_answer_has_no_parts(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.settle(cancelled(request_id, 0))
    assert kept(service, request_id) == (None, None)
    assert not set(PARTS) & set(service.status(alice, request_id)["usage"])


def test_the_admin_function_knows_the_classes(service: Service, alice: bytes, deploy: Any) -> None:
    deploy("admin")
    problem = administer("price.set", model_id="nova-micro")["problem"]
    assert "at least one of prompt, cached_prompt, completion, reasoning" in problem["detail"]
    assert administer("price.set", model_id="nova-micro", thinking="1")["problem"]["code"] == "invalid_input"
