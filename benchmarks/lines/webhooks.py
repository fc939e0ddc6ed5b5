"""What webhooks cost: the events, in the commits that end their requests, and each delivery.

Settlements of a user with an endpoint beside those of a user without. Deliveries, as the function webhooks makes them,
beside a bare loop that posts as many messages of the same size to the same receiver, as many at once, and keeps no
account of it.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from benchmarks.bench import Bench
from benchmarks.meter import HAS_CPU_TIMES, Cost
from benchmarks.receiver import receiving
from benchmarks.report import Table
from benchmarks.server import Address
from benchmarks.sides import SluiceSide
from sluice.db.webhooks import Webhooks
from sluice.domain.webhooks import EVENT_TYPES, WebhookClaim, message
from sluice.posting import post
from sluice.services.deliver import Deliverer

_BATCH: Final = 10
_AT_ONCE: Final = 5
"""As many as an endpoint is sent at once."""
_EVENT: Final = WebhookClaim(
    event_id=UUID(int=1),
    attempt=1,
    endpoint_id=UUID(int=1),
    url="",
    event_type="response.completed",
    data_id=str(UUID(int=1)),
    created_at=datetime(2031, 1, 1, tzinfo=UTC),
    secret="whsec_" + "A" * 44,
    old_secret=None,
    claimed_at=datetime(2031, 1, 1, tzinfo=UTC),
)
_SETTLED = (
    "Of each request, claimed and settled in batches of ten. The endpoint wants every event, so each request has one.",
)
_DELIVERED = (
    (
        "Messages are posted from this process, as the function `deliver` does, one connection for each; in AWS each "
        "attempt is also an invocation of that function. Time is that of the client. The bare loop has no database, no "
        "signature and no schedule: what it fails to send is lost."
    ),
)


class Teller(SluiceSide):
    """A user whose requests end, and are told to an endpoint.

    Args:
        url: of the endpoint; None: there is none.
    """

    def __init__(self, address: Address, name: str, url: str | None) -> None:
        super().__init__(address, 1)
        self.name = name
        self._webhooks = Webhooks(self.database("webhooks"))
        if url is not None:
            asked: dict[str, Any] = {"url": url, "name": "bench", "event_types": list(EVENT_TYPES)}
            assert Webhooks(self.database("openai")).manage(self.keys[0], "create", **asked).outcome == "ok"

    def deliver(self, number: int) -> None:
        """Deliver all events that are due, which are so many."""
        report = Deliverer(self._webhooks, _send, lambda: 3600.0).run()
        assert report.counts == {"delivered": number}, report


class Poster(Teller):
    """A loop that posts what has no events."""

    def __init__(self, address: Address, url: str) -> None:
        super().__init__(address, "bare loop", None)
        headers, body = message(_EVENT)
        self._message = {"url": url, "headers": headers, "body": body}

    def deliver(self, number: int) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as executor:
            assert all(sent["cause"] is None for sent in executor.map(_send, [self._message] * number))


def run(bench: Bench) -> Sequence[Table]:
    """Measure settlements and deliveries, of one user."""
    with (
        receiving() as url,
        bench.server.database("told") as one,
        bench.server.database("untold") as two,
        Teller(one, "with an endpoint", url) as told,
        Poster(two, url) as poster,
    ):
        settled = Table("Webhooks: the event of a request that ends", ["with an endpoint", "without"], notes=_SETTLED)
        delivered = Table("Webhooks: a delivery", ["Sluice", "bare loop"], notes=_DELIVERED)
        sides: list[Teller] = [told, poster]
        for side, (settling, delivering) in bench.compare(sides, lambda side: _work(bench, side)):
            settled.add("with an endpoint" if side is told else "without", settling)
            delivered.add("Sluice" if side is told else "bare loop", delivering)
        return [settled, delivered]


def _work(bench: Bench, side: Teller) -> tuple[Mapping[str, float], Mapping[str, float]]:
    number = bench.effort.requests
    cost = Cost()
    for _ in range(0, number, _BATCH):
        accepted = [side.submit(0) for _ in range(_BATCH)]
        with bench.meter(side).measure() as its:
            side.settle(side.claim(accepted))
        cost += its
    with bench.meter(side).measure() as delivering:
        began = time.perf_counter()
        side.deliver(number)
        took = time.perf_counter() - began
    return _figures(cost / number), {"time, ms": took * 1000 / number} | _figures(delivering / number)


def _figures(cost: Cost) -> dict[str, float]:
    cpu = {"CPU of the server's processes, ms": cost.cpu_ms} if HAS_CPU_TIMES else {}
    return {
        "statements": cost.statements,
        "commits": cost.commits,
        "planning and execution, ms": cost.milliseconds,
        **cpu,
        "WAL, bytes": cost.wal_bytes,
    }


def _send(webhook: Mapping[str, Any]) -> Mapping[str, Any]:
    return post(webhook["url"], webhook["headers"], webhook["body"], loopback=True).to_json()
