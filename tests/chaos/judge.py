"""The judge: checks the final state in the database, and runs the system's own verification.

It recomputes everything from the scripted model's answers and shares no code with the service.
"""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.load import Api, Ledger
from tests.chaos.model import call_of, is_refused, tokens
from tests.chaos.plan import Order, Plan

ROOT = Path(__file__).resolve().parents[2]
FINAL = ("completed", "failed", "cancelled", "expired")

# Transient errors: a request fails with one only after its last attempt.
_TRANSIENT = {
    "model_unavailable",
    "model_timeout",
    "model_throttled",
    "model_bad_response",
    "worker_lost",
    "worker_error",
}
_VERIFY_SECONDS = 300
_ASKED = 25  # requests of a run whose status is read through the API

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Books:
    """The rows of a run's users."""

    requests: Sequence[Row]
    results: Mapping[str, list[str]]  # request → contents
    prompts: Mapping[str, str]
    endings: Mapping[str, list[str]]  # request → final states in the audit log
    quotas: Sequence[Row]
    inflight: Sequence[Row]


def unfinished(database_url: str, user_ids: Sequence[str]) -> int:
    """How many requests of these users are not in a final state."""
    with psycopg.connect(database_url, autocommit=True) as database:
        row = database.execute(
            "SELECT count(*) FROM requests WHERE user_id = ANY (%s) AND NOT status = ANY (%s)",
            (list(user_ids), list(FINAL)),
        ).fetchone()
    assert row is not None
    return int(row[0])


def read_books(database_url: str, user_ids: Sequence[str]) -> Books:
    users = {"users": list(user_ids)}
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as database:

        def rows(sql: str) -> list[dict[str, Any]]:
            return database.execute(sql, users).fetchall()

        requests = rows("SELECT request_id::text AS id, * FROM requests WHERE user_id = ANY (%(users)s)")
        users["ids"] = [row["request_id"] for row in requests]
        results, endings = defaultdict(list), defaultdict(list)
        for row in rows("SELECT request_id::text AS id, content FROM results WHERE request_id = ANY (%(ids)s)"):
            results[row["id"]].append(row["content"])
        for row in rows(
            "SELECT r.request_id::text AS id, s.content FROM requests r JOIN results s ON s.result_id = r.result_id"
            " WHERE r.user_id = ANY (%(users)s) AND r.cached_from IS NOT NULL"
        ):
            results[row["id"]].append(row["content"])
        for row in rows(
            "SELECT request_id::text AS id, after->>'status' AS state FROM audit_log WHERE user_id = ANY (%(users)s)"
            " AND action IN ('request.completed', 'request.failed', 'request.cancelled', 'request.expired',"
            " 'request.cached')"
        ):
            endings[row["id"]].append(row["state"])
        prompts = rows("SELECT request_id::text AS id, prompt FROM prompts WHERE request_id = ANY (%(ids)s)")
        return Books(
            requests=requests,
            results=results,
            prompts={row["id"]: row["prompt"] for row in prompts},
            endings=endings,
            quotas=rows("SELECT * FROM quotas WHERE user_id = ANY (%(users)s)"),
            inflight=rows("SELECT * FROM inflight WHERE user_id = ANY (%(users)s)"),
        )


def judge(plan: Plan, ledger: Ledger, books: Books, calls: Mapping[str, int], max_attempts: int) -> list[str]:
    """Sentences about everything that is wrong."""
    return [
        *_accepted_once(plan, ledger, books),
        *_finished(plan, ledger, books, calls, max_attempts),
        *_told(plan, ledger, books),
        *_booked(books),
        *(f"request {row['request_id']} is still in flight, {row['status']}" for row in books.inflight),
    ]


def states(books: Books) -> Counter[str]:
    """How many requests ended how; those that got another one's answer apart."""
    return Counter(row["status"] if row["cached_from"] is None else "shared" for row in books.requests)


