"""Waiting for an answer: Prefer: wait on POST /generate, and wait in GET /status/{request_id}."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from sluice import bootstrap
from sluice.db.ledger import Ledger
from sluice.services import wait
from tests.support.functions import KEYED, call, get
from tests.support.service import Service, completed

BODY = json.dumps({"prompt": "hello"})
PREFER = KEYED | {"prefer": "wait=20"}


def finish_all(service: Service) -> None:
    """What a worker does."""
    claims = service.claim(*(row["request_id"] for row in service.rows("SELECT request_id FROM inflight")))
    service.settle(*(completed(claim["request_id"], content="the answer") for claim in claims))


@contextmanager
def answered_soon(service: Service, looks: list[float]) -> Iterator[None]:
    """A worker that answers what is there, on a connection of its own, when somebody has looked for it twice."""

    def work() -> None:
        deadline = time.monotonic() + 60
        while len(looks) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        finish_all(service)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        worker.join()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the database was looked at."""
    times: list[float] = []
    look = Ledger.ended

    def ended(ledger: Any, request_id: Any) -> bool:
        times.append(time.monotonic())
        return look(ledger, request_id)

    monkeypatch.setattr(Ledger, "ended", ended)
    return times


def test_a_client_that_would_wait_gets_the_answer(
    deploy: Any, service: Service, alice: bytes, looks: list[float]
) -> None:
    deploy("submit")
    with answered_soon(service, looks):
        status, headers, body = call("submit.app", "submit", headers=PREFER, body=BODY)
    assert (status, body["status"], body["result"]) == (200, "completed", "the answer")
    assert headers["Preference-Applied"] == "wait"
    assert headers["Location"] == f"/status/{body['request_id']}"
    assert headers["x-ratelimit-remaining-requests"] == "2999"
    assert "Retry-After" not in headers


def test_a_status_is_waited_for(deploy: Any, service: Service, alice: bytes, looks: list[float]) -> None:
    deploy("submit")
    _, _, accepted = call("submit.app", "submit", headers=KEYED, body=BODY)
    deploy("status")
    with answered_soon(service, looks):
        status, headers, body = get(f"/status/{accepted['request_id']}", KEYED, wait="20")
    assert (status, body["status"], body["result"]) == (200, "completed", "the answer")
    assert "Retry-After" not in headers
    pauses = [after - before for before, after in itertools.pairwise(looks)]
    assert pauses
    assert min(pauses) >= wait.LOOK_SECONDS * 0.9, "at most a look every quarter of a second"


def test_who_waits_in_vain_gets_what_the_others_get(
    deploy: Any, service: Service, alice: bytes, looks: list[float]
) -> None:
    deploy("submit")
    status, headers, body = call("submit.app", "submit", headers=KEYED | {"prefer": "respond-async, wait=1"}, body=BODY)
    assert (status, set(body), headers["Retry-After"]) == (202, {"request_id", "status"}, "1")
    assert "Preference-Applied" not in headers
    deploy("status")
    seen = len(looks)
    status, headers, body = get(f"/status/{body['request_id']}", KEYED, wait="1")
    assert (status, body["status"], headers["Retry-After"]) == (200, "queued", "1")
    assert 2 <= len(looks) - seen <= 6


@pytest.mark.parametrize("prefer", ["", "wait", "wait=", "wait=x", "wait=-1", "wait=0", "waits=5", "return=minimal"])
def test_what_is_no_preference_is_ignored(
    deploy: Any, service: Service, alice: bytes, looks: list[float], prefer: str
) -> None:
    deploy("submit")
    assert call("submit.app", "submit", headers=KEYED | {"prefer": prefer}, body=BODY)[0] == 202
    assert not looks


@pytest.mark.parametrize("seconds", ["", "26", "-1", "1.5", "x", "\u0661", "999999999999"])
def test_a_wait_that_cannot_be_is_refused(deploy: Any, service: Service, alice: bytes, seconds: str) -> None:
    deploy("status")
    status, _, body = get("/status/01a209c5-cf43-7b5f-8f22-667403834749", KEYED, wait=seconds)
    assert (status, body["code"], body["errors"][0]["pointer"]) == (422, "invalid_input", "/wait")


