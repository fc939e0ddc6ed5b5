"""The audit log's chain: every altered, added, moved or deleted row or batch is found."""

from functools import partial
from uuid import UUID

import psycopg
import pytest

from sluice.services.tasks import audit
from tests.support.books import Books
from tests.support.ledger import (
    run_concurrently,
    seal,
    wait_until_visible,
)

QUEUED = "request_id = %(over_midnight)s AND action = 'request.queued'"  # of the second batch of three

# For each column: another value, and the problem that it causes.
ALTERATIONS = {
    "audit_id": ("overlay(audit_id::text PLACING 'ffffffffffff' FROM 25)::uuid", "missing"),
    "at": ("at + interval '1 microsecond'", "altered"),
    "xact_id": ("xact_id + 1", "altered"),
    "actor": ("'somebody'", "altered"),
    "action": ("'request.accepted'", "altered"),
    "user_id": ("'bob'", "altered"),
    "key_id": ("NULL", "altered"),
    "request_id": ("uuidv7()", "altered"),
    "before": ("'null'", "altered"),
    "after": ("after || '{\"reserved_tokens\": 1}'", "altered"),
    "invocation": ("uuidv7()", "altered"),
}
CHAIN_ALTERATIONS = {
    "batch_no": "20",
    "built_at": "built_at - interval '1 microsecond'",
    "xact_low": "xact_low - 1",
    "xact_high": "xact_high - 1",
    "xact_next": "xact_next + 1",
    "audit_ids": "audit_ids[2:] || audit_ids[1]",
    "digests": "digests[2:] || digests[1]",
    "previous_hash": "sha256('x')",
    "hash": "sha256('x')",
}


def sealed(books: Books) -> list[UUID]:
    """The sealed rows' ids in the chain's order."""
    rows = books.service.rows(
        "SELECT e.id FROM audit_chain c, unnest(c.audit_ids) WITH ORDINALITY AS e (id, n) ORDER BY c.batch_no, e.n"
    )
    return [row["id"] for row in rows]


def problem(books: Books, head: str | None = None) -> tuple[str, str | None, int | None] | None:
    found = books.verify(full=True, head=head)["audit"]["problem"]
    return found and (found["kind"], found["audit_id"], found["batch_no"])


def columns(books: Books, table: str) -> set[str]:
    rows = books.service.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", table
    )
    return {row["attname"] for row in rows}


def test_an_unchanged_audit_log_is_valid(untouched: Books) -> None:
    head = untouched.service.value("SELECT audit_head()")
    report = untouched.verify(full=True, head=head)["audit"]
    count = untouched.service.value("SELECT count(*) FROM audit_log")
    assert report == {"batches": 3, "rows": count, "head": head, "problem": None}
    assert len(sealed(untouched)) == count


def test_every_column_of_audit_log_and_chain_is_tested(untouched: Books) -> None:
    assert columns(untouched, "audit_log") == set(ALTERATIONS)
    assert columns(untouched, "audit_chain") == set(CHAIN_ALTERATIONS)


@pytest.mark.parametrize("column", ALTERATIONS)
def test_an_altered_column_is_found(untouched: Books, column: str) -> None:
    (row,) = untouched.service.owner.execute(f"SELECT audit_id FROM audit_log WHERE {QUEUED}", untouched.ids).fetchall()
    value, kind = ALTERATIONS[column]

    untouched.run(f'UPDATE audit_log SET "{column}" = {value} WHERE {QUEUED}')

    assert problem(untouched) == (kind, str(row["audit_id"]), 2)


@pytest.mark.parametrize(
    ("xact_id", "kind", "batch"),
    [("(SELECT min(xact_id) FROM audit_log)", "inserted", 1), ("(SELECT max(xact_id) FROM audit_log)", "altered", 2)],
)
def test_a_row_moved_to_another_batch_is_found(untouched: Books, xact_id: str, kind: str, batch: int) -> None:
    (row,) = untouched.service.owner.execute(f"SELECT audit_id FROM audit_log WHERE {QUEUED}", untouched.ids).fetchall()
    untouched.run(f"UPDATE audit_log SET xact_id = {xact_id} WHERE {QUEUED}")
    assert problem(untouched) == (kind, str(row["audit_id"]), batch)


@pytest.mark.parametrize(("fraction", "batch"), [(0, 1), (0.5, 1), (0.9, 3), (1, 3)])
def test_a_deleted_row_is_found(untouched: Books, fraction: float, batch: int) -> None:
    rows = sealed(untouched)
    gone = rows[round(fraction * (len(rows) - 1))]
    untouched.run(f"DELETE FROM audit_log WHERE audit_id = '{gone}'")

    assert problem(untouched) == ("missing", str(gone), batch)


