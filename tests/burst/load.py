"""Clients that all call at once, one that is honest and patient, and a watcher at the database's door."""

import http.client
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import urlsplit

import psycopg

ROOT = Path(__file__).parents[2]
_CALL_SECONDS = 60.0


@dataclass
class Call:
    """One HTTP call.

    Attributes:
        status: 0 if there was no answer.
        seconds: from connecting to the last byte.
        retry_after: the header, if there is one.
        code: of the problem; "" where the gateway itself answered.
    """

    status: int
    seconds: float
    retry_after: str | None
    code: str
    body: Any


def call(url: str, key: str, method: str, path: str, body: object = None) -> Call:
    """Call the API once, on a connection of its own, as clients that know nothing of each other do."""
    address, began = urlsplit(url), time.monotonic()
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_CALL_SECONDS)
    try:
        content = None if body is None else json.dumps(body)
        headers = {"x-api-key": key, "content-type": "application/json"}
        connection.request(method, address.path + path, content, headers)
        response = connection.getresponse()
        text = response.read()
        answered = json.loads(text) if text else {}
        code = answered.get("code", "") if isinstance(answered, dict) else ""
        return Call(response.status, time.monotonic() - began, response.getheader("Retry-After"), code, answered)
    except (OSError, http.client.HTTPException, ValueError):
        return Call(0, time.monotonic() - began, None, "", None)
    finally:
        connection.close()


@dataclass
class Calls:
    """What many clients were answered."""

    made: list[Call] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def add(self, one: Call) -> None:
        with self._lock:
            self.made.append(one)

    def counts(self) -> Counter[str]:
        """Answers by status and code."""
        return Counter(f"{each.status} {each.code or '-'}" for each in self.made)

    def accepted(self) -> list[str]:
        return [each.body["request_id"] for each in self.made if each.status == 202]

    def seconds(self, wanted: Callable[[Call], bool] = lambda _: True) -> list[float]:
        return [each.seconds for each in self.made if wanted(each)]


def burst(url: str, key: str, model: str, at_once: int, until: float) -> Calls:
    """Submit from so many threads, each again and again until a time; what is refused waits as it was told."""
    calls = Calls()

    def client(number: int) -> None:
        turn = 0
        while time.monotonic() < until:
            turn += 1
            prompt = json.dumps({"text": f"client {number}, turn {turn}"})
            answered = call(url, key, "POST", "/generate", {"prompt": prompt, "model": model})
            calls.add(answered)
            if answered.retry_after:
                time.sleep(min(5.0, float(answered.retry_after)))
            elif answered.status != 202:
                time.sleep(1.0)

    threads = [Thread(target=client, args=(number,), daemon=True) for number in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return calls


def wrong_keys(url: str, number: int, clients: int) -> Calls:
    """Ask with so many keys that nobody has, each another one, from some threads."""
    calls, left = Calls(), iter(range(number))
    lock = Lock()

    def client() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            calls.add(call(url, f"sluice_{secrets.token_urlsafe(32)}", "GET", "/requests?limit=1"))

    threads = [Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return calls


@dataclass
class Honest:
    """A client that asks for its requests, one call after the other, until it is stopped."""

    url: str
    key: str
    calls: Calls = field(default_factory=Calls)
    _stopped: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def start(self) -> None:
        self._thread = Thread(target=self._ask, daemon=True)
        self._thread.start()

    def stop(self) -> Calls:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        return self.calls

    def _ask(self) -> None:
        while not self._stopped.is_set():
            self.calls.add(call(self.url, self.key, "GET", "/requests?limit=1"))
            self._stopped.wait(0.02)


@dataclass
class Watcher:
    """An operator who connects again each second, and now and then verifies the books with the command line.

    Attributes:
        most: the most connections that each role had in any look.
        connects: seconds that each connect took.
        verifies: seconds that each `sluice verify` took.
        refused: what went wrong.
    """

    database_url: str
    state_dir: Path
    most: Counter[str] = field(default_factory=Counter)
    connects: list[float] = field(default_factory=list)
    verifies: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _stopped: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads = [Thread(target=self._connect, daemon=True), Thread(target=self._verify, daemon=True)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _connect(self) -> None:
        while not self._stopped.wait(1.0):
            began = time.monotonic()
            try:
                with psycopg.connect(self.database_url, autocommit=True, connect_timeout=10) as connection:
                    self.connects.append(time.monotonic() - began)
                    self._count(connection)
            except psycopg.Error as error:
                self.refused.append(f"the owner: {error}")

    def _count(self, connection: psycopg.Connection[Any]) -> None:
        rows = connection.execute(
            """
            SELECT CASE WHEN l.objid IS NULL THEN 'without a slot' ELSE a.application_name END, count(*)
            FROM pg_stat_activity a
            LEFT JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory' AND l.objsubid = 2
            WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
            GROUP BY 1"""
        ).fetchall()
        for name, count in [*rows, ("all", sum(count for _, count in rows))]:
            self.most[name] = max(self.most[name], count)

    def _verify(self) -> None:
        command = [sys.executable, "-m", "sluice_cli", "--state", str(self.state_dir), "--json", "verify"]
        while not self._stopped.wait(2.0):
            began = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
            self.verifies.append(time.monotonic() - began)
            if done.returncode != 0:
                self.refused.append(f"sluice verify: {done.stderr.strip() or done.stdout.strip()}")
            self._stopped.wait(8.0)
