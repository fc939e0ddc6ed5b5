"""Circuit breakers: a model that is out of service is probed, and not stormed."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from sluice.api.native.bodies import GenerateRequest
from sluice.backends.protocol import ModelError
from sluice.messaging import Delivery
from tests.support.ledger import assert_books_balance, set_clock, stop_the_clock
from tests.support.models import Models, add_models, work, worker_of
from tests.support.service import Service

NOON = datetime(2031, 1, 10, 12, tzinfo=UTC)
DOWN = ModelError("model_unavailable", http_status=503)
FAILURES_UNTIL_OPEN = 5


@pytest.fixture
def models(service: Service) -> Models:
    """One model without a fallback, and time that stands still."""
    stop_the_clock(service.owner, NOON)
    add_models(service, "only")
    return Models()


def at(service: Service, **later: float) -> None:
    set_clock(service.owner, NOON + timedelta(**later))


def breaker(service: Service, model: str = "only") -> dict[str, Any]:
    """The state of a model's breaker, as operators see it."""
    found: dict[str, Any] = service.value("SELECT breaker_json(%s)", model)
    return found


def actions(service: Service) -> list[str]:
    rows = service.rows("SELECT action FROM audit_log WHERE action LIKE 'model.breaker%%' ORDER BY audit_id")
    return [row["action"] for row in rows]


def dispatch(service: Service) -> list[UUID]:
    """The messages that the recovery task would send now."""
    return [row.request_id for row in service.ledger("rollup").dispatch(1000)]


def fail(service: Service, models: Models, key: bytes, times: int = FAILURES_UNTIL_OPEN) -> list[UUID]:
    """Requests whose calls fail."""
    models.always["only"] = DOWN
    ids = [service.submit(key, f"request {n}") for n in range(times)]
    service.queue.take()
    work(service, models, *ids)
    return ids


def test_it_opens_after_so_many_failures_in_a_row(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice, FAILURES_UNTIL_OPEN - 1)
    assert breaker(service) == {"state": "failing", "failures": 4, "last_error": "model_unavailable"}
    fail(service, models, alice, 1)
    assert (breaker(service)["state"], breaker(service)["failures"]) == ("open", 5)
    assert actions(service) == ["model.breaker_opened"]
    assert_books_balance(service)


def test_a_success_in_between_starts_the_count_again(service: Service, alice: bytes, models: Models) -> None:
    for _ in range(3):
        fail(service, models, alice, FAILURES_UNTIL_OPEN - 1)
        models.always.clear()
        work(service, models, service.submit(alice, "this one is answered"))
        assert breaker(service) == {"state": "closed"}
    assert actions(service) == []


def test_failures_of_long_ago_do_not_count(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice, FAILURES_UNTIL_OPEN - 1)
    at(service, minutes=11)
    fail(service, models, alice, 1)
    assert breaker(service)["failures"] == 1


@pytest.mark.parametrize(
    "code", ["model_rejected", "context_length_exceeded", "content_filtered", "model_bad_response"]
)
def test_what_is_a_requests_own_fault_does_not_open_it(
    service: Service, alice: bytes, models: Models, code: str
) -> None:
    models.always["only"] = ModelError(code)
    work(service, models, *[service.submit(alice, f"{n}") for n in range(10)])
    assert breaker(service) == {"state": "closed"}


def test_while_it_is_open_nothing_is_called_and_no_attempt_is_lost(
    service: Service, alice: bytes, models: Models
) -> None:
    fail(service, models, alice)
    models.called()
    ids = [service.submit(alice, f"waiting {n}") for n in range(3)]
    service.queue.take()

    report = work(service, models, *ids, now=False)

    assert (report.counts, models.called()) == ({}, [])
    queue = service.status(alice, ids[0])["queue"]
    assert (queue["waits_for"], queue["failed_attempts"], queue["until"]) == ("breaker", 0, "2031-01-10T12:00:10.000Z")
    assert dispatch(service) == []
    assert_books_balance(service)


def test_one_probe_is_sent_and_pauses_grow(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice)
    ids = [service.submit(alice, f"waiting {n}") for n in range(4)]
    service.queue.take()
    work(service, models, *ids)
    models.called()
    seconds, pauses = 0.0, []
    for _ in range(5):
        until = breaker(service)["probe_at"]
        due = datetime.fromisoformat(until)
        pauses.append((due - NOON).total_seconds() - seconds)
        seconds += pauses[-1]
        at(service, seconds=seconds)
        work(service, models, *dispatch(service), now=False)
        assert models.called() == ["only"], "one probe, whatever waits"
    assert pauses == [10, 20, 40, 60, 60]
    assert actions(service) == ["model.breaker_opened"]


