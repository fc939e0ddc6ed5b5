"""The clients: threads that submit the plan's requests over HTTP until each has been accepted.

Some wait for their answers: they call /v1/chat/completions, and repeat a call as OpenAI's client does, but for longer.
"""

import http.client
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Condition, Event, Thread
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from tests.chaos.model import MAX_TOKENS
from tests.chaos.plan import Order, Plan

MODEL = "chaos"
_CACHE = {"max_age": 3600}

_PAUSE_SECONDS = 0.2
_ORDER_SECONDS = 120.0
_CALL_SECONDS = 30.0
# OpenAI's client waits for ten minutes: it never repeats a call that is still being worked on.
_WAITING_CALL_SECONDS = 60.0


class Ledger:
    """The answers that clients got, and their progress, which other threads can wait for."""

    def __init__(self) -> None:
        self.ids: dict[int, set[str]] = defaultdict(set)  # order → what it was accepted as
        self.cancelled: set[int] = set()  # orders whose cancellation was accepted
        self.told: dict[int, tuple[str, int, int]] = {}  # order → answer and tokens, as told to a client that waited
        self.troubles: list[str] = []  # unexpected answers
        self.answers: Counter[str] = Counter()
        self.waiting = 0  # clients that wait for an answer now
        self._accepted = 0
        self._progress = 0  # requests accepted, or begun to be waited for
        self._over = False
        self._changed = Condition()

    def accept(self, order: Order, request_id: str) -> None:
        with self._changed:
            self._accepted += not self.ids[order.number]
            self._progress += not self.ids[order.number] and not order.waits
            self.ids[order.number].add(request_id)
            self._changed.notify_all()

    @contextmanager
    def one_waits(self) -> Iterator[None]:
        """A client waits for its answer meanwhile."""
        with self._changed:
            self.waiting += 1
            self._progress += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.waiting -= 1

    def end(self) -> None:
        """The clients have finished."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait_for(self, progress: int) -> None:
        """Wait until so many requests have been accepted or are waited for, or the clients have finished."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._progress >= progress)

    @property
    def accepted(self) -> int:
        return self._accepted

    def request_ids(self) -> list[str]:
        """All requests accepted so far."""
        with self._changed:
            return [request_id for ids in self.ids.values() for request_id in sorted(ids)]


class Api:
    """A connection to the API, reopened when it breaks."""

    def __init__(self, url: str, seconds: float = _CALL_SECONDS) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._base = address.path
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=seconds)

    def call(
        self, method: str, path: str, key: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Call the API.

        Returns:
            The status, 0 without an answer, and the body if it is JSON.
        """
        status, _, answer = self.exchange(method, path, key, body, headers)
        return status, answer

    def exchange(
        self, method: str, path: str, key: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], Any]:
        """As call(), with the answer's headers, whose names are in lower case."""
        content = None if body is None else json.dumps(body)
        sent = {"x-api-key": key, "content-type": "application/json", **(headers or {})}
        try:
            self._connection.request(method, self._base + path, content, sent)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return 0, {}, None
        answered = {name.lower(): value for name, value in response.getheaders()}
        try:
            return response.status, answered, json.loads(text)
        except ValueError:
            return response.status, answered, None

    def close(self) -> None:
        self._connection.close()


class Clients:
    """Threads that carry out the plan's orders; four times as many wait for answers, which takes longer."""

    def __init__(self, plan: Plan, url: str, keys: Mapping[int, str], ledger: Ledger, threads: int) -> None:
        self._plan = plan
        self._url = url
        self._keys = keys  # user → API key
        self._ledger = ledger
        self._orders = {waits: iter([each for each in plan.orders if each.waits is waits]) for waits in (True, False)}
        self._turn = Condition()
        self._stopped = Event()
        self._threads = [
            Thread(target=work, name=f"client-{n}", daemon=True)
            for work in (self._work, *[self._wait_for_answers] * 4)
            for n in range(threads)
        ]

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

    def _next(self, *, waits: bool) -> Order | None:
        with self._turn:
            return next(self._orders[waits], None)

    def _work(self) -> None:
        api = Api(self._url)
        to_cancel: list[tuple[int, Order, str]] = []  # when, what
        made = 0
        while not self._stopped.is_set() and (order := self._next(waits=False)) is not None:
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
        if order.may_share:
            body["parameters"]["temperature"] = 0
            body["cache"] = _CACHE
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

    # Clients that wait ------------------------------------------------------------------------------------------------

    def _wait_for_answers(self) -> None:
        api = Api(self._url, _WAITING_CALL_SECONDS)
        while not self._stopped.is_set() and (order := self._next(waits=True)) is not None:
            with self._ledger.one_waits():
                self._ask(api, order)
        api.close()

    def _ask(self, api: Api, order: Order) -> None:
        """Call until there is an answer, or a refusal after which OpenAI's client does not try again."""
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": order.prompt}]}
        body |= {"max_tokens": MAX_TOKENS, "metadata": {"project": f"project {order.number % 3}"}}
        body |= {"temperature": 0, "cache": _CACHE} if order.may_share else {}
        deadline, tried = time.monotonic() + _ORDER_SECONDS, 0
        while not self._stopped.is_set():
            headers = {"x-stainless-retry-count": str(tried)}
            status, told, answer = api.exchange("POST", "/v1/chat/completions", self._keys[order.user], body, headers)
            self._ledger.answers[f"{status or 'none'} to who waits"] += 1
            if (request_id := _request_id(answer)) is not None:
                self._ledger.accept(order, request_id)
            if status == 200:
                usage = answer["usage"]
                text = str(answer["choices"][0]["message"]["content"])
                self._ledger.told[order.number] = (text, usage["prompt_tokens"], usage["completion_tokens"])
                return
            if not _should_retry(status, told) or time.monotonic() > deadline:
                if request_id is None or told.get("x-should-retry") != "false":
                    self._ledger.troubles.append(f"order {order.number} waited, and was told {status} {answer}")
                return
            self._stopped.wait(_pause(told, tried))
            tried += 1


def _request_id(answer: Any) -> str | None:
    """The request that an answer of /v1 names: the completion's own id, or the one in an error."""
    if not isinstance(answer, dict):
        return None
    error = answer.get("error")
    named = error.get("response_id") if isinstance(error, dict) else answer.get("id")
    return str(UUID(named.removeprefix("chatcmpl-").removeprefix("resp_"))) if named else None


def _should_retry(status: int, headers: Mapping[str, str]) -> bool:
    """As OpenAI's client decides."""
    told = headers.get("x-should-retry")
    if told in {"true", "false"}:
        return told == "true"
    return status in {0, 408, 409, 429} or status >= 500


def _pause(headers: Mapping[str, str], tried: int) -> float:
    """As OpenAI's client waits; it does so twice."""
    try:
        return float(headers["retry-after-ms"]) / 1000
    except (KeyError, ValueError):
        return float(min(0.5 * 2 ** min(tried, 4), 8.0))
