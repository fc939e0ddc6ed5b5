"""The clients: threads that submit the plan's requests over HTTP until each has been accepted."""

import http.client
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from threading import Condition, Event, Thread
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.model import MAX_TOKENS
from tests.chaos.plan import Order, Plan

MODEL = "chaos"

_PAUSE_SECONDS = 0.2
_ORDER_SECONDS = 120.0
_CALL_SECONDS = 30.0


class Ledger:
    """The answers that clients got, and their progress, which other threads can wait for."""

    def __init__(self) -> None:
        self.ids: dict[int, set[str]] = defaultdict(set)  # order → what it was accepted as
        self.cancelled: set[int] = set()  # orders whose cancellation was accepted
        self.troubles: list[str] = []  # unexpected answers
        self.answers: Counter[str] = Counter()
        self._accepted = 0
        self._over = False
        self._changed = Condition()

    def accept(self, order: Order, request_id: str) -> None:
        with self._changed:
            self._accepted += not self.ids[order.number]
            self.ids[order.number].add(request_id)
            self._changed.notify_all()

    def end(self) -> None:
        """The clients have finished."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait_for(self, accepted: int) -> None:
        """Wait until so many requests have been accepted, or the clients have finished."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._accepted >= accepted)

    @property
    def accepted(self) -> int:
        return self._accepted

    def request_ids(self) -> list[str]:
        """All requests accepted so far."""
        with self._changed:
            return [request_id for ids in self.ids.values() for request_id in sorted(ids)]


class Api:
    """A connection to the API, reopened when it breaks."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._base = address.path
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=_CALL_SECONDS)

    def call(
        self, method: str, path: str, key: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Call the API.

        Returns:
            The status, 0 without an answer, and the body if it is JSON.
        """
        content = None if body is None else json.dumps(body)
        sent = {"x-api-key": key, "content-type": "application/json", **(headers or {})}
        try:
            self._connection.request(method, self._base + path, content, sent)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return 0, None
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, None

    def close(self) -> None:
        self._connection.close()


class Clients:
    """Threads that carry out the plan's orders."""

    def __init__(self, plan: Plan, url: str, keys: Mapping[int, str], ledger: Ledger, threads: int) -> None:
        self._plan = plan
        self._url = url
        self._keys = keys  # user → API key
        self._ledger = ledger
        self._orders: Iterator[Order] = iter(plan.orders)
        self._turn = Condition()
        self._stopped = Event()
        self._threads = [Thread(target=self._work, name=f"client-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all orders are done."""
        try:
            for thread in self._threads:
                thread.join()
        finally:
            self._stopped.set()
            self._ledger.end()

    def _next(self) -> Order | None:
        with self._turn:
            return next(self._orders, None)

    def _work(self) -> None:
        api = Api(self._url)
        to_cancel: list[tuple[int, Order, str]] = []  # when, what
        made = 0
        while not self._stopped.is_set() and (order := self._next()) is not None:
            request_id = self._submit(api, order)
            made += 1
            if request_id is not None and order.repeated:
                self._submit(api, order)
            if request_id is not None and order.cancelled_after is not None:
                to_cancel.append((made + order.cancelled_after, order, request_id))
            for entry in [entry for entry in to_cancel if entry[0] <= made]:
                to_cancel.remove(entry)
                self._cancel(api, *entry[1:])
        for _, order, request_id in to_cancel:
            self._cancel(api, order, request_id)
        api.close()

    def _submit(self, api: Api, order: Order) -> str | None:
        body: dict[str, Any] = {"prompt": order.prompt, "model": MODEL, "parameters": {"max_tokens": MAX_TOKENS}}
        body["metadata"] = {"project": f"project {order.number % 3}"}
        if order.ttl_seconds is not None:
            body["ttl_seconds"] = order.ttl_seconds
        headers = {"idempotency-key": f"{self._plan.seed}-{order.number}"}
        answer = self._retry_until(api, order, "/generate", body, headers, {200, 202})
        if answer is None:
            return None
        request_id = str(answer["request_id"])
        self._ledger.accept(order, request_id)
        return request_id

    def _cancel(self, api: Api, order: Order, request_id: str) -> None:
        answer = self._retry_until(api, order, f"/requests/{request_id}/cancel", None, {}, {200, 202, 409})
        if answer is not None and answer.get("code") is None:
            self._ledger.cancelled.add(order.number)

    def _retry_until(
        self, api: Api, order: Order, path: str, body: object, headers: Mapping[str, str], wanted: set[int]
    ) -> dict[str, Any] | None:
        """Call until a wanted status is the answer; other refusals are noted as trouble and give None."""
        deadline = time.monotonic() + _ORDER_SECONDS
        while True:
            status, answer = api.call("POST", path, self._keys[order.user], body, headers)
            self._ledger.answers[f"{status or 'none'}"] += 1
            if status in wanted and isinstance(answer, dict):
                return answer
            if 0 < status < 500 or time.monotonic() > deadline:
                self._ledger.troubles.append(f"order {order.number}: {path} was answered with {status} {answer}")
                return None
            self._stopped.wait(_PAUSE_SECONDS)
