"""From a model server's answer to what clients and operators read of it: how it ended, what is booked, what is flagged."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from sluice.backends.openai import OpenAIBackend
from sluice.messaging import Delivery
from sluice.services.process import BatchReport, Worker, WorkerSettings
from sluice.services.tasks.run import run_tasks
from tests.support.functions import KEYED, Context, event, get, load
from tests.support.ledger import SMALL, assert_books_balance, wait_until_visible
from tests.support.openai_backend import answer
from tests.support.service import Service, completed
from tests.unit.scripted_server import Reply, ScriptedServer

PROMPT = "twenty-one bytes long"
SETTINGS = WorkerSettings(max_result_bytes=1000, flush_seconds=0.05, retry_base_seconds=4, lease_margin_seconds=30)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def models(service: Service, server: ScriptedServer) -> None:
    """A model at the server: overhead 10, max_tokens 16."""
    openai = {"backend": "openai", "endpoint": f"{server.url}/v1", "is_default": True}
    service.act("model.set", **SMALL | openai)


@pytest.fixture
def request_id(service: Service, alice: bytes, models: None) -> UUID:
    return service.submit(alice, PROMPT)


def work(service: Service, request_id: UUID) -> BatchReport:
    """One attempt, as if its pause were over."""
    service.owner.execute("UPDATE inflight SET not_before = NULL")
    worker = Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"openai": OpenAIBackend(str, SETTINGS.max_result_bytes)},
        settings=SETTINGS,
        remaining_seconds=lambda: 30.0,
    )
    return worker.work([Delivery("message", json.dumps({"request_id": str(request_id)}))])


def choice(finish_reason: Any, **message: Any) -> dict[str, Any]:
    return answer(choices=[{"message": {"role": "assistant", **message}, "finish_reason": finish_reason}])


def usage(prompt: int, completion: int, total: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total} | more


def audited(service: Service, action: str) -> dict[str, Any]:
    found: dict[str, Any] = service.value("SELECT after FROM audit_log WHERE action = %s", action)
    return found


# How it ended ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "result", "finish_reason", "empty_reason"),
    [
        (choice("stop", content="a sentence."), "a sentence.", "stop", None),
        (choice("length", content="half a sen"), "half a sen", "length", None),
        (choice("content_filter", content=None), "", "content_filter", "content_filter"),
        (choice("tool_calls", content=None, tool_calls=[{"id": "1"}]), "", "tool_calls", "tool_calls"),
        (choice("stop", content=None, refusal="I cannot."), "I cannot.", "refusal", None),
        (choice("length", content=None, reasoning_content="hm"), "", "length", "reasoning"),
        (choice("stop", content=[{"type": "text", "text": "hello"}]), "hello", "stop", None),
        (choice("something_new", content="x"), "x", "other", None),
        (choice(None, content="x"), "x", None, None),
    ],
)
def test_how_an_answer_ended_is_shown_everywhere(
    service: Service,
    alice: bytes,
    server: ScriptedServer,
    request_id: UUID,
    admin: Callable[..., Any],
    body: Any,
    result: str,
    finish_reason: str | None,
    empty_reason: str | None,
) -> None:
    server.replies(Reply(body=body))

    report = work(service, request_id)

    assert (report.counts, report.finish_reasons) == ({"completed": 1}, {finish_reason or "unknown": 1})
    shown = service.status(alice, request_id)
    assert (shown["status"], shown["result"]) == ("completed", result)
    assert (shown["finish_reason"], shown["empty_reason"]) == (finish_reason, empty_reason)
    assert service.history(alice)["requests"][0]["finish_reason"] == finish_reason
    view = service.rows("SELECT result, finish_reason FROM submissions")
    assert view == [{"result": result, "finish_reason": finish_reason}]
    assert audited(service, "request.completed").get("finish_reason") == finish_reason
    assert admin("request.list")["requests"][0]["finish_reason"] == finish_reason
    found = admin("request.get", request_id=str(request_id))
    assert (found["finish_reason"], found["empty_reason"]) == (finish_reason, empty_reason)
    assert_books_balance(service)


def test_requests_are_listed_by_how_they_ended(
    service: Service, alice: bytes, server: ScriptedServer, models: None, admin: Callable[..., Any]
) -> None:
    ids = [service.submit(alice, PROMPT) for _ in range(4)]
    for each, reason in zip(ids, ("length", "stop", "length", None), strict=True):
        server.replies(Reply(body=choice(reason, content="x")))
        work(service, each)
    listed = admin("request.list", finish_reason="length")["requests"]
    assert [each["request_id"] for each in listed] == [str(ids[2]), str(ids[0])]
    assert [each["request_id"] for each in admin("request.list", finish_reason="stop")["requests"]] == [str(ids[1])]
    assert admin("request.list", finish_reason="refusal")["requests"] == []


def test_answers_that_are_not_whole_are_counted(service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(5)]
    service.claim(*ids)
    for each, reason in zip(ids, ("stop", "length", "content_filter", "refusal", None), strict=True):
        output = completed(each)["output"] | ({} if reason is None else {"finish_reason": reason})
        service.settle(completed(each, output=output))
    wait_until_visible(service)
    run_tasks(service.tasks(), ["stats"])
    counted = service.rows("SELECT request_count, failure_count, incomplete_count FROM request_stats")
    assert counted == [{"request_count": 5, "failure_count": 0, "incomplete_count": 3}]


def test_a_cancelled_request_has_no_finish_reason(
    service: Service, alice: bytes, server: ScriptedServer, request_id: UUID
) -> None:
    service.claim(request_id)
    service.canceller().cancel(alice, request_id)
    service.settle(completed(request_id, output=completed(request_id)["output"] | {"finish_reason": "stop"}))
    assert service.status(alice, request_id)["finish_reason"] is None
    assert "finish_reason" not in audited(service, "request.cancelled")


# What is booked -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reported", "booked", "flag"),
    [
        (usage(21, 5, 26), (21, 5), None),
        (usage(21, 0, 81, completion_tokens_details={"reasoning_tokens": 60}), (21, 60), "inconsistent"),
        (usage(21, 0, 21), (21, 3), "estimated"),
        (usage(21, 900_000_000, 900_000_021), (21, 16), "implausible"),
        (usage(900_000_000, 5, 900_000_005), (31, 5), "implausible"),
    ],
)
def test_what_is_booked_and_what_is_audited(
    service: Service,
    alice: bytes,
    server: ScriptedServer,
    request_id: UUID,
    reported: dict[str, Any],
    booked: tuple[int, int],
    flag: str | None,
) -> None:
    server.replies(Reply(body=choice("stop", content="a sentence.") | {"usage": reported}))

    report = work(service, request_id)

    shown = service.status(alice, request_id)["usage"]
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == booked
    assert service.value("SELECT tokens_used FROM quotas WHERE quota_period = 'daily'") == sum(booked)
    after = audited(service, "request.completed")
    assert (after["prompt_tokens"], after["completion_tokens"]) == booked
    doubted = {name: after.get(name) for name in ("usage_flag", "reported_prompt_tokens", "reported_completion_tokens")}
    if flag is None:
        assert set(doubted.values()) == {None}
        assert report.doubts == {}
    else:
        assert tuple(doubted.values()) == (flag, reported["prompt_tokens"], reported["completion_tokens"])
        assert report.doubts == {flag: 1}
    assert_books_balance(service)


def test_an_unreadable_answer_that_tells_its_tokens_is_paid_once(
    service: Service, alice: bytes, server: ScriptedServer, request_id: UUID
) -> None:
    server.replies(Reply(body=answer(5)))

    work(service, request_id)

    shown = service.status(alice, request_id)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "model_bad_response")
    assert shown["error"]["fault"] == "provider"
    assert (shown["usage"]["prompt_tokens"], shown["usage"]["completion_tokens"]) == (11, 5)
    assert_books_balance(service)


def test_an_unreadable_answer_without_tokens_is_tried_once_more(
    service: Service, alice: bytes, server: ScriptedServer, request_id: UUID
) -> None:
    service.owner.execute("UPDATE inflight SET max_attempts = 20")
    server.replies(Reply(body=b"{}"), Reply(503), Reply(body=b"{}"), Reply(body=b"{}"))
    statuses = []
    for _ in range(4):
        work(service, request_id)
        statuses.append(service.status(alice, request_id)["status"])
    assert statuses == ["queued", "queued", "queued", "failed"]
    assert_books_balance(service)


def test_what_is_no_answer_at_all_is_tried_again_like_an_outage(
    service: Service, alice: bytes, server: ScriptedServer, request_id: UUID
) -> None:
    service.owner.execute("UPDATE inflight SET max_attempts = 20")
    server.replies(*[Reply(body=b"<html>busy</html>"), Reply(body=b'{"choices": [')] * 3)
    for _ in range(6):
        work(service, request_id)
    assert service.status(alice, request_id)["queue"]["last_error"] == "model_bad_response"


def test_tokens_of_an_attempt_that_is_tried_again_are_wasted(
    service: Service, alice: bytes, server: ScriptedServer, request_id: UUID
) -> None:
    server.replies(Reply(body=choice("error", content="half")), Reply(body=choice("stop", content="whole")))

    work(service, request_id)

    requeued = audited(service, "request.requeued")
    assert (requeued["error_code"], requeued["wasted_tokens"]) == ("model_unavailable", 16)
    assert service.value("SELECT tokens_used FROM quotas WHERE quota_period = 'daily'") == 0
    work(service, request_id)
    assert service.status(alice, request_id)["usage"]["total_tokens"] == 16
    assert_books_balance(service)


def test_an_answer_that_is_broken_off_again_is_booked_and_final(
    service: Service, alice: bytes, server: ScriptedServer, request_id: UUID
) -> None:
    server.replies(*[Reply(body=choice("abort", content="half"))] * 2)
    work(service, request_id)
    assert work(service, request_id).counts == {"failed": 1}
    ended = service.status(alice, request_id)
    assert (ended["error"]["code"], ended["usage"]["total_tokens"]) == ("model_unavailable", 16)
    assert_books_balance(service)


# Whose fault it is, and when it is tried again -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "status", "code", "fault"),
    [
        (Reply(404, {"detail": "Not Found"}), "queued", "model_misconfigured", "operator"),
        (Reply(429, {"error": {"code": "insufficient_quota"}}), "queued", "model_quota_exhausted", "operator"),
        (Reply(401), "queued", "model_unauthorized", "operator"),
        (Reply(429), "queued", "model_throttled", "provider"),
        (Reply(503), "queued", "model_unavailable", "provider"),
        (Reply(400), "failed", "model_rejected", "client"),
        (Reply(413), "failed", "model_input_too_large", "client"),
        (Reply(400, {"error": {"code": "content_filter"}}), "failed", "content_filtered", "client"),
    ],
)
def test_the_client_reads_whose_fault_it_is(
    service: Service,
    alice: bytes,
    server: ScriptedServer,
    request_id: UUID,
    reply: Reply,
    status: str,
    code: str,
    fault: str,
) -> None:
    server.replies(reply)

    report = work(service, request_id)

    shown = service.status(alice, request_id)
    assert shown["status"] == status
    if status == "queued":
        assert (shown["queue"]["last_error"], shown["queue"]["last_error_fault"]) == (code, fault)
    else:
        assert (shown["error"]["code"], shown["error"]["fault"]) == (code, fault)
    assert report.repairs == ({("small", code): 1} if fault == "operator" else {})
    pause = (
        service.value("SELECT extract(epoch FROM not_before - clock_now())::float FROM inflight")
        if status == "queued"
        else 0
    )
    # The base is 4 s, with jitter; twelve times as long where somebody has to repair something.
    assert pause <= 48
    assert (pause > 20) == (fault == "operator")


@pytest.mark.parametrize("headers", [{"Retry-After": "300.5"}, {"retry-after-ms": "300500"}])
def test_a_model_is_left_alone_as_long_as_it_asks(
    service: Service, server: ScriptedServer, request_id: UUID, headers: dict[str, str]
) -> None:
    service.queue.take()
    server.replies(Reply(429, headers=headers))
    work(service, request_id)
    (message,) = service.queue.messages
    assert message.delay_seconds == 301
    assert audited(service, "request.requeued")["retry_after"] == 300.5


# The function ---------------------------------------------------------------------------------------------------------


def test_the_worker_counts_what_operators_watch(
    deploy: Any,
    service: Service,
    alice: bytes,
    server: ScriptedServer,
    models: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.replies(
        Reply(body=choice("length", content="zebra") | {"usage": usage(21, 0, 21)}), Reply(404, {"detail": "zebra"})
    )
    ids = [service.submit(alice, PROMPT) for _ in range(2)]
    deploy("worker")
    batch = event("worker")
    for each in ids:
        batch["Records"] = [batch["Records"][0] | {"body": json.dumps({"request_id": str(each)})}]
        assert load("worker.app").handler(batch, Context()) == {"batchItemFailures": []}
    logged = capsys.readouterr().out
    metrics = [json.loads(line) for line in logged.splitlines() if '"_aws"' in line]
    counted = {name: each for each in metrics for name in each if isinstance(each[name], list)}
    assert counted["TokenReportsDoubted"]["TokenReportsDoubted"] == [1.0]
    assert counted["ModelRepairsNeeded"]["ModelRepairsNeeded"] == [1.0]
    assert counted["RequestsCompletedBy"]["finish_reason"] == "length"
    assert counted["ModelRepairsNeededBy"]["model"] == "small"
    assert counted["ModelRepairsNeededBy"]["code"] == "model_misconfigured"
    assert "token report doubted" in logged
    assert "zebra" not in logged
    assert PROMPT not in logged
    deploy("status")
    assert get(f"/status/{ids[0]}", KEYED)[2]["finish_reason"] == "length"
