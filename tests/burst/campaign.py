"""One run: a stack, a burst, a flood of wrong keys, and what must hold."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self

import psycopg

from local.processes import wait_until
from local.stack import Stack
from tests.burst.load import Honest, Watcher, burst, wrong_keys

MODEL = "instant"
# What a function refuses, it refuses within this time; one in a hundred may take longer on a machine that is busy.
REFUSED_SECONDS = 0.3
# How much longer an honest client waits beside wrong keys, and what the machine's own noise may add, in seconds.
_HONEST_FACTOR, _NOISE_SECONDS = 2, 0.05
_FINISHED = "SELECT status, count(*) FROM sluice.requests WHERE request_id = ANY (%s) GROUP BY 1"
_DRAIN_SECONDS = 300.0


@dataclass(frozen=True)
class Size:
    """The size of a run."""

    at_once: int = 400
    seconds: float = 120
    wrong_keys: int = 2000
    concurrency: int = 60
    reserved: bool = True
    wrong_key_clients: int = 4
    honest_seconds: float = 10


@dataclass
class Report:
    """The result of a run; times are in seconds.

    Attributes:
        wrong: what did not hold.
    """

    answers: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0
    accepted: list[float] = field(default_factory=list)
    refused_inside: list[float] = field(default_factory=list)
    refused_outside: list[float] = field(default_factory=list)
    connects: list[float] = field(default_factory=list)
    verifies: list[float] = field(default_factory=list)
    most: Counter[str] = field(default_factory=Counter)
    limits: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    wrong_key_answers: Counter[str] = field(default_factory=Counter)
    honest_before: list[float] = field(default_factory=list)
    honest_during: list[float] = field(default_factory=list)
    honest_answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class InstantModel:
    """An OpenAI-compatible server that answers at once."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                answer = {
                    "choices": [{"message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
                }
                payload = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Campaign:
    """A stack of its own with an instant model; at the end all of it is removed."""

    def __init__(self, state_dir: Path, size: Size, say: Callable[[str], None] = lambda _: None) -> None:
        self.size, self.say = size, say
        self.model = InstantModel()
        parameters = {
            "SubmitConcurrency": str(size.concurrency),
            "StatusConcurrency": str(max(size.concurrency, 20)),
            "ReserveConcurrency": "auto" if size.reserved else "false",
            "WorkerTimeout": "30",
        }
        self.stack = Stack(state_dir, durable=False, parameters=parameters, llm_url=self.model.url, report=say)

    def __enter__(self) -> Self:
        self.stack.start()
        self.stack.admin(
            "model.set",
            model_id=MODEL,
            backend="openai",
            backend_model="x",
            endpoint=self.model.url,
            timeout_seconds=10,
        )
        unlimited = {period: {"max_requests": None, "max_tokens": None} for period in ("minute", "daily", "monthly")}
        self.stack.admin("tier.set", tier="burst", limits=unlimited, max_unfinished=100_000, dispatch_window=1000)
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.stack.destroy()
        finally:
            self.model.stop()

    def run(self) -> Report:
        report = Report()
        with psycopg.connect(self.stack.info.database_url, autocommit=True) as owner:
            rows = owner.execute("SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE 'sluice_%'").fetchall()
        report.limits = {name: limit for name, limit in rows if limit >= 0}
        if self.size.wrong_keys:
            self._wrong_keys(report)
        self._burst(report)
        self._judge(report)
        return report

    def _user(self, user_id: str) -> str:
        self.stack.admin("user.create", user_id=user_id, tier="burst")
        return str(self.stack.admin("key.create", user_id=user_id)["api_key"])

    def _wrong_keys(self, report: Report) -> None:
        url, key = self.stack.info.api_url, self._user("honest")
        warm = Honest(url, key)  # so that no environment has to be started for what is compared
        warm.start()
        wrong_keys(url, 20 * self.size.wrong_key_clients, self.size.wrong_key_clients)
        warm.stop()
        self.say("An honest client, alone.")
        before = Honest(url, key)
        before.start()
        time.sleep(self.size.honest_seconds)
        report.honest_before = before.stop().seconds()
        self.say(f"{self.size.wrong_keys} wrong keys beside it.")
        during = Honest(url, key)
        during.start()
        report.wrong_key_answers = wrong_keys(url, self.size.wrong_keys, self.size.wrong_key_clients).counts()
        calls = during.stop()
        report.honest_during, report.honest_answers = calls.seconds(), calls.counts()

    def _burst(self, report: Report) -> None:
        info, key = self.stack.info, self._user("crowd")
        watcher = Watcher(info.database_url, self.stack.state_dir)
        watcher.start()
        self.say(f"{self.size.at_once} clients submit at once, for {self.size.seconds:.0f} s.")
        calls = burst(info.api_url, key, MODEL, self.size.at_once, time.monotonic() + self.size.seconds)
        watcher.stop()
        report.answers = calls.counts()
        report.accepted = calls.seconds(lambda each: each.status == 202)
        refused = [each for each in calls.made if each.status in (429, 503)]
        report.without_retry_after = sum(not each.retry_after for each in refused)
        report.refused_outside = [each.seconds for each in refused if not each.code]
        report.connects, report.verifies, report.most = watcher.connects, watcher.verifies, watcher.most
        report.wrong += watcher.refused
        ids = calls.accepted()
        self.say(f"{len(ids)} were accepted; waiting until they have ended.")
        with psycopg.connect(info.database_url, autocommit=True) as owner:

            def ended() -> bool:
                report.ends = dict(owner.execute(_FINISHED, (ids,)).fetchall())
                return report.ends.get("completed", 0) == len(set(ids))

            if not wait_until(ended, _DRAIN_SECONDS):
                report.wrong.append(f"of {len(ids)} accepted requests, these ended: {report.ends}")
        time.sleep(2)  # logs are copied once a second
        self._read_log(report)

    def _read_log(self, report: Report) -> None:
        for line in (self.stack.logs_dir / "functions" / "submit.log").read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("message") == "refused" and "milliseconds" in entry:
                report.refused_inside.append(entry["milliseconds"] / 1000)

    def judge_times(self, report: Report) -> None:
        """Compare the times with what they should be; they depend on the machine, so no test does that."""
        slow = percentile(report.refused_inside, 0.99)
        if slow > REFUSED_SECONDS:
            report.wrong.append(f"one in a hundred refusals took {slow * 1000:.0f} ms inside the function")
        before, during = percentile(report.honest_before, 0.95), percentile(report.honest_during, 0.95)
        if during > _HONEST_FACTOR * before + _NOISE_SECONDS:
            report.wrong.append(f"the honest client's p95 went from {before * 1000:.0f} to {during * 1000:.0f} ms")

    def _judge(self, report: Report) -> None:
        books = self.stack.admin("verify", full=True)
        if not books["balanced"]:
            report.wrong.append(f"the books: {books}")
        for role, limit in report.limits.items():
            if report.most[role] > limit:
                report.wrong.append(f"{role} had {report.most[role]} connections, its limit is {limit}")
        if not report.accepted:
            report.wrong.append("nothing was accepted during the burst")
        if not report.verifies or not report.connects:
            report.wrong.append("nobody looked during the burst")
        if report.without_retry_after:
            report.wrong.append(f"{report.without_retry_after} refusals without Retry-After")
        honest = {name: count for name, count in report.honest_answers.items() if name != "200 -"}
        if honest:
            report.wrong.append(f"the honest client was answered {honest}")
        unexpected = {name: count for name, count in report.answers.items() if name[:3] not in ("202", "429", "503")}
        if unexpected:
            report.wrong.append(f"unexpected answers: {unexpected}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies; 0 without values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
