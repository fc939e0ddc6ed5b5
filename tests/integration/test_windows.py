"""Completion windows: who waits for whom, who is promoted, and whether the promise was kept."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from sluice.domain.errors import SluiceError
from tests.support.ledger import (
    assert_books_balance,
    run_concurrently,
    set_clock,
    stop_the_clock,
    violations,
    wait_until_visible,
)
from tests.support.recovery import run_recovery
from tests.support.service import Service, completed, failed, retry

NOON = datetime(2031, 2, 2, 12, tzinfo=UTC)
BOB = "sluice_" + "b" * 43
CAROL = "sluice_" + "c" * 43


@pytest.fixture(autouse=True)
def clock(service: Service) -> None:
    stop_the_clock(service.owner, NOON)


@pytest.fixture
def room(service: Service) -> Callable[[int], None]:
    """Sets how much of the workers the waiting class may use."""
    return lambda most: _set_room(service, most)


def _set_room(service: Service, most: int) -> None:
    service.owner.execute("UPDATE dispatch_capacity SET waiting_room = %s", (most,))


def window_of(service: Service, user_id: str, dispatch_window: int) -> None:
    service.act("quota.set", user_id=user_id, limits={}, dispatch_window=dispatch_window)


def dispatched(service: Service) -> set[UUID]:
    return {
        row["request_id"] for row in service.rows("SELECT request_id FROM inflight WHERE dispatched_at IS NOT NULL")
    }


def later(service: Service, **by: float) -> None:
    set_clock(service.owner, NOON + timedelta(**by))


def end(service: Service, *ids: UUID) -> None:
    """A worker answers."""
    claims = {claim["request_id"]: claim["attempt"] for claim in service.claim(*ids)}
    assert set(claims) == set(ids)
    service.settle(*[completed(request_id, attempt) for request_id, attempt in claims.items()])


# Accepting ------------------------------------------------------------------------------------------------------------


def test_a_request_with_a_window_is_of_the_waiting_class(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice, window="8h")

    assert service.rows("SELECT completion_window, due_at FROM requests") == [
        {"completion_window": "8h", "due_at": NOON + timedelta(hours=8)}
    ]
    assert service.rows("SELECT priority, promote_at, expires_at FROM inflight") == [
        # An hour is the longest lifetime here: whoever may wait longer lives longer.
        {"priority": 1, "promote_at": NOON + timedelta(hours=6), "expires_at": NOON + timedelta(hours=8)}
    ]
    after = service.value("SELECT after FROM audit_log WHERE action = 'request.queued'")
    assert (after["window"], datetime.fromisoformat(after["due_at"])) == ("8h", NOON + timedelta(hours=8))
    shown = service.status(alice, request_id)
    assert (shown["window"], shown["due_at"]) == ("8h", "2031-02-02T20:00:00.000Z")
    assert (shown["queue"]["waits_for"], shown["queue"]["promote_at"]) == ("worker", "2031-02-02T18:00:00.000Z")
    (listed,) = service.history(alice)["requests"]
    assert (listed["window"], listed["due_at"]) == ("8h", "2031-02-02T20:00:00.000Z")
    assert_books_balance(service)


def test_without_a_window_nothing_is_said_of_it(service: Service, alice: bytes) -> None:
    for given in ({}, {"window": "soonest"}):
        shown = service.status(alice, service.submit(alice, **given))
        assert not {"window", "due_at"} & set(shown)
        assert "promote_at" not in shown["queue"]
    assert service.rows("SELECT DISTINCT after ? 'window' AS it FROM audit_log WHERE action = 'request.queued'") == [
        {"it": False}
    ]
    assert service.value("SELECT has_windows FROM quota_plans") is False


def test_there_are_no_other_windows(service: Service, alice: bytes) -> None:
    for window in ("1h", "24H", "", "48h", 2, {"hours": 2}):
        with pytest.raises(ValueError, match="window"):
            service.submit(alice, window=window)


def test_the_window_begins_when_the_request_may(service: Service, alice: bytes) -> None:
    service.submit(alice, window="2h", not_before="2031-02-02T12:30:00Z")

    assert service.value("SELECT due_at FROM requests") == NOON + timedelta(hours=2, minutes=30)


def test_one_that_is_almost_due_does_not_wait(service: Service, alice: bytes) -> None:
    """As the last lines of a batch."""
    given = {"input": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "window": "24h"}
    submission = given | {
        "longest_seconds": 60, "max_attempts": 3, "due_at": str(NOON + timedelta(hours=5)),
        "expires_at": str(NOON + timedelta(hours=5)),
    }  # fmt: skip
    made = service.kept("submit").call_row(
        "request_submit", key_hash=alice, submission=psycopg.types.json.Jsonb(submission)
    )

    assert made["outcome"] == "accepted"
    assert service.value("SELECT priority FROM inflight") == 0
    assert service.value("SELECT due_at FROM requests") == NOON + timedelta(hours=5)


def test_writers_of_the_view_may_give_a_window(service: Service, alice: bytes) -> None:
    insert = "INSERT INTO submissions (user_id, prompt, model_id, completion_window) VALUES ('alice', 'x', NULL, %s) RETURNING *"
    assert service.rows(insert, "24h")[0]["completion_window"] == "24h"
    assert service.rows(insert, "soonest")[0]["completion_window"] is None
    with pytest.raises(psycopg.Error) as refusal:
        service.rows(insert, "1h")
    assert (refusal.value.sqlstate, refusal.value.diag.constraint_name) == ("SL422", "invalid_input")


# The order of dispatch ------------------------------------------------------------------------------------------------


def test_a_quarter_of_the_dispatch_window_is_for_others(service: Service, alice: bytes) -> None:
    window_of(service, "alice", 4)
    patient = [service.submit(alice, window="2h") for _ in range(5)]
    assert dispatched(service) == set(patient[:3])
    shown = service.status(alice, patient[4])["queue"]
    assert (shown["waits_for"], shown["position"]) == ("window", 5)

    # Those that wait before it do not count.
    soon = service.submit(alice)
    assert dispatched(service) == {*patient[:3], soon}
    others = [service.submit(alice) for _ in range(2)]
    assert service.status(alice, patient[4])["queue"]["position"] == 8, "others come first"
    assert service.status(alice, others[1])["queue"]["position"] == 6
    # What ends makes room for what cannot wait, first.
    end(service, patient[0])
    assert dispatched(service) == {*patient[1:3], soon, others[0]}
    end(service, patient[1], patient[2])
    assert dispatched(service) == {soon, *others}
    end(service, soon)
    assert dispatched(service) == {*others, patient[3]}


def test_a_dispatch_window_of_one_holds_one_of_them(service: Service, alice: bytes) -> None:
    window_of(service, "alice", 1)
    patient = [service.submit(alice, window="2h") for _ in range(2)]
    assert dispatched(service) == set(patient[:1])


def test_they_run_where_others_leave_room(service: Service, alice: bytes, room: Callable[[int], None]) -> None:
    room(2)
    bob = service.add_user("bob", BOB)
    busy = [service.submit(alice) for _ in range(2)]
    patient = [service.submit(bob, window="24h") for _ in range(3)]
    assert dispatched(service) == set(busy)
    assert service.status(bob, patient[0])["queue"]["waits_for"] == "others"
    run_recovery(service)
    assert dispatched(service) == set(busy)

    # Nothing of alice's is held back by them.
    busy.append(service.submit(alice))
    assert dispatched(service) == set(busy)
    end(service, *busy[:2])
    run_recovery(service)
    assert dispatched(service) == {busy[2], patient[0]}
    # Its own settlements fill the room that there is.
    end(service, busy[2])
    end(service, patient[0])
    assert dispatched(service) == set(patient[1:])
    assert_books_balance(service)


def test_the_room_is_divided_among_users(service: Service, alice: bytes, room: Callable[[int], None]) -> None:
    room(4)
    keys = {"alice": alice, "bob": service.add_user("bob", BOB), "carol": service.add_user("carol", CAROL)}
    first = [service.submit(alice, window="24h") for _ in range(20)]
    assert dispatched(service) == set(first[:4])
    for user in ("bob", "bob", "carol", "carol"):
        service.submit(keys[user], window="24h")
    assert dispatched(service) == set(first[:4]), "there is no room"

    # From the next run on, alice fills only her share, and then the others get what she leaves.
    run_recovery(service)
    end(service, *first[:3])
    assert dispatched(service) == {first[3]}
    run_recovery(service)
    owners = [row["user_id"] for row in service.rows("SELECT user_id FROM inflight WHERE dispatched_at IS NOT NULL")]
    assert sorted(owners) == ["alice", "alice", "bob", "carol"]


def test_a_message_that_wakes_one_up_finds_no_room(service: Service, alice: bytes, room: Callable[[int], None]) -> None:
    room(1)
    request_id = service.submit(alice, window="24h")
    service.claim(request_id)
    service.settle(retry(request_id, after=30))
    bob = service.add_user("bob", BOB)
    service.submit(bob)
    later(service, seconds=31)
    assert service.claim(request_id) == []
    assert service.status(alice, request_id)["queue"]["waits_for"] == "others"


def test_at_once_from_many_sides(service: Service, alice: bytes, room: Callable[[int], None]) -> None:
    """No dispatch window is exceeded, no deadlock, and what cannot wait is sent before what can."""
    room(5)
    window_of(service, "alice", 4)
    bob = service.add_user("bob", BOB)
    key = {0: alice, 1: bob}
    made = run_concurrently(
        [partial(service.submit, key[n % 2], window="2h" if n % 3 else "soonest") for n in range(16)]
    )
    assert not [each for each in made if isinstance(each, SluiceError)]
    for _ in range(16):
        waiting = service.rows(
            "SELECT user_id, count(*) FILTER (WHERE dispatched_at IS NOT NULL) AS sent,"
            " count(*) FILTER (WHERE dispatched_at IS NULL AND priority = 0) AS urgent FROM inflight GROUP BY 1"
        )
        for row in waiting:
            most = 4 if row["user_id"] == "alice" else 1000
            assert row["sent"] <= most
            assert not row["urgent"] or row["sent"] == most
        out = sorted(dispatched(service))
        if not out:
            break
        run_concurrently([partial(end, service, each) for each in out[:4]])
        run_recovery(service)
    assert service.value("SELECT count(*) FROM inflight") == 0
    assert_books_balance(service)


def test_whoever_cannot_wait_does_not_follow_one_who_can(
    service: Service, alice: bytes, room: Callable[[int], None]
) -> None:
    """Of equal requests one asks for all: it is promoted with the most urgent of them."""
    room(1)
    bob = service.add_user("bob", BOB)
    service.submit(bob)
    asked: dict[str, Any] = {"cache": {"max_age": 60}, "parameters": {"temperature": 0}}
    leader = service.submit(alice, window="24h", **asked)
    assert leader not in dispatched(service)
    follower = service.submit(alice, window="2h", **asked)
    assert service.value("SELECT promote_at FROM inflight WHERE request_id = %s", leader) == NOON + timedelta(hours=1.5)
    assert leader not in dispatched(service)
    service.submit(alice, **asked)
    assert leader in dispatched(service)
    end(service, leader)
    assert service.status(alice, follower)["status"] == "completed"
    assert_books_balance(service)


# Promotion ------------------------------------------------------------------------------------------------------------


def test_those_that_are_nearly_due_are_promoted(service: Service, alice: bytes, room: Callable[[int], None]) -> None:
    room(1)
    bob = service.add_user("bob", BOB)
    service.submit(bob)
    leads = {"2h": 0.5, "8h": 2, "24h": 6}
    requests = {window: service.submit(alice, window=window) for window in leads}
    service.owner.execute("UPDATE inflight SET expires_at = expires_at + interval '2 days'")
    for window, lead in leads.items():
        hours = float(window[:-1])
        later(service, hours=hours - lead, seconds=-1)
        run_recovery(service)
        assert requests[window] not in dispatched(service)

        later(service, hours=hours - lead)
        run_recovery(service)
        assert requests[window] in dispatched(service)
        assert "promote_at" not in service.status(alice, requests[window])["queue"]
        end(service, requests[window])
    assert_books_balance(service)


def test_promotion_is_one_statement_by_an_index(service: Service, alice: bytes) -> None:
    """However many wait, those that are not due are not read."""
    service.submit(alice, window="2h")
    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at, priority, promote_at)"
        " SELECT uuidv7(), 'alice', 3, clock_now() + interval '1 day', 1, clock_now() + interval '10 hours'"
        " FROM generate_series(1, 300)"
    )
    later(service, hours=2)
    service.owner.execute("SET enable_seqscan = off")
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in service.rows(
            "EXPLAIN SELECT w.request_id FROM inflight w WHERE w.priority > 0 AND w.promote_at <= clock_now()"
            " ORDER BY w.promote_at LIMIT 10 FOR UPDATE SKIP LOCKED"
        )
    )
    assert "inflight_promotions" in plan
    with psycopg.connect(service.dsn, autocommit=True, row_factory=dict_row) as own:
        own.execute("SELECT windows_promote(1000)")
    assert service.value("SELECT count(*) FROM inflight WHERE priority = 0") == 1


# The promise ----------------------------------------------------------------------------------------------------------


def stats(service: Service) -> list[tuple[str, int, int]]:
    wait_until_visible(service)
    service.database("rollup").value("rollup_stats")
    rows = service.rows(
        "SELECT completion_window AS window, sum(kept) AS kept, sum(missed) AS missed FROM window_stats GROUP BY 1 ORDER BY 1"
    )
    return [(row["window"], row["kept"], row["missed"]) for row in rows]


def test_what_a_promise_was_worth(service: Service, alice: bytes, admin: Callable[..., Any]) -> None:
    kept, late, unwanted, refused, soon = (
        service.submit(alice, window=window, ttl_seconds=3600) for window in ("2h", "2h", "2h", "2h", "soonest")
    )
    service.settle({"request_id": str(unwanted), "attempt": 0, "outcome": "cancelled"})
    end(service, kept, soon)
    service.claim(refused)
    service.settle(failed(refused))
    never = service.submit(alice, window="8h", ttl_seconds=60)
    assert stats(service) == [("2h", 2, 0)]
    service.claim(late, lease_seconds=20_000)
    later(service, hours=2, seconds=1)
    service.settle(completed(late))
    run_recovery(service)
    assert service.status(alice, never)["status"] == "expired"
    assert stats(service) == [("2h", 2, 1), ("8h", 0, 1)]

    # A redrive takes the end back, and the next one counts.
    service.act("request.redrive", request_id=str(refused), ttl_seconds=60, max_attempts=1, dry_run=False)
    assert service.value("SELECT priority FROM inflight WHERE request_id = %s", refused) == 0
    assert stats(service) == [("2h", 1, 1), ("8h", 0, 1)]
    run_recovery(service)
    end(service, refused)
    assert stats(service) == [("2h", 1, 2), ("8h", 0, 1)]
    assert admin("stats.windows", start="2031-02-01", end="2031-02-28") == [
        {"window": "2h", "kept": 1, "missed": 2, "kept_part": 0.3333},
        {"window": "8h", "kept": 0, "missed": 1, "kept_part": 0.0},
    ]
    assert admin("stats.windows", start="2031-03-01", end="2031-03-28") == []
    assert_books_balance(service)


def test_verification_finds_what_a_window_cannot_be(
    service: Service, alice: bytes, room: Callable[[int], None]
) -> None:
    room(1)
    asked: dict[str, Any] = {"cache": {"max_age": 60}, "parameters": {"temperature": 0}}
    service.submit(service.add_user("bob", BOB))
    leader = service.submit(alice, window="24h", **asked)
    follower = service.submit(alice, window="24h", **asked)
    cases = {
        "UPDATE requests SET completion_window = '2h' WHERE request_id = %s": ("request_settled_once", leader),
        "UPDATE requests SET due_at = due_at + interval '1 second' WHERE request_id = %s": (
            "request_settled_once",
            leader,
        ),
        "UPDATE requests SET due_at = NULL WHERE request_id = %s": ("rows_as_declared", leader),
        "UPDATE inflight SET promote_at = NULL WHERE request_id = %s": ("rows_as_declared", leader),
        "UPDATE inflight SET priority = 0 WHERE request_id = %s": ("inflight_is_what_is_unfinished", follower),
    }
    for tampering, (invariant, request_id) in cases.items():
        with service.owner.transaction(force_rollback=True):
            service.owner.execute(tampering, (request_id,))
            found = {(each["invariant"], each["request_id"]) for each in violations(service)}
            assert (invariant, str(request_id)) in found, tampering
    with service.owner.transaction(force_rollback=True):
        service.owner.execute("UPDATE quota_plans SET has_windows = false")
        assert [(each["user_id"], each["actual"]) for each in violations(service)] == [("alice", "has_windows f")]
    assert_books_balance(service)