def _accepted_once(plan: Plan, ledger: Ledger, books: Books) -> Iterator[str]:
    for order in plan.orders:
        if len(ids := ledger.ids.get(order.number, set())) != 1:
            yield f"order {order.number} was accepted as {len(ids)} requests: {sorted(ids)}"
    reported = {request_id for ids in ledger.ids.values() for request_id in ids}
    kept = {row["id"] for row in books.requests}
    yield from (f"request {request_id} was accepted and is lost" for request_id in sorted(reported - kept))
    yield from (f"request {request_id} was reported to no client" for request_id in sorted(kept - reported))


def _finished(plan: Plan, ledger: Ledger, books: Books, calls: Mapping[str, int], max_attempts: int) -> Iterator[str]:
    orders = {request_id: order for order in plan.orders for request_id in ledger.ids.get(order.number, ())}
    for row in books.requests:
        name, status = row["id"], row["status"]
        if status not in FINAL:
            yield f"request {name} is still {status} after {row['attempts']} attempts"
            continue
        if books.endings.get(name, []) != [status]:
            yield f"request {name} is {status}, and in the audit log it ended as {books.endings.get(name, [])}"
        if (order := orders.get(name)) is None:
            continue
        if books.prompts.get(name) != order.prompt:
            yield f"request {name} asks {books.prompts.get(name)!r}, and its client asked {order.prompt!r}"
        contents = books.results.get(name, [])
        if status == "completed":
            yield from _answered(row, order, contents, calls[order.prompt])
            if row["cached_from"] is not None:
                yield from _shared(row, order, {each["request_id"]: each for each in books.requests}, books.prompts)
        else:
            if contents:
                yield f"request {name} is {status}, and has {len(contents)} results"
            yield from _unanswered(row, order, calls[order.prompt])
        if why := _unexplained(row, order, max_attempts):
            yield f"request {name} is {status} ({row['error_code']}), attempts {row['attempts']}: {why}"
        if order.number in ledger.cancelled and status != "cancelled":
            yield f"request {name} was cancelled by its client, which was confirmed, and is {status} ({row['error_code']})"


def _told(plan: Plan, ledger: Ledger, books: Books) -> Iterator[str]:
    """Answers and tokens that a client was told while it waited, and that are not those that were booked."""
    rows = {row["id"]: row for row in books.requests}
    for order in plan.orders:
        for request_id in ledger.ids.get(order.number, ()) if order.waits else ():
            row, told = rows.get(request_id), ledger.told.get(order.number)
            if row is None:
                continue
            booked = (
                next(iter(books.results.get(request_id, ())), None),
                row["prompt_tokens"],
                row["completion_tokens"],
            )
            if told != (booked if row["status"] == "completed" else None):
                yield f"request {request_id} is {row['status']} with {booked}, and its client, which waited, was told {told}"


def _answered(row: Row, order: Order, contents: Sequence[str], calls: int) -> Iterator[str]:
    if len(contents) != 1:
        yield f"request {row['id']} is completed, and has {len(contents)} results"
        return
    call = call_of(order.prompt, contents[0])
    if call is None or call > calls:
        yield f"request {row['id']} has an answer that the model never gave: {contents[0]!r}"
    elif (row["prompt_tokens"], row["completion_tokens"]) != _used(row, order.prompt, call):
        booked = (row["prompt_tokens"], row["completion_tokens"])
        yield f"request {row['id']} was booked with {booked}; the model reported {tokens(order.prompt, call)}"


def _used(row: Row, prompt: str, call: int) -> tuple[int, int]:
    """The tokens of a request that has the answer of this call: none, if it was another request's call."""
    return tokens(prompt, call) if row["cached_from"] is None else (0, 0)


def _shared(row: Row, order: Order, rows: Mapping[Any, Row], prompts: Mapping[str, str]) -> Iterator[str]:
    source = rows.get(row["cached_from"])
    if not order.may_share:
        yield f"request {row['id']} has another's answer, and its client did not allow that"
    elif source is None or source["user_id"] != row["user_id"] or prompts.get(source["id"]) != order.prompt:
        yield f"request {row['id']} has the answer of {row['cached_from']}, which is no equal request of its user"


