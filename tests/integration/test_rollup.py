"""Usage and statistics equal what the seed document's own queries compute, over requests and their archive."""

from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import psycopg
import pytest

from sluice.domain.errors import SluiceError
from sluice.services.tasks.context import TaskContext
from sluice.services.tasks.run import TASKS, TasksEvent, run_tasks
from tests.support.service import Service, completed, failed

# The seed's two queries, over requests and their archive; only column names are ours (model_id).
SEED_USAGE = """
    SELECT user_id, count(*) AS requests_count, coalesce(sum(total_tokens), 0) AS tokens_used
    FROM requests_all
    WHERE created_at >= date_trunc('month', current_date) AND created_at < date_trunc('month', current_date) + interval '1 month'
    GROUP BY user_id ORDER BY user_id
"""
SEED_STATS = """
    SELECT date_trunc('day', created_at) AS day, user_id, model_id, count(*) AS request_count,
           avg(processing_time_ms) AS avg_processing_time, sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failure_count
    FROM requests_all
    GROUP BY date_trunc('day', created_at), user_id, model_id ORDER BY 1, 2, 3
"""


@pytest.fixture
def context(service: Service) -> TaskContext:
    service.owner.execute("SET timezone = 'UTC'")
    return service.tasks()


def some_work(service: Service, alice: bytes, bob: bytes) -> None:
    ids = [service.submit(key) for key in (alice, alice, bob, alice, bob)]
    service.claim(*ids[:4])
    service.settle(completed(ids[0]), completed(ids[1], prompt_tokens=50), failed(ids[2]))


def assert_figures_equal_the_seeds(service: Service) -> None:
    monthly = "SELECT user_id, requests_count, tokens_used FROM usage WHERE period = 'monthly' ORDER BY user_id"
    assert service.rows(monthly) == service.rows(SEED_USAGE)
    ours = "SELECT day, user_id, model_id, request_count, avg_processing_time, failure_count FROM request_stats ORDER BY 1, 2, 3"
    assert service.rows(ours) == service.rows(SEED_STATS)


def test_figures_equal_the_seeds_queries_at_every_step(service: Service, alice: bytes, context: TaskContext) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    for _ in range(3):
        some_work(service, alice, bob)
        run_tasks(context, ["usage", "stats"])
        assert_figures_equal_the_seeds(service)

    # Requests settled later only add the difference.
    for open_request in service.rows("SELECT request_id, status FROM inflight"):
        if open_request["status"] == "queued":
            service.claim(open_request["request_id"])
        service.settle(completed(open_request["request_id"]))
    run_tasks(context, ["usage", "stats"])
    assert_figures_equal_the_seeds(service)
    assert service.value("SELECT sum(requests_count) FROM usage_by_model WHERE period = 'daily'") == 15
    by_model = "SELECT sum(prompt_tokens + completion_tokens) FROM usage_by_model WHERE period = 'monthly'"
    assert service.value(by_model) == service.value("SELECT sum(total_tokens) FROM requests")


def test_a_repeated_rollup_adds_nothing(service: Service, alice: bytes, context: TaskContext) -> None:
    some_work(service, alice, alice)
    run_tasks(context, ["usage", "stats"])
    before = service.rows("SELECT * FROM usage") + service.rows("SELECT * FROM request_stats")

    assert run_tasks(context, ["usage", "stats"]) == {"usage": {"changed": 0}, "stats": {"changed": 0}}

    assert service.rows("SELECT * FROM usage") + service.rows("SELECT * FROM request_stats") == before