def test_the_first_wrong_row_is_reported(untouched: Books) -> None:
    rows = sealed(untouched)
    untouched.ids |= {"first": rows[3], "second": rows[4], "later": rows[-1]}
    untouched.run("DELETE FROM audit_log WHERE audit_id = %(later)s")
    untouched.run("UPDATE audit_log SET actor = 'x' WHERE audit_id = %(second)s")
    assert problem(untouched) == ("altered", str(rows[4]), 1)
    untouched.run("DELETE FROM audit_log WHERE audit_id = %(first)s")
    assert problem(untouched) == ("missing", str(rows[3]), 1)


INSERTED = "INSERT INTO audit_log (audit_id, at, xact_id, actor, action, user_id) SELECT {audit_id}, {at}, {xact_id}, 'admin', 'quota.changed', 'alice' RETURNING audit_id"
AN_HOUR_AGO = {"audit_id": "uuidv7(interval '-1 hour')", "at": "clock_timestamp() - interval '1 hour'"}
NOW = {"audit_id": "uuidv7()", "at": "clock_timestamp()"}
CURRENT = "pg_current_xact_id()::text::bigint"


@pytest.mark.parametrize(
    ("row", "batch"),
    [
        (NOW | {"xact_id": "(SELECT min(xact_id) FROM audit_log)"}, 1),
        (AN_HOUR_AGO | {"xact_id": "(SELECT max(xact_id) FROM audit_log)"}, 3),
        (NOW | {"xact_id": f"{CURRENT} + 1000"}, None),
        (AN_HOUR_AGO | {"xact_id": CURRENT}, None),
        (NOW | AN_HOUR_AGO | {"at": "clock_timestamp()", "xact_id": CURRENT}, None),
        (AN_HOUR_AGO | {"audit_id": "uuidv7()", "xact_id": CURRENT}, None),
    ],
    ids=["old transaction", "old", "transaction to come", "old, of a new transaction", "old id only", "old time only"],
)
def test_an_inserted_row_is_found_before_and_after_the_next_seal(
    books: Books, row: dict[str, str], batch: int | None
) -> None:
    """A row inserted into the past has an old transaction id, or is older than rows sealed before it."""
    books.service.owner.execute(
        "SELECT partition_create('audit_log', 'audit_id', date_trunc('month', (now() - interval '1 hour') AT TIME ZONE 'UTC')::date)"
    )
    audit_id = books.service.value(INSERTED.format(**row))

    assert problem(books) == ("inserted", str(audit_id), batch)
    if row["xact_id"] == CURRENT:
        seal(books.service)
        assert problem(books) == ("inserted", str(audit_id), 4)


@pytest.mark.parametrize("column", CHAIN_ALTERATIONS)
def test_an_altered_batch_is_found(untouched: Books, column: str) -> None:
    untouched.run(f"UPDATE audit_chain SET {column} = {CHAIN_ALTERATIONS[column]} WHERE batch_no = 2")
    assert problem(untouched) == ("chain", None, 3 if column == "batch_no" else 2)


def test_a_batch_altered_with_its_hash_is_found_at_the_next(untouched: Books) -> None:
    untouched.run(
        "UPDATE audit_chain SET digests = digests[2:] || digests[1], audit_ids = audit_ids[2:] || audit_ids[1] WHERE batch_no = 2"
    )
    untouched.run("UPDATE audit_chain c SET hash = audit_chain_hash(c) WHERE batch_no = 2")
    assert problem(untouched) == ("chain", None, 3)


@pytest.mark.parametrize(("batch", "found_at"), [(1, 2), (2, 3)])
def test_a_deleted_batch_is_found_at_the_next(untouched: Books, batch: int, found_at: int) -> None:
    untouched.run(f"DELETE FROM audit_chain WHERE batch_no = {batch}")
    assert problem(untouched) == ("chain", None, found_at)


def test_deleting_the_last_batch_is_found_by_watermark_and_noted_head(books: Books) -> None:
    head = books.service.value("SELECT audit_head()")
    books.run("DELETE FROM audit_chain WHERE batch_no = 3")
    assert problem(books) == ("chain", None, 3)
    books.run("UPDATE rollup_watermarks SET xact_id = (SELECT max(xact_high) FROM audit_chain) WHERE task = 'audit'")
    assert problem(books) is None, "the database alone can no longer detect it"
    assert problem(books, head) == ("head", None, 3)
    seal(books.service)
    assert problem(books, head) == ("head", None, 3)


