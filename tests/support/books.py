"""A ledger with a history: users, models, months, and requests with every possible end.

The fixtures `history`, `books` and `untouched` (tests/integration/conftest.py) keep it in a database of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sluice.db.connection import Connection, Database, Row
from sluice.db.maintenance import Maintenance
from sluice.services.tasks.close import run as tasks_close
from sluice.services.verify import verify
from tests.support.ledger import cancelled, seal, set_clock, violations, wait_until_visible
from tests.support.service import Service, completed, failed, retry

KEYS = {name: f"sluice_{name[0] * 43}" for name in ("alice", "bob", "carol", "dora", "erin")}
NOON = datetime(2031, 2, 2, 12, tzinfo=UTC)
Violation = tuple[str, str | None, str | None, str | None]  # invariant, user, request, period
PERIODS = ("minute", "daily", "monthly")


class TransactionDatabase(Database):
    """A database as verify() uses it, inside an open transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(lambda: connection)
        self._open = connection

    def _call(self, statement: Any, arguments: Mapping[str, Any], repeatable: bool) -> list[Row]:
        assert repeatable
        return self._open.execute(statement, arguments).fetchall()


@dataclass
class Books:
    """A service with a history, and its requests by name."""

    service: Service
    keys: Mapping[str, bytes]
    ids: dict[str, UUID] = field(default_factory=dict)
    is_one_transaction: bool = False

    @property
    def prover(self) -> Maintenance:
        return (
            Maintenance(TransactionDatabase(self.service.owner))
            if self.is_one_transaction
            else self.service.maintenance()
        )

    def at(self, year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> None:
        set_clock(self.service.owner, datetime(year, month, day, hour, minute, second, tzinfo=UTC))

    def accept(self, name: str, user: str, model: str | None = None, **given: Any) -> UUID:
        parameters = {"max_tokens": 1} if model else {}
        self.ids[name] = self.service.submit(self.keys[user], model=model, parameters=parameters, **given)
        return self.ids[name]

    def claim(self, *names: str) -> None:
        wanted = [self.ids[name] for name in names]
        assert [claim["request_id"] for claim in self.service.claim(*wanted)] == sorted(wanted)

    def answer(
        self, name: str, user: str, outcome: Callable[..., Any] = completed, model: str | None = None, **reported: Any
    ) -> None:
        self.accept(name, user, model)
        self.claim(name)
        self.service.settle(outcome(self.ids[name], **reported))

    def run(self, sql: str) -> None:
        """Run SQL as a superuser without triggers; requests are parameters by name."""
        with self.service.owner.transaction():
            self.service.owner.execute("SET LOCAL session_replication_role = replica")
            self.service.owner.execute(sql, self.ids)

    def recover(self) -> dict[str, Any]:
        return self.service.database("rollup").call_row("request_recover", limit=100)

    def rollup(self) -> None:
        wait_until_visible(self.service)
        for task in ("rollup_usage", "rollup_stats"):
            self.service.database("rollup").call(task)

    def verify(self, *, full: bool = False, head: str | None = None) -> dict[str, Any]:
        return verify(self.prover, full=full, head=head)

    def found(self, *, every: bool = True) -> set[Violation]:
        """Violations as (invariant, user, name of the request, period)."""
        names = {str(request_id): name for name, request_id in self.ids.items()}
        return {
            (v["invariant"], v["user_id"], names.get(v["request_id"], v["request_id"]), v["period"])
            for v in violations(self.service, every=every)
        }


def make_history(books: Books) -> None:
    """Five users, two models, three days of two months; requests with every end; most of the last day not rolled up.

    January is closed, but for the user with an unfinished request of it. One user has a budget and tags requests.
    """
    service = books.service
    books.at(2031, 1, 30, 10)
    service.act("budget.set", user_id="erin", limits={"monthly": "1"})
    books.accept("tagged", "erin", metadata={"project": "apollo"})
    books.claim("tagged")
    service.settle(completed(books.ids["tagged"]))
    books.answer("answered", "alice")
    parts: dict[str, Any] = {"cached_tokens": 5, "reasoning_tokens": 6}
    books.answer("overrun", "alice", model="small", prompt_tokens=20, completion_tokens=30, **parts)
    books.accept("expired", "alice")
    books.answer("refused", "bob", failed)
    books.answer(
        "too_large", "bob", failed, "small", prompt_tokens=5, completion_tokens=9, error_code="result_too_large"
    )
    books.answer("dropped", "carol", cancelled)
    service.settle(cancelled(books.accept("unwanted", "carol"), 0))
    books.answer("once", "dora")
    for name, user in (("lost", "bob"), ("retried", "carol"), ("worn_out", "carol")):
        books.accept(name, user)
    books.claim("lost", "retried", "worn_out")
    service.settle(*[retry(books.ids[name], after=10) for name in ("retried", "worn_out")])
    books.at(2031, 1, 30, 10, 2)
    assert books.recover() == {"requeued": 1, "failed": 0, "expired": 0, "cancelled": 0}
    books.claim("lost", "retried", "worn_out")
    flush = [completed(books.ids["lost"], 2), completed(books.ids["retried"], 2), retry(books.ids["worn_out"], 2)]
    assert [row["kind"] for row in service.settle(*flush) if row["kind"] != "dispatch"] == [
        "settled",
        "settled",
        "requeued",
    ]
    (late,) = service.settle(completed(books.ids["lost"], 1))
    assert late["kind"] == "superseded"
    books.claim("worn_out")
    service.settle(retry(books.ids["worn_out"], 3))
    books.at(2031, 1, 30, 11, 30)
    assert books.recover() == {"requeued": 0, "failed": 0, "expired": 1, "cancelled": 0}
    books.rollup()
    seal(service)

    books.at(2031, 1, 31, 23, 59, 30)
    books.accept("over_midnight", "alice")
    books.accept("forgotten", "bob")
    books.claim("over_midnight", "forgotten")
    books.at(2031, 2, 1, 0, 0, 30)
    service.settle(completed(books.ids["over_midnight"]))
    books.answer("february", "carol")
    books.rollup()
    seal(service)
    assert books.verify()["balanced"]

    set_clock(service.owner, NOON)
    books.answer("spent", "erin")
    assert tasks_close(service.tasks()) == {"closed": 4, "open": 0}
    books.answer("today", "alice", model="small", cached_tokens=2, reasoning_tokens=1)
    books.accept("waiting", "alice")
    books.accept("running", "bob")
    books.claim("running")
    books.answer("rejected", "carol", failed, prompt_tokens=4, completion_tokens=0)
    set_clock(service.owner, NOON + timedelta(seconds=30))
    wait_until_visible(service)
    seal(service)
    # Results get their ids from the system clock: change them to match the stopped clock.
    books.run("UPDATE requests SET result_id = request_id WHERE result_id IS NOT NULL")
    books.run("UPDATE results SET result_id = request_id")
    books.ids["unaccepted"] = service.value("SELECT uuidv7_floor('2031-01-30 10:00:00+00')")
    statuses = {row["status"] for row in service.rows("SELECT DISTINCT status FROM requests")}
    assert statuses == {"completed", "failed", "cancelled", "expired", "queued", "processing"}
