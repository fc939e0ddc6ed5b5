"""Five thousand events to receivers that fail, hang, redirect, throttle, go away and take their time."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from sluice.db.maintenance import Maintenance
from sluice.domain.webhooks import signature
from tests.support.deliveries import add_endpoint, deliver
from tests.support.ledger import set_clock, stop_the_clock, violations
from tests.support.receiver import Answer, Received, Receiver, receiving
from tests.support.service import Service, completed

START = datetime(2031, 1, 15, 12, tzinfo=UTC)
EVENTS = 5000
PATHS = ("/steady", "/failing", "/flaky", "/hanging", "/redirecting", "/throttling", "/leaving", "/slow", "/recovering")
PAUSES = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
# What the receivers' clock is, so that one can recover.
BACK_AFTER = timedelta(hours=9)
STEP = timedelta(minutes=10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


class Rules:
    """How each path answers; those that take time take it for a few calls only."""

    def __init__(self) -> None:
        self.random = Random(7)
        self.calls: Counter[str] = Counter()
        self.now = START

    def __call__(self, call: Received) -> Answer:
        self.calls[call.path] += 1
        count = self.calls[call.path]
        match call.path:
            case "/failing":
                return Answer(500)
            case "/flaky":
                return Answer(self.random.choice((200, 200, 404, 503)))
            case "/hanging":
                return Answer(None if count % 100 == 1 else 200)
            case "/redirecting":
                return Answer(302 if count % 3 == 1 else 200, {"location": "http://127.0.0.1:1/"})
            case "/throttling":
                return Answer(429, {"retry-after": "30"}) if count % 50 == 1 else Answer()
            case "/leaving":
                return Answer(410) if count > 100 else Answer()
            case "/slow":
                return Answer(200, seconds=0.05 if count % 20 == 1 else 0)
            case "/recovering":
                return Answer(500) if self.now < START + BACK_AFTER else Answer()
        return Answer()


def test_every_event_is_delivered_or_dead_in_the_order_of_its_schedule(
    service: Service, alice: bytes, receiver: Receiver
) -> None:
    service.owner.execute("SELECT partitions_ensure()")
    stop_the_clock(service.owner, START)
    endpoints = {path: add_endpoint(service, alice, receiver.url + path) for path in PATHS}
    service.owner.execute("UPDATE webhook_endpoints SET max_concurrency = 10")
    service.act("quota.set", user_id="alice", max_unfinished=10_000, dispatch_window=10_000)
    wanted = -(-EVENTS // len(PATHS))
    for _ in range(0, wanted, 50):
        ids = [service.submit(alice) for _ in range(50)]
        assert len(service.claim(*ids)) == 50
        service.settle(*map(completed, ids))
    events = service.value("SELECT count(*) FROM webhook_events")
    assert events >= EVENTS

    rules, maintenance = Rules(), Maintenance(service.kept("rollup"))
    receiver.rule = rules
    while (due := _next(service)) is not None:
        # Not each moment at which one of thousands is due.
        rules.now = max(rules.now + STEP, due)
        set_clock(service.owner, rules.now)
        deliver(service, seconds=0.5)
        maintenance.recover_webhooks(EVENTS)

    _judge(service, receiver, endpoints)
    assert violations(service) == []


def _next(service: Service) -> datetime | None:
    """When something is due next: an event, or the end of the pause of the endpoint that it waits for."""
    due: datetime | None = service.value(
        "SELECT min(greatest(v.next_attempt_at, w.paused_until)) FROM webhook_events v JOIN webhook_endpoints w"
        " USING (endpoint_id) WHERE v.state = 'pending'"
    )
    return due


def _judge(service: Service, receiver: Receiver, endpoints: dict[str, dict[str, Any]]) -> None:
    rows = service.rows("SELECT * FROM webhook_events")
    attempts = defaultdict(list)
    for row in service.rows("SELECT * FROM webhook_deliveries ORDER BY event_id, attempt"):
        attempts[row["event_id"]].append(row)
    calls = defaultdict(list)
    for call in receiver.received:
        calls[call.headers["webhook-id"]].append(call)
    paths = {endpoint["endpoint_id"]: path for path, endpoint in endpoints.items()}
    by_path: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        name, path = f"evt_{row['event_id'].hex}", paths[str(row["endpoint_id"])]
        by_path[path][row["state"]] += 1
        made, got = attempts[row["event_id"]], calls[name]
        # What is listed is what came; an attempt that timed out came too.
        assert len(got) == len(made), name
        assert [each["attempt"] for each in made] == list(range(1, len(made) + 1))
        assert (row["state"] == "delivered") == (bool(made) and made[-1]["cause"] is None), name
        assert all(each["cause"] is not None for each in made[:-1]), name
        # In the order of the schedule: no sooner than it says.
        for number, (one, following) in enumerate(pairwise(made)):
            assert (following["at"] - one["at"]).total_seconds() >= PAUSES[number], name
        # One id, one body, and a signature of each attempt.
        whole = [call for call in got if call.is_whole]
        assert whole or row["state"] == "dead", name
        assert len({call.body for call in whole}) <= 1, name
        for call in whole[:2]:
            assert call.path == path
            headers = call.headers
            secret = endpoints[path]["secret"]
            signed = signature(secret, name, int(headers["webhook-timestamp"]), call.body)
            assert headers["webhook-signature"] == signed
    assert {row["state"] for row in rows} == {"delivered", "dead"}
    for path in ("/steady", "/slow", "/hanging", "/throttling", "/redirecting", "/recovering"):
        assert set(by_path[path]) == {"delivered"}, path
    assert set(by_path["/failing"]) == {"dead"}
    assert by_path["/flaky"]["dead"] <= by_path["/flaky"].total() // 100
    assert by_path["/leaving"]["delivered"] >= 100
    assert by_path["/leaving"]["dead"] > 0
    assert service.value("SELECT count(*) FROM webhook_endpoints WHERE disabled_reason = 'gone'") == 1


def test_claims_at_the_same_time_share_the_events(service: Service, alice: bytes, receiver: Receiver) -> None:

    for path in PATHS:
        add_endpoint(service, alice, receiver.url + path)
    ids = [service.submit(alice) for _ in range(40)]
    service.claim(*ids)
    service.settle(*map(completed, ids))
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: deliver(service), range(4)))
    assert sum(report.counts["delivered"] for report in reports) == 40 * len(PATHS)
    assert len(receiver.received) == len(set(receiver.ids())) == 40 * len(PATHS)
    assert max(receiver.most_at_once.values()) <= 5