def test_an_ended_request_is_not_waited_for(deploy: Any, service: Service, alice: bytes, looks: list[float]) -> None:
    deploy("submit")
    _, _, accepted = call("submit.app", "submit", headers=KEYED, body=BODY)
    finish_all(service)
    deploy("status")
    assert get(f"/status/{accepted['request_id']}", KEYED, wait="20")[2]["status"] == "completed"
    assert not looks


def test_a_replay_of_an_ended_request_is_the_answer(deploy: Any, service: Service, alice: bytes) -> None:
    deploy("submit")
    headers = KEYED | {"idempotency-key": "once"}
    call("submit.app", "submit", headers=headers, body=BODY)
    finish_all(service)
    status, answered, body = call("submit.app", "submit", headers=headers | {"prefer": "wait=5"}, body=BODY)
    assert (status, body["result"], answered["Idempotent-Replayed"]) == (200, "the answer", "true")


def test_a_key_that_may_not_read_gets_no_answer(
    deploy: Any, service: Service, alice: bytes, looks: list[float]
) -> None:
    service.owner.execute("UPDATE api_keys SET scopes = '{submit}'")
    deploy("submit")
    with answered_soon(service, looks):
        status, _, body = call("submit.app", "submit", headers=PREFER, body=BODY)
    assert (status, set(body)) == (202, {"request_id", "status"})


# Others need these functions too --------------------------------------------------------------------------------------


@pytest.fixture
def limited(service: Service) -> Iterator[None]:
    """Roles with four connections each, so that two callers may wait."""
    for role in ("sluice_submit", "sluice_status"):
        service.owner.execute(f"ALTER ROLE {role} CONNECTION LIMIT 4")
    yield
    for role in ("sluice_submit", "sluice_status"):
        service.owner.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")


def slots(connection: psycopg.Connection[Any], role: str) -> int | None:
    connection.execute("SELECT set_config('role', %s, false)", (role,))
    (slot,) = connection.execute("SELECT sluice.wait_begin()").fetchone() or (None,)
    return None if slot is None else int(slot)


def test_half_of_a_roles_connections_may_wait(dsn: str, service: Service, limited: None) -> None:
    first, second, third, other = (psycopg.connect(dsn, autocommit=True) for _ in range(4))
    with first, second, third, other:
        assert [slots(each, "sluice_status") for each in (first, second, third)] == [1, 2, None]
        assert slots(other, "sluice_submit") == 1, "each role has slots of its own"
        assert first.execute("SELECT sluice.wait_end(1)").fetchone() == (True,)
        assert slots(third, "sluice_status") == 1
        second.close()
        assert _eventually(lambda: slots(first, "sluice_status") == 2), "a session that ends gives its slot back"


def test_without_a_slot_nobody_waits(
    deploy: Any, service: Service, alice: bytes, dsn: str, limited: None, looks: list[float]
) -> None:
    first, second = (psycopg.connect(dsn, autocommit=True) for _ in range(2))
    with first, second:
        assert slots(first, "sluice_submit")
        assert slots(second, "sluice_submit")
        deploy("submit")
        assert call("submit.app", "submit", headers=PREFER, body=BODY)[0] == 202
    assert not looks


def test_a_slot_is_given_back(deploy: Any, service: Service, alice: bytes, looks: list[float]) -> None:
    deploy("submit")
    with answered_soon(service, looks):
        call("submit.app", "submit", headers=PREFER, body=BODY)
    assert bootstrap.database().value("request_ended", request_id=None) is True
    held = "locktype = 'advisory' AND objsubid = 2 AND classid = hashtext('sluice.wait sluice_submit')::oid"
    here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    assert service.value(f"SELECT count(*) FROM pg_locks WHERE {held} AND {here}") == 0


def _eventually(holds: Any) -> bool:
    until = time.monotonic() + 10
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
