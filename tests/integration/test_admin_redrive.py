"""Redriving failed requests: one, or all that failed for a reason in a period."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sluice.services.tasks import recover
from sluice.services.tasks.run import run_tasks
from tests.support.functions import Context, administer
from tests.support.ledger import SMALL, assert_books_balance, set_clock, stop_the_clock, wait_until_visible
from tests.support.redrive import counters, fail, now_ish, outcomes, request_state, statuses
from tests.support.service import Service, completed


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_a_redriven_request_counts_only_its_new_end(
    admin: Callable[..., Any], service: Service, alice: bytes, is_rolled_up: bool
) -> None:
    def rolled_up() -> None:
        if is_rolled_up:
            wait_until_visible(service)
            run_tasks(service.tasks(), ["usage", "stats"])

    request_id, other = service.submit(alice), service.submit(alice)
    fail(service, request_id, other, prompt_tokens=5, completion_tokens=2)
    service.queue.take()
    rolled_up()
    assert counters(service) == [(2, 14, 0)]
    reserved = service.value("SELECT reserved_tokens FROM requests WHERE request_id = %s", request_id)

    result = admin("request.redrive", request_id=str(request_id))

    outcome = {"request_id": str(request_id), "outcome": "redriven"}
    assert result == {"redriven": 1, "requests": [outcome], "next_cursor": None}
    (row,) = service.rows("SELECT * FROM requests WHERE request_id = %s", request_id)
    assert (row["status"], row["attempts"]) == ("queued", 2)
    assert {row[name] for name in ("error_code", "error_message", "completed_at", "total_tokens")} == {None}
    (waits,) = service.rows("SELECT * FROM inflight")
    assert (waits["attempt"], waits["failed_attempts"], waits["max_attempts"]) == (2, 0, 20)
    lifetime = waits["expires_at"] - datetime.now(UTC)
    assert timedelta(hours=23) < lifetime <= timedelta(hours=24)
    assert counters(service) == [(2, 7, reserved)], "its tokens are reserved again, and it is not counted again"
    (audited,) = service.rows("SELECT * FROM audit_log WHERE action = 'request.redriven'")
    assert (audited["actor"], audited["user_id"], audited["request_id"]) == ("admin", "alice", request_id)
    assert audited["invocation"] == UUID(Context.aws_request_id)
    assert (audited["before"]["status"], audited["before"]["error_code"]) == ("failed", "model_rejected")
    assert audited["after"] == {"status": "queued", "wasted_tokens": 7}
    assert_books_balance(service)
    rolled_up()
    assert_books_balance(service)

    recover.run(service.tasks())
    assert service.queue.take() == [request_id]
    (claim,) = service.claim(request_id)
    assert claim["attempt"] == 3
    service.settle(completed(request_id, attempt=3))

    assert counters(service) == [(2, 17, 0)]
    assert_books_balance(service)
    rolled_up()
    assert_books_balance(service)
    (day,) = admin("usage.get", user_id="alice")["days"]
    assert (day["requests"], day["prompt_tokens"], day["completion_tokens"]) == (2, 12, 5)
    if is_rolled_up:
        stats = service.rows("SELECT sum(request_count) AS n, sum(failure_count) AS failed FROM request_stats")
        assert stats == [{"n": 2, "failed": 1}]


def test_redrive_selects_by_reason_and_period(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    first, second, lost, done, open_one = (service.submit(alice) for _ in range(5))
    of_bob = service.submit(bob)
    fail(service, first, second, of_bob)
    fail(service, lost, error_code="worker_lost")
    service.claim(done)
    service.settle(completed(done))

    for start, end in ((-48, -24), (24, 48)):
        period = {
            name: (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
            for name, hours in (("start", start), ("end", end))
        }
        assert admin("request.redrive", **now_ish() | period)["requests"] == []
    of_alice = admin("request.redrive", **now_ish(user_id="alice"))

    assert outcomes(of_alice) == {str(first): "redriven", str(second): "redriven"}
    assert (of_alice["redriven"], of_alice["next_cursor"]) == (2, None)
    expected = {
        first: "queued",
        second: "queued",
        lost: "failed",
        done: "completed",
        open_one: "queued",
        of_bob: "failed",
    }
    assert statuses(service) == expected
    assert outcomes(admin("request.redrive", **now_ish())) == {str(of_bob): "redriven"}

    state = request_state(service)
    again = admin("request.redrive", **now_ish())
    assert again == {"redriven": 0, "requests": [], "next_cursor": None}
    assert request_state(service) == state
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.redriven'") == 3
    assert_books_balance(service)

    fail(service, first, attempt=3, error_code="worker_lost")
    fail(service, second, attempt=3)
    assert outcomes(admin("request.redrive", **now_ish())) == {str(second): "redriven"}, (
        "the first one has failed for another reason since"
    )
    assert outcomes(admin("request.redrive", **now_ish(error_code="worker_lost"))) == {
        str(first): "redriven",
        str(lost): "redriven",
    }
    assert_books_balance(service)


def test_redrive_pages_through_many_requests(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(5)]
    fail(service, *ids)
    found: list[dict[str, Any]] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = admin("request.redrive", **now_ish(limit=2, **({"after": cursor} if cursor else {})))
        assert page["redriven"] == len(page["requests"]) <= 2
        found += page["requests"]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 3
    assert sorted(UUID(each["request_id"]) for each in found) == ids
    assert set(statuses(service).values()) == {"queued"}
    assert_books_balance(service)


@pytest.mark.parametrize(
    ("code", "hinder", "clear"),
    [
        ("user_inactive", ("user.deactivate", {"user_id": "alice"}), ("user.activate", {"user_id": "alice"})),
        ("model_unknown", ("model.set", SMALL | {"is_active": False}), ("model.set", SMALL)),
        (
            "quota_exceeded",
            ("quota.set", {"user_id": "alice", "limits": {"daily": {"max_tokens": 20}}}),
            ("quota.clear", {"user_id": "alice"}),
        ),
    ],
)
def test_a_refused_redrive_says_why_and_changes_nothing(
    admin: Callable[..., Any], service: Service, alice: bytes, code: str, hinder: Any, clear: Any
) -> None:
    admin("model.set", **SMALL)
    request_id = service.submit(alice, model="small")
    fail(service, request_id)
    operation, arguments = hinder
    admin(operation, **arguments)
    state = request_state(service)

    answer = administer("request.redrive", request_id=str(request_id))

    assert (answer["ok"], answer["problem"]["code"]) == (False, code)
    assert answer["problem"]["detail"]
    *_, refused = service.rows("SELECT * FROM audit_log ORDER BY audit_id")
    assert (refused["actor"], refused["action"]) == ("admin", "admin.refused")
    assert refused["after"] == {"operation": "request.redrive", "code": code}
    assert refused["invocation"] == UUID(Context.aws_request_id)
    many = admin("request.redrive", **now_ish())
    assert (many["redriven"], outcomes(many)) == (0, {str(request_id): code})
    assert request_state(service) == state
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.redriven'") == 0

    operation, arguments = clear
    admin(operation, **arguments)
    assert outcomes(admin("request.redrive", **now_ish())) == {str(request_id): "redriven"}
    assert_books_balance(service)


def test_redrive_queues_what_the_quota_allows(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(3)]
    fail(service, *ids)
    reserved = service.value("SELECT DISTINCT reserved_tokens FROM requests")
    admin("quota.set", user_id="alice", limits={"monthly": {"max_tokens": 2 * reserved + 1}})

    done = admin("request.redrive", **now_ish())

    assert done["redriven"] == 2
    assert sorted(outcomes(done).values()) == ["quota_exceeded", "redriven", "redriven"]
    assert counters(service) == [(3, 0, 2 * reserved)]
    assert_books_balance(service)


def test_archived_requests_are_not_redriven(admin: Callable[..., Any], service: Service) -> None:
    today = datetime.now(UTC)
    stop_the_clock(service.owner, today - timedelta(days=100))
    request_id = service.submit(service.add_user())
    fail(service, request_id)
    set_clock(service.owner, today)
    assert run_tasks(service.tasks(), ["archive"])["archive"]["archived"]
    state = request_state(service)

    for operation, code in (("request.redrive", "request_archived"), ("request.cancel", "request_finished")):
        assert administer(operation, request_id=str(request_id))["problem"]["code"] == code
    assert outcomes(admin("request.redrive", **now_ish())) == {str(request_id): "request_archived"}
    assert admin("request.list")["requests"] == []
    assert request_state(service) == state
    assert_books_balance(service)


def test_a_dry_run_changes_nothing(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(3)]
    fail(service, *ids[:2])
    state, audited = request_state(service), service.value("SELECT count(*) FROM audit_log")

    found = admin("request.redrive", **now_ish(dry_run=True))
    one = admin("request.redrive", request_id=str(ids[0]), dry_run=True)

    assert (found["redriven"], outcomes(found)) == (0, {str(ids[0]): "found", str(ids[1]): "found"})
    assert (one["redriven"], outcomes(one)) == (0, {str(ids[0]): "found"})
    assert request_state(service) == state
    assert service.value("SELECT count(*) FROM audit_log") == audited


def test_concurrent_redrives_queue_a_request_once(admin: Callable[..., Any], service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(10)]
    fail(service, *ids)
    with ThreadPoolExecutor(4) as pool:
        arguments = now_ish(user_id=None, after=None, request_id=None, limit=1000, dry_run=False)
        lifetime = {"ttl_seconds": 60, "max_attempts": 3}
        done = list(pool.map(lambda _: service.act("request.redrive", **arguments | lifetime), range(4)))
    assert sum(each["redriven"] for each in done) == 10
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.redriven'") == 10
    assert_books_balance(service)
