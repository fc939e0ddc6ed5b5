"""What a function takes for itself: its handler, warm, beside the bare calls that it cannot do without.

Beside submit: the same SQL call through psycopg, and one SendMessageBatch through botocore. Beside status: the same SQL
call. Same database, same queue, same process; handler and bare calls take turns.

    python -m benchmarks.handlers [ROUNDS]
"""

import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

from botocore.session import Session
from psycopg.types.json import Jsonb

from benchmarks.bench import Bench
from benchmarks.report import Table
from benchmarks.stand_ins import KEY, World, world
from local.environment import ROOT
from sluice import bootstrap
from sluice.api.native.bodies import GenerateRequest
from sluice.db import connection, credentials
from sluice.domain.documents import Output
from sluice.domain.keys import digest
from sluice.domain.requests import Admission, RequestState

FUNCTIONS: Final = ("submit", "status")
CALLS: Final = 300


@dataclass
class Warm:
    """A function's handler and its bare calls: milliseconds of a call, one for each round."""

    function: str
    handler: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Of the handler to the bare calls, in the same round."""
        return [handler / bare for handler, bare in zip(self.handler, self.bare, strict=True)]


def measure(rounds: int) -> list[Warm]:
    """Each function in a process of its own, as on Lambda; one more round is not counted."""
    with TemporaryDirectory(prefix="sluice-benchmarks-") as folder, world(Path(folder)) as surroundings:
        path = f"/status/{_answered(surroundings)}"
        with surroundings.connect() as owner:
            owner.execute("UPDATE quota_plans SET dispatch_window = 1000000, max_unfinished = 1000000")
        found = []
        for function in FUNCTIONS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found.append(pool.submit(_measure, function, surroundings, path, rounds).result())
        return found


def _answered(surroundings: World) -> UUID:
    """A request that has been answered."""
    request_id = surroundings.request()
    outcome = {"request_id": str(request_id), "attempt": 1, "outcome": "completed", "fingerprint": "00" * 32}
    answer = {"output": Output.of_text("because", "stop").to_json(), "prompt_tokens": 7, "completion_tokens": 3}
    with surroundings.connect() as owner:
        owner.execute("SELECT * FROM sluice.request_claim(%s, 60)", ([request_id],))
        owner.execute("SELECT * FROM sluice.request_settle(%s, 'worker')", (Jsonb([outcome | answer]),))
    return request_id


def _measure(function: str, surroundings: World, path: str, rounds: int) -> Warm:
    os.environ.update(surroundings.environment(function))
    sys.path.insert(0, str(ROOT))
    _without_tls()
    # Logs and metrics, which Lambda would take: before the handler's logger takes hold of it.
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as this process lives
    handler = importlib.import_module(f"functions.{function}.app").handler
    event = _event(function, path)
    bare = _bare(function, event, path)

    def handle() -> None:
        answer = handler(event, _Context())
        assert answer["statusCode"] in (200, 202), answer

    warm = Warm(function)
    for number in range(rounds + 1):
        for calls, times in ((handle, warm.handler), (bare, warm.bare))[:: 1 if number % 2 else -1]:
            with surroundings.connect() as owner:
                # Each round begins without unfinished requests, which each submission counts.
                owner.execute("DELETE FROM inflight")
                owner.execute("VACUUM inflight")
            taken = _milliseconds(calls)
            if number > 0:
                times.append(taken)
    return warm


def _without_tls() -> None:
    """Connect to a PostgreSQL that has no TLS."""
    signed = credentials.connection_parameters
    connection.connection_parameters = lambda settings: {**signed(settings), "sslmode": "disable"}  # type: ignore[attr-defined]


def _milliseconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) * 1000 / CALLS


def _event(function: str, path: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((ROOT / "events" / f"{function}.json").read_text())
    event["headers"] = {"x-api-key": KEY}
    if function == "status":
        event["requestContext"]["http"] |= {"path": path}
        event["rawPath"] = path
    return event


def _bare(function: str, event: Mapping[str, Any], path: str) -> Callable[[], None]:
    """The calls that a handler cannot do without: the statement that it sends, and its message."""
    database, key = connection.connect(bootstrap.settings()), digest(KEY)
    if function == "status":
        shown = _statement("request_show", RequestState, "key_hash", "request_id")

        def show() -> None:
            row = database.execute(shown, {"key_hash": key, "request_id": path.rpartition("/")[2]}).fetchone()
            assert row is not None
            assert row["outcome"] == "ok"

        return show

    limits = bootstrap.request_limits()
    submission = GenerateRequest.model_validate_json(event["body"]).submission(None).to_json() | {
        "longest_seconds": limits.longest_seconds,
        "max_attempts": limits.max_attempts,
    }
    submitted = _statement("request_submit", Admission, "key_hash", "submission")
    queue: Any = Session().create_client("sqs", region_name=os.environ["AWS_REGION"])

    def submit() -> None:
        row = database.execute(submitted, {"key_hash": key, "submission": Jsonb(submission)}).fetchone()
        assert row is not None
        (request_id,) = row["send"]
        body = json.dumps({"request_id": str(request_id)})
        queue.send_message_batch(QueueUrl=os.environ["QUEUE_URL"], Entries=[{"Id": "0", "MessageBody": body}])

    return submit


def _statement(function: str, result: type, *arguments: str) -> bytes:
    """The same statement as sluice.db sends."""
    columns = ", ".join(column.name for column in fields(result))
    given = ", ".join(f"p_{name} => %({name})s" for name in arguments)
    return f"SELECT {columns} FROM sluice.{function}({given})".encode()


class _Context:
    """Lambda's context object."""

    function_name = "sluice"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:sluice"
    aws_request_id = "5f7d5c9e-0000-4000-8000-000000000000"


def run(bench: Bench) -> Sequence[Table]:
    """As a line of the report."""
    table = Table("Handlers: a warm call in one process", ["handler", "bare calls"])
    for warm in measure(bench.effort.rounds):
        for handler, bare in zip(warm.handler, warm.bare, strict=True):
            table.add("handler", {f"{warm.function}, ms": handler})
            table.add("bare calls", {f"{warm.function}, ms": bare})
    return [table]


def main() -> None:
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors; milliseconds of a call"
    )
    print(f"{'':8}{'handler':>9}{'bare calls':>12}{'ratio':>8}")
    for warm in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        print(f"{warm.function:8}{median(warm.handler):9.3f}{median(warm.bare):12.3f}{median(warm.ratios):8.2f}")


if __name__ == "__main__":
    main()