def test_two_workers_do_not_probe_at_once(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice)
    at(service, seconds=10)
    first, second = service.submit(alice, "a"), service.submit(alice, "b")
    service.queue.take()
    assert len(service.claim(first)) == 1
    assert service.claim(second) == []
    # The probe's worker is lost: the next one may be sent when the model's time is over.
    at(service, seconds=69)
    assert service.claim(*dispatch(service)) == []
    at(service, seconds=70)
    assert len(service.claim(*dispatch(service))) == 1


def test_it_closes_with_the_first_answer(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice)
    at(service, seconds=10)
    models.always.clear()
    waiting = service.submit(alice, "a")
    service.queue.take()
    work(service, models, waiting, now=False)
    assert service.status(alice, waiting)["status"] == "completed"
    assert breaker(service) == {"state": "closed"}
    assert actions(service) == ["model.breaker_opened", "model.breaker_closed"]
    work(service, models, service.submit(alice, "b"))
    assert models.called()[-2:] == ["only", "only"]
    assert_books_balance(service)


def test_it_closes_when_the_operator_changes_the_model(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice)
    service.act("model.set", model_id="only", timeout_seconds=30)
    assert breaker(service) == {"state": "closed"}


def test_waiting_ends_with_the_lifetime(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice)
    request_id = service.submit(alice, "a", ttl_seconds=5)
    service.queue.take()
    work(service, models, request_id, now=False)
    at(service, seconds=6)
    service.database("rollup").call_row("request_recover", limit=100)
    assert service.status(alice, request_id)["status"] == "expired"
    assert_books_balance(service)


def test_a_waiting_request_can_be_cancelled(service: Service, alice: bytes, models: Models) -> None:
    fail(service, models, alice)
    request_id = service.submit(alice, "a")
    service.queue.take()
    work(service, models, request_id, now=False)
    assert service.canceller().cancel(alice, request_id) == "cancelled"
    assert_books_balance(service)


# With a fallback ------------------------------------------------------------------------------------------------------


def test_an_hours_outage_is_answered_by_the_second_model_and_probed(
    service: Service, alice: bytes, models: Models
) -> None:
    add_models(service, "second", is_default=False)
    service.act("model.fallback", model_id="only", fallbacks=["second"])
    models.always["only"] = DOWN
    submitter, worker = service.submitter(), worker_of(service, models)
    for second in range(0, 3600, 10):
        at(service, seconds=second)
        request_id = submitter.submit(alice, GenerateRequest(prompt=f"at {second}").submission()).request_id
        worker.work([Delivery("message", json.dumps({"request_id": str(request_id)}))])
    assert service.rows("SELECT DISTINCT status FROM requests") == [{"status": "completed"}]
    calls = models.called()
    assert calls.count("second") == 360
    # Five failures, then probes 10, 20, 40 and from then on 60 seconds apart.
    assert calls.count("only") == 5 + 3 + 58
    last = service.value("SELECT request_id FROM requests ORDER BY request_id DESC LIMIT 1")
    assert service.status(alice, last)["answered_by"] == "second"
    assert service.value("SELECT count(*) FROM requests WHERE charges->0->>'model_id' = 'second'") == 360

    models.always.clear()
    at(service, seconds=3700)
    request_id = service.submit(alice, "afterwards")
    service.queue.take()
    work(service, models, request_id, now=False)
    assert "answered_by" not in service.status(alice, request_id)
    assert breaker(service) == {"state": "closed"}
    assert_books_balance(service)


def test_if_both_are_open_the_request_waits_for_the_earlier_probe(
    service: Service, alice: bytes, models: Models
) -> None:
    add_models(service, "second", is_default=False)
    service.act("model.fallback", model_id="only", fallbacks=["second"])
    models.always |= {"only": DOWN, "second": DOWN}
    for n in range(FAILURES_UNTIL_OPEN):
        work(service, models, service.submit(alice, f"{n}"), now=False)
    assert (breaker(service)["state"], breaker(service, "second")["state"]) == ("open", "open")
    models.called()
    request_id = service.submit(alice, "waits")
    service.queue.take()
    work(service, models, request_id, now=False)
    assert models.called() == []
    assert service.status(alice, request_id)["queue"]["waits_for"] == "breaker"
