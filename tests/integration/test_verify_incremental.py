"""Incremental verification of the ledger, and its watermark."""

import psycopg
from psycopg.types.json import Jsonb

from tests.support.books import Books
from tests.support.ledger import (
    seal,
    wait_until_visible,
)
from tests.support.service import completed


def watermark(books: Books) -> int:
    xact_id: int = books.service.value("SELECT xact_id FROM rollup_watermarks WHERE task = 'verify'")
    return xact_id


def test_a_changed_request_of_an_earlier_day_is_verified_once(books: Books) -> None:
    books.service.settle(completed(books.ids["forgotten"]))
    tokens = "UPDATE requests SET prompt_tokens = prompt_tokens + 1, total_tokens = total_tokens + 1 WHERE request_id = %(forgotten)s"
    books.run(tokens)
    wrong_tokens = {
        ("request_settled_once", "bob", "forgotten", None),
        ("usage_is_the_sum", "bob", None, "2031-01-31 nova-micro"),
    }
    assert books.found(every=False) == books.found() == wrong_tokens
    books.run(tokens.replace("+", "-"))
    wait_until_visible(books.service)
    assert books.verify()["balanced"]

    books.run(tokens)

    assert books.found(every=False) == set(), "by the audit log, it has not changed since the last check"
    assert books.found() == wrong_tokens


def test_the_watermark_moves_only_if_the_books_balance(books: Books) -> None:
    first = watermark(books)
    assert books.verify()["balanced"]
    second = watermark(books)
    assert second > first

    books.service.settle(completed(books.ids["running"]))
    books.run("UPDATE quotas SET tokens_used = tokens_used + 1 WHERE user_id = 'bob' AND quota_period = 'daily'")
    for full in (False, True):
        report = books.verify(full=full)
        assert (report["balanced"], report["full"], report["audit"]["problem"]) == (False, full, None)
        assert {v["invariant"] for v in report["violations"]} == {"quota_used_is_the_sum"}
        assert watermark(books) == second

    books.run("UPDATE quotas SET tokens_used = tokens_used - 1 WHERE user_id = 'bob' AND quota_period = 'daily'")
    assert books.verify()["balanced"]
    assert watermark(books) > second


def test_the_watermark_stays_if_the_audit_log_is_wrong(books: Books) -> None:
    before = watermark(books)
    books.run("UPDATE audit_log SET actor = 'nobody' WHERE request_id = %(today)s AND action = 'request.queued'")

    report = books.verify()

    assert (report["balanced"], report["violations"], report["audit"]["problem"]["kind"]) == (False, [], "altered")
    assert watermark(books) == before


def test_an_incremental_check_starts_at_new_batches(books: Books) -> None:
    batches = books.verify(full=True)["audit"]["batches"]
    assert batches == 3
    books.answer("another", "alice")
    seal(books.service)

    assert books.verify()["audit"]["batches"] == 1
    assert books.verify(full=True)["audit"]["batches"] == 4


def test_a_commit_after_a_check_is_in_the_next_check(books: Books) -> None:
    with psycopg.connect(books.service.dsn) as slow:
        slow.execute("SELECT request_settle(%s, 'worker')", (Jsonb([completed(books.ids["forgotten"])]),))
        books.answer("meanwhile", "alice")
        assert books.verify()["balanced"]
        slow.commit()
    books.run("DELETE FROM results WHERE request_id = %(forgotten)s")

    assert books.found(every=False) == {("result_is_kept", "bob", "forgotten", None)}
