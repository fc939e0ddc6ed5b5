"""From claim to settlement: fencing tokens, leases, retries, bookkeeping, and dispatch."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from sluice.domain.documents import Input
from sluice.domain.states import TRANSITIONS, Status
from tests.support.service import Service, completed, failed, retry


def request(service: Service, request_id: UUID) -> dict[str, Any]:
    (row,) = service.rows("SELECT * FROM requests_all WHERE request_id = %s", request_id)
    return row


def books(service: Service) -> dict[str, tuple[int, int, int]]:
    rows = service.rows("SELECT * FROM quotas WHERE user_id = 'alice'")
    return {r["quota_period"]: (r["requests_used"], r["tokens_used"], r["tokens_reserved"]) for r in rows}


def kinds(rows: list[dict[str, Any]]) -> dict[UUID, str]:
    return {row["request_id"]: row["kind"] for row in rows}


def test_a_claim_returns_everything_the_model_needs(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice, "hello", parameters={"temperature": 0.5})

    (claim,) = service.claim(request_id)

    assert claim["attempt"] == 1
    assert (Input.model_validate(claim["input"]), claim["parameters"]) == (
        Input.of_prompt("hello"),
        {"temperature": 0.5, "max_tokens": 512},
    )
    assert (claim["backend"], claim["backend_model"]) == ("bedrock", "amazon.nova-micro-v1:0")
    row = request(service, request_id)
    assert (row["status"], row["attempts"]) == ("processing", 1)
    assert row["started_at"] >= row["created_at"]


def test_a_claim_takes_only_due_requests(service: Service, alice: bytes) -> None:
    queued, taken, early, late, spent = (service.submit(alice) for _ in range(5))
    service.claim(taken)
    service.owner.execute("UPDATE inflight SET not_before = now() + interval '1 hour' WHERE request_id = %s", (early,))
    service.owner.execute("UPDATE inflight SET expires_at = now() WHERE request_id = %s", (late,))
    service.owner.execute(
        "UPDATE inflight SET status = 'processing', attempt = 3, failed_attempts = 2, lease_until = now() - interval '1 s'"
        " WHERE request_id = %s",
        (spent,),  # max_attempts is 3: recovery will end it
    )

    claims = service.claim(queued, taken, early, late, spent, uuid4())

    assert [claim["request_id"] for claim in claims] == [queued]
    # The early one's message is consumed; recovery will send another.
    assert service.value("SELECT dispatched_at FROM inflight WHERE request_id = %s", early) is None


def test_a_claim_with_an_expired_lease_can_be_taken_over(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id, lease_seconds=-1)

    (again,) = service.claim(request_id)

    assert again["attempt"] == 2


def test_two_workers_never_hold_the_same_request(service: Service, alice: bytes) -> None:
    ids = [service.submit(alice) for _ in range(40)]
    databases = [service.database("worker") for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        parameters = {"ids": ids, "lease_seconds": 60}
        taken = [
            c["request_id"]
            for rows in pool.map(lambda d: d.call("request_claim", **parameters), databases)
            for c in rows
        ]

    assert sorted(taken) == sorted(ids)


def test_an_answer_is_stored_and_booked(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)

    rows = service.settle(completed(request_id))

    assert kinds(rows) == {request_id: "settled"}
    row = request(service, request_id)
    assert (row["status"], row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (
        "completed",
        7,
        3,
        10,
    )
    assert row["created_at"] <= row["started_at"] <= row["completed_at"]
    took = (row["completed_at"] - row["started_at"]).total_seconds() * 1000
    assert row["processing_time_ms"] == pytest.approx(took, abs=1)
    (result,) = service.rows("SELECT * FROM results")
    assert (result["result_id"], result["request_id"], result["content"]) == (row["result_id"], request_id, "an answer")
    assert result["token_count"] == 3
    assert books(service) == dict.fromkeys(("minute", "daily", "monthly"), (1, 10, 0))
    assert service.value("SELECT count(*) FROM inflight") == 0


def test_a_failure_is_free_unless_the_model_reported_tokens(service: Service, alice: bytes) -> None:
    free, paid = service.submit(alice), service.submit(alice)
    service.claim(free, paid)

    service.settle(failed(free), failed(paid, prompt_tokens=5, completion_tokens=2))

    assert books(service)["daily"] == (2, 7, 0)
    row = request(service, free)
    assert (row["status"], row["error_code"], row["error_message"], row["total_tokens"]) == (
        "failed",
        "model_rejected",
        "no",
        None,
    )


def test_only_the_current_attempt_can_settle(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id, lease_seconds=-1)
    service.claim(request_id)

    assert kinds(service.settle(completed(request_id, attempt=1, content="late"))) == {request_id: "superseded"}
    assert request(service, request_id)["status"] == "processing"
    assert kinds(service.settle(completed(request_id, attempt=2))) == {request_id: "settled"}
    assert service.value("SELECT content FROM results") == "an answer"
    assert books(service)["daily"] == (1, 10, 0)
    (waste,) = service.rows("SELECT * FROM audit_log WHERE action = 'request.superseded'")
    assert waste["after"] == {"attempt": 1, "wasted_tokens": 10}


def test_the_same_flush_sent_twice_changes_nothing(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(completed(request_id))
    before = (request(service, request_id), books(service), service.value("SELECT count(*) FROM audit_log"))

    assert kinds(service.settle(completed(request_id))) == {request_id: "settled"}

    assert (request(service, request_id), books(service), service.value("SELECT count(*) FROM audit_log")) == before


def test_an_outcome_for_an_unknown_request_is_harmless(service: Service) -> None:
    assert [row["kind"] for row in service.settle(completed(uuid4()))] == ["superseded"]
    assert service.value("SELECT count(*) FROM results") == 0


def test_a_transient_failure_is_requeued_with_a_delay(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)

    (row,) = service.settle(retry(request_id, after=30.5))

    assert (row["kind"], row["delay_seconds"]) == ("requeued", 31)
    assert request(service, request_id)["status"] == "queued"
    assert books(service)["daily"] == (1, 0, 581), "its reservation is kept"
    assert service.claim(request_id) == [], "it is not due yet"


def test_a_delay_too_long_for_the_queue_is_left_to_recovery(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)

    (row,) = service.settle(retry(request_id, after=1000))

    assert (row["kind"], row["delay_seconds"]) == ("requeued", None)
    assert service.value("SELECT dispatched_at FROM inflight") is None


def test_the_last_attempts_failure_is_final(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)  # max_attempts is 3
    rows: list[dict[str, Any]] = []
    for attempt in (1, 2, 3):
        service.claim(request_id)
        rows = service.settle(retry(request_id, attempt))

    assert kinds(rows) == {request_id: "settled"}
    assert request(service, request_id)["status"] == "failed"
    assert books(service)["daily"] == (1, 0, 0)


def test_a_retry_beyond_the_lifetime_is_final(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)  # lives for an hour
    service.claim(request_id)

    service.settle(retry(request_id, after=3700))

    assert request(service, request_id)["status"] == "failed"


def test_settling_sends_the_next_request_of_the_dispatch_window(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE quota_plans SET dispatch_window = 2")
    ids = [service.submit(alice) for _ in range(5)]
    assert service.queue.take() == ids[:2]
    service.claim(*ids[:2])

    rows = service.settle(completed(ids[0]))

    assert kinds(rows) == {ids[0]: "settled", ids[2]: "dispatch"}
    assert service.value("SELECT count(*) FROM inflight WHERE dispatched_at IS NOT NULL") == 2


def test_one_flush_settles_many_users(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    ids = [service.submit(key) for key in (alice, bob) for _ in range(5)]
    service.claim(*ids)

    service.settle(*[completed(i) for i in ids])

    rows = service.rows("SELECT user_id, requests_used, tokens_used, tokens_reserved FROM quotas")
    assert [tuple(row.values())[1:] for row in rows] == [(5, 50, 0)] * 6


def test_an_overrun_is_booked_and_audited(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)

    service.settle(completed(request_id, prompt_tokens=600, completion_tokens=1))

    assert books(service)["daily"] == (1, 601, 0)
    (audit,) = service.rows("SELECT after FROM audit_log WHERE action = 'request.completed'")
    assert audit["after"]["overrun_tokens"] == 601 - 581


def test_settling_after_the_period_does_not_change_the_new_period(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    # As if the minute had passed and another request had reset the row.
    service.owner.execute(
        "UPDATE quotas SET requests_used = 1, tokens_used = 0, tokens_reserved = 500,"
        " period_start = period_start + interval '1 minute', reset_at = reset_at + interval '1 minute'"
        " WHERE quota_period = 'minute'"
    )

    service.settle(completed(request_id))

    assert books(service) == {"minute": (1, 0, 500), "daily": (1, 10, 0), "monthly": (1, 10, 0)}


def test_concurrent_submits_and_settlements_do_not_deadlock_or_drift(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)

    def work(number: int) -> None:
        ids = [service.submit(alice if (number + n) % 2 else bob) for n in range(6)]
        service.claim(*ids)
        service.settle(*[completed(i) for i in reversed(ids)])

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(work, range(30)))

    assert service.value("SELECT count(*) FROM requests WHERE status = 'completed'") == 180
    totals = service.rows(
        "SELECT sum(requests_used) AS r, sum(tokens_used) AS t, sum(tokens_reserved) AS v FROM quotas WHERE quota_period = 'daily'"
    )
    assert totals == [{"r": 180, "t": 1800, "v": 0}]


def test_every_status_change_is_audited_and_legal(service: Service, alice: bytes) -> None:
    answered, refused, lost = (service.submit(alice) for _ in range(3))
    service.claim(answered, refused)
    service.settle(retry(answered), failed(refused))
    service.claim(answered)
    service.settle(completed(answered, attempt=2))
    service.claim(lost, lease_seconds=-1)
    service.database("rollup").call("request_recover", limit=10)

    for request_id in (answered, refused, lost):
        rows = service.rows(
            "SELECT before->>'status' AS old, after->>'status' AS new FROM audit_log"
            " WHERE request_id = %s ORDER BY audit_id",
            request_id,
        )
        assert (rows[0]["old"], rows[0]["new"]) == (None, "queued")
        for earlier, later in pairwise(rows):
            assert later["old"] == earlier["new"]
            assert Status(later["new"]) in TRANSITIONS[Status(later["old"])]
        assert rows[-1]["new"] == request(service, request_id)["status"]


def test_a_late_answer_to_a_failed_request_is_superseded(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.owner.execute("UPDATE inflight SET max_attempts = 1")
    service.claim(request_id, lease_seconds=-1)
    service.database("rollup").call("request_recover", limit=10)
    assert request(service, request_id)["error_code"] == "worker_lost"

    assert kinds(service.settle(completed(request_id))) == {request_id: "superseded"}

    assert service.value("SELECT after->>'wasted_tokens' FROM audit_log WHERE action = 'request.superseded'") == "10"
    assert books(service)["daily"] == (1, 0, 0)


def test_taking_over_a_lost_claim_is_audited(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id, lease_seconds=-1)
    service.claim(request_id)
    rows = service.rows(
        "SELECT before->>'status' AS old FROM audit_log WHERE action = 'request.processing' ORDER BY audit_id"
    )
    assert [row["old"] for row in rows] == ["queued", "processing"]


@pytest.mark.parametrize(
    ("reported", "booked"),
    [
        ({"prompt_tokens": 5, "completion_tokens": None}, (5, 0, 5)),
        ({"prompt_tokens": None, "completion_tokens": 7}, (0, 7, 7)),
        ({"prompt_tokens": None, "completion_tokens": None}, (None, None, None)),
    ],
)
def test_an_incomplete_token_report_is_completed(
    service: Service, alice: bytes, reported: dict[str, int | None], booked: tuple[int | None, ...]
) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(failed(request_id, 1, **reported))
    (row,) = service.rows("SELECT prompt_tokens, completion_tokens, total_tokens FROM requests")
    assert tuple(row.values()) == booked
    assert {q["tokens_used"] for q in service.rows("SELECT tokens_used FROM quotas")} == {booked[2] or 0}
    assert service.value("SELECT violations FROM ledger_verify(true)") == []