def _unanswered(row: Row, order: Order, calls: int) -> Iterator[str]:
    """Only a request that was cancelled while running may have tokens: those of one of its calls."""
    if row["prompt_tokens"] is None:
        return
    booked = (row["prompt_tokens"], row["completion_tokens"])
    if row["status"] != "cancelled" or booked not in {tokens(order.prompt, call) for call in range(1, calls + 1)}:
        yield f"request {row['id']} is {row['status']}, and was booked with {booked}"


def _unexplained(row: Row, order: Order, max_attempts: int) -> str | None:
    """Why the script does not explain this end; None if it does."""
    status, code = row["status"], row["error_code"]
    if status == "completed":
        return "the model refuses this prompt" if is_refused(order.prompt) else None
    if status == "cancelled":
        return None if order.cancelled_after is not None else "it was not cancelled"
    if status == "expired" or code == "request_expired":
        return None if order.ttl_seconds is not None else "its lifetime was a day"
    if code == "model_rejected":
        return None if is_refused(order.prompt) else "the model does not refuse this prompt"
    if code in _TRANSIENT:
        over = row["attempts"] >= max_attempts or order.ttl_seconds is not None
        return None if over else "it had attempts left"
    return "nothing in the script ends like this"


def _booked(books: Books) -> Iterator[str]:
    """Counters that differ from the sum of the answers."""
    for quota in books.quotas:
        name = f"{quota['user_id']}'s {quota['quota_period']} quota"
        requests = [row for row in books.requests if row["user_id"] == quota["user_id"] and _is_in(row, quota)]
        used = 0
        for row in requests:
            used += (row["total_tokens"] or 0) if row["status"] == "cancelled" else 0  # see _unanswered
            for content in books.results.get(row["id"], []):
                prompt = books.prompts.get(row["id"], "")
                call = call_of(prompt, content)
                used += sum(_used(row, prompt, call)) if call is not None else 0
        if quota["tokens_reserved"] != 0:
            yield f"{name} has {quota['tokens_reserved']} tokens reserved, and nothing is unfinished"
        if (quota["requests_used"], quota["tokens_used"]) != (len(requests), used):
            booked = f"{quota['requests_used']} requests and {quota['tokens_used']} tokens"
            yield f"{name} has booked {booked}; it was {len(requests)} requests and {used} tokens"


def _is_in(row: Row, quota: Row) -> bool:
    created: datetime = row["created_at"]
    return bool(quota["period_start"] <= created < quota["reset_at"])


def reported(plan: Plan, ledger: Ledger, books: Books, api_url: str, keys: Mapping[int, str]) -> Iterator[str]:
    """Requests whose status in the API differs from the database, of a sample."""
    api, rows = Api(api_url), {row["id"]: row for row in books.requests}
    for order in plan.orders[:: max(1, len(plan.orders) // _ASKED)]:
        for request_id in ledger.ids.get(order.number, ()):
            status, answer = api.call("GET", f"/status/{request_id}", keys[order.user])
            held = (rows[request_id]["status"], next(iter(books.results.get(request_id, ())), None))
            if status != 200 or (answer["status"], answer["result"]) != held:
                yield f"request {request_id} is {held}, and the API answers {status} {answer}"
    api.close()


def dead_letters(bodies: Sequence[str], unreadable: set[str]) -> list[str]:
    """Messages in the dead-letter queue that the injector did not write."""
    return [f"in the dead-letter queue, unexplained: {body}" for body in bodies if body not in unreadable]


def verify(state_dir: Path) -> list[str]:
    """Errors that `sluice verify --full` finds."""
    command = [sys.executable, "-m", "sluice_cli", "--state", str(state_dir), "--json", "verify", "--full"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=_VERIFY_SECONDS)
    if done.returncode == 0 and json.loads(done.stdout)["balanced"]:
        return []
    return [f"`sluice verify --full` ended with {done.returncode}: {done.stdout.strip()} {done.stderr.strip()}"]