def test_periods_follow_the_calendar(service: Service, alice: bytes, context: TaskContext) -> None:
    service.submit(alice)
    run_tasks(context, ["usage"])

    today = service.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    rows = {r["period"]: r for r in service.rows("SELECT * FROM usage")}
    assert (rows["daily"]["period_start"], rows["daily"]["period_end"]) == (today, today)
    next_month = date(today.year + today.month // 12, today.month % 12 + 1, 1)
    assert (rows["monthly"]["period_start"], (next_month - rows["monthly"]["period_end"]).days) == (
        today.replace(day=1),
        1,
    )


def test_late_commits_are_counted(service: Service, alice: bytes, context: TaskContext) -> None:
    """A transaction that commits after a rollup is in the next one, even if it began earlier."""
    with psycopg.connect(service.dsn) as slow:
        slow.execute("INSERT INTO submissions (user_id, prompt) VALUES ('alice', 'slow')")
        bob = service.add_user("bob", "sluice_" + "b" * 43)
        service.submit(bob)
        run_tasks(context, ["usage", "stats"])
        slow.commit()
    run_tasks(context, ["usage", "stats"])

    assert_figures_equal_the_seeds(service)
    assert service.value("SELECT sum(requests_count) FROM usage WHERE period = 'monthly'") == 2


def backdate(service: Service, months: int) -> UUID:
    """An answered request of an earlier month, with the partitions that it needs."""
    request_id: UUID = service.value("SELECT uuidv7(make_interval(months => %s) * -1)", months)
    month = service.value("SELECT date_trunc('month', uuid_extract_timestamp(%s) AT TIME ZONE 'UTC')::date", request_id)
    service.owner.execute("SELECT partition_create('requests', 'request_id', %s)", (month,))
    service.owner.execute(
        "INSERT INTO requests (request_id, user_id, model_id, status, created_at, updated_at, completed_at, result_id,"
        " estimated_tokens, reserved_tokens, prompt_tokens, completion_tokens, total_tokens)"
        " VALUES (%(id)s, 'alice', 'nova-micro', 'completed', uuid_extract_timestamp(%(id)s), now(), now(), uuidv7(), 9, 9, 4, 5, 9)",
        {"id": request_id},
    )
    return request_id


def partitions(service: Service, parent: str) -> list[str]:
    rows = service.rows(
        "SELECT c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = %s::regclass ORDER BY 1",
        parent,
    )
    return [row["relname"] for row in rows]


def test_complete_old_months_are_archived_and_still_found(service: Service, alice: bytes, context: TaskContext) -> None:

    old, recent = backdate(service, 3), service.submit(alice)

    (moved,) = run_tasks(context, ["archive"])["archive"]["archived"]

    assert partitions(service, "requests_archive") == [moved]
    assert moved not in partitions(service, "requests")
    assert service.status(alice, str(old))["usage"]["total_tokens"] == 9
    listed = service.history(alice, None, None)["requests"]
    assert [entry["request_id"] for entry in listed] == [str(recent), str(old)]
    assert run_tasks(context, ["archive"]) == {"archive": {"archived": []}}


def test_a_month_with_an_unfinished_request_is_not_archived(
    service: Service, alice: bytes, context: TaskContext
) -> None:
    old = backdate(service, 3)
    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (%s, 'alice', 1, now())", (old,)
    )
    assert run_tasks(context, ["archive"]) == {"archive": {"archived": []}}


def test_months_are_archived_in_order(service: Service, alice: bytes, context: TaskContext) -> None:
    """History pages read requests first, so archived rows must be older than all of them."""

    oldest, held, younger, recent = (
        backdate(service, 5),
        backdate(service, 4),
        backdate(service, 3),
        service.submit(alice),
    )
    service.owner.execute(
        "INSERT INTO inflight (request_id, user_id, max_attempts, expires_at) VALUES (%s, 'alice', 1, now())", (held,)
    )
    assert len(run_tasks(context, ["archive"])["archive"]["archived"]) == 1
    listed: list[str] = []
    cursor: str | None = None
    while len(listed) < 5:
        page = service.history(alice, cursor, "1")
        listed += [entry["request_id"] for entry in page["requests"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert listed == [str(each) for each in (recent, younger, held, oldest)]


def test_a_recent_month_is_not_archived(service: Service, alice: bytes) -> None:
    backdate(service, 3)
    patient = replace(service.tasks(), archive_after_days=3000)
    assert run_tasks(patient, ["archive"]) == {"archive": {"archived": []}}


def test_partitions_are_created_ahead_and_only_once(service: Service, context: TaskContext) -> None:
    assert run_tasks(context, ["partitions"]) == {"partitions": {"created": []}}
    for parent in ("requests", "prompts", "results", "binary_results", "audit_log"):
        assert len(partitions(service, parent)) == 4, "this month and three ahead"
    service.owner.execute(f"DROP TABLE {partitions(service, 'results')[-1]}")
    assert len(run_tasks(context, ["partitions"])["partitions"]["created"]) == 1


def test_a_failing_task_does_not_stop_the_others(service: Service, alice: bytes, context: TaskContext) -> None:
    service.submit(alice)
    service.owner.execute("DROP FUNCTION rollup_stats()")

    with pytest.raises(SluiceError) as raised:
        run_tasks(context, ["stats", "usage"])

    assert raised.value.code == "task_failed"
    assert list(raised.value.extra["failed"]) == ["stats"]
    assert service.value("SELECT count(*) FROM usage") == 2


def test_events_may_name_every_task() -> None:
    assert TasksEvent(tasks=list(TASKS)).tasks == list(TASKS)


def test_the_same_month_in_two_time_zones(service: Service, alice: bytes) -> None:
    """Periods do not depend on the client's time zone."""
    start = "SELECT period_start('monthly', timestamptz '2026-03-01 00:30:00+00')"
    service.owner.execute("SET timezone = 'America/New_York'")
    there: Any = service.value(start)
    service.owner.execute("SET timezone = 'UTC'")
    assert service.value(start) == there
