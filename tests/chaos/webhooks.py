"""Webhooks in the load: every user has an endpoint, and the judge compares what came with how the requests ended."""

import base64
import hashlib
import hmac
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from tests.chaos.load import Api
from tests.chaos.plan import Plan
from tests.support.receiver import Answer, Received, receiving

_KINDS = {
    "completed": "response.completed",
    "failed": "response.failed",
    "expired": "response.failed",
    "cancelled": "response.cancelled",
}
_TYPES = ("response.completed", "response.failed", "response.cancelled", "response.incomplete")
_DRAIN_SECONDS = 150.0
_LOOK_SECONDS = 0.5
_TRIES = 20


class Webhooks:
    """The receiver of a run's users; it refuses some calls, and leaves some without an answer."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"{seed}/webhooks")
        self._secrets: dict[str, str] = {}  # path → secret
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._receiver = self._running.enter_context(receiving())
        self._receiver.rule = self._answer
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()

    def _answer(self, call: Received) -> Answer:
        drawn = self._random.random()
        return Answer(None if drawn < 0.01 else 500 if drawn < 0.1 else 200)

    def subscribe(self, url: str, user_id: str, key: str) -> None:
        """Make an endpoint for a user."""
        api = Api(url)
        asked = {"url": f"{self._receiver.url}/{user_id}", "name": user_id, "event_types": [*_TYPES]}
        status, made = 0, None
        for _ in range(_TRIES):
            status, made = api.call("POST", "/v1/webhook_endpoints", key, asked)
            if status == 200:
                self._secrets[f"/{user_id}"] = made["signing_secret"]
                api.close()
                return
            time.sleep(_LOOK_SECONDS)
        raise AssertionError(f"no endpoint for {user_id}: {status} {made}")

    def drain(self, database_url: str, plan: Plan) -> Iterator[str]:
        """Wait until every event has been delivered; retries are not waited for as long as their schedule says."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while True:
            try:
                with psycopg.connect(database_url, autocommit=True) as database:
                    left = database.execute(
                        "WITH hurried AS (UPDATE webhook_events SET next_attempt_at = now()"
                        " WHERE state = 'pending' AND leased_until IS NULL AND user_id = ANY (%(users)s)"
                        " RETURNING endpoint_id), open AS (UPDATE webhook_endpoints SET paused_until = NULL"
                        " WHERE paused_until IS NOT NULL)"
                        " SELECT count(*) FROM webhook_events WHERE state = 'pending' AND user_id = ANY (%(users)s)",
                        {"users": plan.user_ids},
                    ).fetchone()
            except psycopg.OperationalError:
                left = None
            if left == (0,):
                return
            if time.monotonic() > deadline:
                yield f"{left} webhooks are not delivered {_DRAIN_SECONDS:.0f} s after the last request"
                return
            time.sleep(_LOOK_SECONDS)

    def judge(self, database_url: str, plan: Plan, waits: Mapping[str, bool]) -> Iterator[str]:
        """Sentences about everything that is wrong.

        Args:
            waits: of each request, whether it came by chat completions.
        """
        with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as database:
            users = (plan.user_ids,)
            requests = database.execute("SELECT * FROM requests WHERE user_id = ANY (%s)", users).fetchall()
            events = defaultdict(list)
            for row in database.execute("SELECT * FROM webhook_events WHERE user_id = ANY (%s)", users).fetchall():
                events[str(row["request_id"])].append(row)
        calls = defaultdict(list)
        for call in self._receiver.received:
            calls[call.headers["webhook-id"]].append(call)
        known = {f"evt_{row['event_id'].hex}" for rows in events.values() for row in rows}
        yield from (f"webhook {name} came, and there is no such event" for name in sorted(set(calls) - known))
        for request in requests:
            name = str(request["request_id"])
            if len(events[name]) != 1:
                yield f"request {name} is {request['status']}, and has {len(events[name])} events"
                continue
            yield from self._judge_event(events[name][0], request, waits.get(name, False), calls)

    def _judge_event(
        self, event: dict[str, Any], request: dict[str, Any], waits: bool, calls: Mapping[str, list[Received]]
    ) -> Iterator[str]:
        name = f"evt_{event['event_id'].hex}"
        hexadecimal = request["request_id"].hex
        known_as = f"chatcmpl-{hexadecimal}" if waits else str(request["request_id"])
        wanted = _KINDS[request["status"]]
        if (event["event_type"], event["data_id"]) != (wanted, known_as):
            yield f"webhook {name} says {event['event_type']} of {event['data_id']}; it is {wanted} of {known_as}"
        if event["state"] != "delivered":
            yield f"webhook {name} is {event['state']} after {event['attempts']} attempts ({event['last_cause']})"
        elif not calls.get(name):
            yield f"webhook {name} is delivered, and never came"
        for call in calls.get(name, ()):
            signed = _signature(self._secrets[call.path], name, call)
            if call.path != f"/{request['user_id']}" or call.headers["webhook-signature"] != signed:
                yield f"webhook {name} came to {call.path}, signed by another"
            if (call.event["type"], call.event["data"]) != (wanted, {"id": known_as}):
                yield f"webhook {name} came as {call.body}"


def _signature(secret: str, name: str, call: Received) -> str:
    """As the Standard Webhooks say; nothing of the service is used here."""
    signed = f"{name}.{call.headers['webhook-timestamp']}.{call.body}".encode()
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
