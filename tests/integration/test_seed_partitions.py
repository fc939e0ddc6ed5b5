"""Partitions equal the seed's, and archiving loses nothing."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.support.seed import (
    VOLUME,
    accept,
    answered,
    ask,
    assert_figures_equal_the_seeds,
    claim,
    monthly,
    one,
    seed_says,
    set_clock,
    settle,
)
from tests.support.service import Service, failed


def test_requests_are_in_the_seeds_partitions(service: Service) -> None:
    service.owner.execute("SET timezone = 'UTC'; CREATE SCHEMA volume; SET search_path = volume")
    service.owner.execute(VOLUME)
    service.owner.execute("SET search_path = sluice, public")
    made = [one(service, "partition", month)["name"] for month in ("2023-01-01", "2023-02-01")]
    assert made == ["requests_y2023m01", "requests_y2023m02"]
    assert one(service, "partition", "2023-01-01")["name"] is None, "it is there"

    edges = ("2023-01-01 00:00:00.000", "2023-01-31 23:59:59.999", "2023-02-01 00:00:00.000", "2023-02-28 23:59:59.999")
    theirs = "INSERT INTO volume.requests VALUES (gen_random_uuid(), 'user123', 'x', 'queued', %(at)s)"
    ours = (
        "INSERT INTO requests (request_id, user_id, model_id, created_at, updated_at, estimated_tokens, reserved_tokens)"
        " VALUES (uuidv7_floor(%(at)s::timestamptz), 'user123', 'nova-micro', %(at)s, %(at)s, 1, 1)"
    )
    for edge in edges:
        service.owner.execute(theirs, {"at": edge})
        service.owner.execute(ours, {"at": edge})
    where = "SELECT c.relname, r.created_at FROM {}.requests r JOIN pg_class c ON c.oid = r.tableoid ORDER BY 2"
    found = service.rows(where.format("sluice"))
    assert found == service.rows(where.format("volume"))
    assert [row["relname"] for row in found] == [made[0], made[0], made[1], made[1]]
    for outside in ("2022-12-31 23:59:59.999", "2023-03-01"):
        for insert in (theirs, ours):
            with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
                service.owner.execute(insert, {"at": outside})


def test_partitions_are_created_ahead(service: Service) -> None:
    assert ask(service, "partitions") == []
    service.owner.execute("DROP TABLE prompts_y" + (datetime.now(UTC) + timedelta(days=40)).strftime("%Ym%m"))
    assert len(ask(service, "partitions")) == 1


def test_only_complete_settled_months_are_archived(seed: Service) -> None:
    now = datetime.now(UTC)
    # The youngest month that is old enough has an unfinished request.
    youngest = (now - timedelta(days=30)).replace(day=1) - timedelta(days=10)
    late: list[UUID] = []
    by_age: dict[int, list[UUID]] = {}
    key = b""
    for age in (130, 100, (now - youngest).days, 31, 10, 0):
        set_clock(seed, timedelta(days=age))
        key = key or seed.add_user("user123")
        by_age[age] = [answered(seed, key), accept(seed, key)]
        claim(seed, by_age[age][1])
        settle(seed, failed(by_age[age][1]))
        if len(by_age) == 3:
            late.append(accept(seed, key))
    (unfinished,) = late
    assert_figures_equal_the_seeds(seed)
    everything, figures = ask(seed, "everything"), (monthly(seed), ask(seed, "stats"))
    seeds_choice = {
        row["request_id"]
        for row in seed_says(
            seed,
            "SELECT request_id FROM requests WHERE status IN ('completed', 'failed') AND created_at < NOW() - INTERVAL '30 days'",
        )
    }

    moved = [row["name"] for row in ask(seed, "archive", 30)]

    assert moved == sorted({f"requests_y{now - timedelta(days=age):%Ym%m}" for age in (130, 100)})
    archived = {row["request_id"] for row in seed.rows("SELECT request_id FROM requests_archive")}
    assert archived == {*by_age[130], *by_age[100]}
    assert archived < seeds_choice, "the seed would also move recent or unsettled months"
    assert ask(seed, "everything") == everything, "nothing is lost or duplicated"
    assert (monthly(seed), ask(seed, "stats")) == figures
    assert_figures_equal_the_seeds(seed)
    assert [one(seed, "status_read", key, i)["status"] for i in by_age[130]] == ["completed", "failed"]
    newest = [row["request_id"] for row in everything[::-1]]
    assert [row["request_id"] for row in ask(seed, "history", key)] == newest[:10]
    assert ask(seed, "archive", 30) == []

    # Once the last one has ended, here by expiring, its month follows.
    seed.database("rollup").call_row("request_recover", limit=10)
    assert len(ask(seed, "archive", 30)) == 1
    assert seed.rows("SELECT request_id FROM requests_archive WHERE status = 'expired'") == [{"request_id": unfinished}]
    assert [row["request_id"] for row in ask(seed, "everything")] == newest[::-1]
    assert_figures_equal_the_seeds(seed)
