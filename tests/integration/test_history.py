"""GET /requests: filters, alone and together, page by page; a page that ends early says where to go on."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from tests.support.functions import KEYED, get
from tests.support.ledger import SMALL, cancelled, set_clock, stop_the_clock
from tests.support.service import Service, completed, failed

NOON = datetime(2031, 1, 30, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def history(service: Service, alice: bytes) -> tuple[Service, bytes, list[UUID]]:
    """Twelve requests of alice, a minute apart: completed, failed, cancelled, queued, and so on; bob has some too."""
    stop_the_clock(service.owner, NOON)
    service.act("model.set", **SMALL)
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    ids: list[UUID] = []
    ends: list[Callable[[UUID], dict[str, Any]] | None] = [completed, failed, cancelled, None]
    for n in range(12):
        set_clock(service.owner, NOON + n * MINUTE)
        of_both = [service.submit(key, model="small" if n % 3 == 0 else "nova-micro") for key in (bob, alice)]
        end = ends[n % 4]
        if end is not None:
            service.claim(*of_both)
            service.settle(*(end(request_id) for request_id in of_both))
        ids.append(of_both[1])
    return service, alice, ids


def pages(service: Service, key_hash: bytes, **query: str) -> list[list[str]]:
    """The ids on every page."""
    found: list[list[str]] = []
    cursor: str | None = None
    while cursor is not None or not found:
        page = service.history(key_hash, cursor, **query)
        found.append([entry["request_id"] for entry in page["requests"]])
        cursor = page["next_cursor"]
    return found


def wanted(ids: list[UUID], *numbers: int) -> list[str]:
    return [str(ids[n]) for n in sorted(numbers, reverse=True)]


FILTERS = [
    ({}, range(12)),
    ({"status": "completed"}, (0, 4, 8)),
    ({"status": "failed"}, (1, 5, 9)),
    ({"status": "queued"}, (3, 7, 11)),
    ({"status": "expired"}, ()),
    ({"status": "queued,processing"}, (3, 7, 11)),
    ({"status": "failed,queued"}, (1, 3, 5, 7, 9, 11)),
    ({"status": "failed,failed"}, (1, 5, 9)),
    ({"model": "small"}, (0, 3, 6, 9)),
    ({"model": "none-such"}, ()),
    ({"error_code": "model_rejected"}, (1, 5, 9)),
    ({"error_code": "model_timeout"}, ()),
    ({"start": "2031-01-30T12:05:00Z"}, range(5, 12)),
    ({"end": "2031-01-30T12:05:00Z"}, range(5)),
    ({"start": "2031-01-30T12:04:59.999999999Z", "end": "2031-01-30T12:05:00.000001999Z"}, (5,)),
    ({"start": "2031-01-30T12:05:00.000001Z", "end": "2031-01-30T12:06:00.000001Z"}, (6,)),
    ({"start": "2031-01-30T13:05:00+01:00", "end": "2031-01-30T12:09:00z", "status": "completed"}, (8,)),
    ({"status": "queued", "model": "small"}, (3,)),
    ({"status": "queued", "end": "2031-01-30T12:07:00Z"}, (3,)),
    ({"status": "failed", "model": "small", "error_code": "model_rejected"}, (9,)),
]


@pytest.mark.parametrize("reach", [1, 3, 5000])
def test_every_page_together_is_what_the_filters_ask_for(
    history: tuple[Service, bytes, list[UUID]], reach: int
) -> None:
    service, alice, ids = history
    service.owner.execute(
        f"CREATE OR REPLACE FUNCTION history_reach() RETURNS integer LANGUAGE sql IMMUTABLE RETURN {reach}"
    )
    for (query, numbers), limit in product(FILTERS, ("1", "2", "100")):
        found = pages(service, alice, limit=limit, **query)
        assert [each for page in found for each in page] == wanted(ids, *numbers), query
        assert all(len(page) <= int(limit) for page in found), query
        assert len(found) <= 1 + 12 // min(reach, int(limit)), query


def test_filters_reach_into_the_archive(history: tuple[Service, bytes, list[UUID]]) -> None:
    service, alice, ids = history
    for number in (3, 7, 11):
        service.act("request.cancel", request_id=str(ids[number]))
    for row in service.rows("SELECT request_id FROM inflight"):
        service.act("request.cancel", request_id=str(row["request_id"]))
    set_clock(service.owner, NOON + timedelta(days=40))
    service.owner.execute("SELECT partitions_ensure()")
    newer = service.submit(alice)
    assert service.maintenance().archive_months(30)

    assert pages(service, alice, limit="5") == [
        [str(newer), *wanted(ids, 8, 9, 10, 11)],
        wanted(ids, 3, 4, 5, 6, 7),
        wanted(ids, 0, 1, 2),
    ]
    assert pages(service, alice, status="failed", limit="2") == [wanted(ids, 5, 9), wanted(ids, 1)]
    assert pages(service, alice, status="queued") == [[str(newer)]]


def test_a_request_that_is_being_processed_is_found(history: tuple[Service, bytes, list[UUID]]) -> None:
    service, alice, ids = history
    service.claim(ids[7])
    assert pages(service, alice, status="processing") == [wanted(ids, 7)]
    assert pages(service, alice, status="processing,queued") == [wanted(ids, 3, 7, 11)]


def test_the_previous_versions_call_still_works(history: tuple[Service, bytes, list[UUID]]) -> None:
    service, alice, ids = history
    call = "SELECT outcome, request_id FROM request_history(p_key_hash => %s, p_before => %s, p_limit => 3)"
    rows = service.rows(call, alice, ids[2])
    assert [(row["outcome"], row["request_id"]) for row in rows] == [("ok", ids[1]), ("ok", ids[0])]
    assert service.rows(call, b"nobody", None) == [{"outcome": "key_unknown", "request_id": None}]


def test_over_http(deploy: Any, history: tuple[Service, bytes, list[UUID]]) -> None:
    _, _, ids = history
    deploy("status")
    status, _, body = get("/requests", KEYED, status="failed", limit="2")
    assert (status, [entry["request_id"] for entry in body["requests"]]) == (200, wanted(ids, 5, 9))
    assert {entry["status"] for entry in body["requests"]} == {"failed"}
    last = get("/requests", KEYED, status="failed", limit="2", cursor=body["next_cursor"])[2]
    assert [entry["request_id"] for entry in last["requests"]] == wanted(ids, 1)
    assert last["next_cursor"] is None