def test_a_rewritten_chain_is_found_by_a_noted_head(books: Books) -> None:
    first, second = (
        row["head"]
        for row in books.service.rows(
            "SELECT batch_no || ':' || encode(hash, 'hex') AS head FROM audit_chain ORDER BY batch_no LIMIT 2"
        )
    )
    assert problem(books, first) is None, "an older head proves everything before it"
    books.run(f"UPDATE audit_log SET actor = 'somebody' WHERE {QUEUED}")
    books.run("DELETE FROM audit_chain WHERE batch_no > 1")
    seal(books.service)

    assert problem(books) is None
    assert problem(books, first) is None
    assert problem(books, second) == ("head", None, 2)


def test_an_unknown_head_is_reported(untouched: Books) -> None:
    assert problem(untouched, "3:" + "00" * 32) == ("head", None, 3)
    assert problem(untouched, "4" + untouched.service.value("SELECT audit_head()")[1:]) == ("head", None, 4)


def test_rows_of_open_transactions_are_sealed_later(books: Books) -> None:
    """Both its rows and the transaction are older than the seal."""
    with psycopg.connect(books.service.dsn) as slow, psycopg.connect(books.service.dsn) as idle:
        slow.execute("INSERT INTO submissions (user_id, prompt) VALUES ('bob', 'slow')")
        idle.execute("SELECT pg_current_xact_id()")
        books.answer("meanwhile", "alice")
        head = books.service.database("rollup").call_row("audit_seal", limit=1000)["head"]
        assert head.startswith("3:"), "nothing is sealed beyond a running transaction"
        assert problem(books) is None
        slow.commit()
        books.answer("after", "alice")
        idle.execute("INSERT INTO submissions (user_id, prompt) VALUES ('dora', 'idle')")
        assert books.service.database("rollup").call_row("audit_seal", limit=1000)["sealed"] == 1
        assert problem(books) is None
        idle.commit()
    seal(books.service)

    assert problem(books) is None
    assert len(sealed(books)) == books.service.value("SELECT count(*) FROM audit_log")
    assert len(set(sealed(books))) == len(sealed(books))


def test_concurrent_seals_take_turns(books: Books) -> None:
    for n in range(5):
        books.answer(f"more{n}", "alice")
    wait_until_visible(books.service)
    databases = [books.service.database("rollup") for _ in range(6)]

    rows = run_concurrently([partial(database.call_row, "audit_seal", limit=4) for database in databases])

    assert sum(row["sealed"] for row in rows if isinstance(row, dict)) == 15
    assert len({row["head"] for row in rows if isinstance(row, dict) and row["sealed"]}) >= 4
    assert problem(books) is None
    assert sorted(sealed(books)) == sorted(
        row["audit_id"] for row in books.service.rows("SELECT audit_id FROM audit_log")
    )


def test_a_long_log_is_sealed_in_batches_and_verified_in_steps(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    books.run("DELETE FROM audit_chain")
    wait_until_visible(books.service)
    batches, is_more = 0, True
    while is_more:
        row = books.service.database("rollup").call_row("audit_seal", limit=8)
        assert 0 < row["sealed"] <= 8
        batches, is_more = batches + 1, row["is_more"]

    monkeypatch.setattr("sluice.services.verify.CHAIN_STEP", 2)
    assert batches > 2 * 2, "it is verified in several statements"
    report = books.verify(full=True)["audit"]
    count = books.service.value("SELECT count(*) FROM audit_log")
    assert (report["batches"], report["rows"], report["problem"]) == (batches, count, None)
    last = sealed(books)[-1]
    books.run(f"DELETE FROM audit_log WHERE audit_id = '{last}'")
    assert problem(books) == ("missing", str(last), batches)


def test_a_transaction_larger_than_a_batch_is_sealed_whole(books: Books) -> None:
    books.service.owner.execute("SELECT pg_current_xact_id()")
    with books.service.owner.transaction():
        books.service.owner.execute("INSERT INTO audit_log (actor, action) SELECT 'x', 'x' FROM generate_series(1, 9)")
    wait_until_visible(books.service)

    assert books.service.database("rollup").call_row("audit_seal", limit=5)["sealed"] == 9
    assert problem(books) is None


def test_the_task_seals_transactions_of_any_size(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ROWS_PER_BATCH", 4)
    for _ in range(4):
        with books.service.owner.transaction():
            books.service.owner.execute(
                "INSERT INTO audit_log (actor, action) SELECT 'x', 'x' FROM generate_series(1, 3)"
            )
    wait_until_visible(books.service)

    report = {"audit": audit.run(books.service.tasks())}

    assert report["audit"]["sealed"] == 12
