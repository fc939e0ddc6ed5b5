"""Proof that the books balance: sql/functions/92_invariants.sql, and the audit log against its chain of hashes."""

import logging
from typing import Any, Final

from sluice.db.connection import Database

logger = logging.getLogger(__name__)

# Batches of the chain that one statement compares: at most 10,000 rows each.
CHAIN_STEP: Final = 20


def verify(database: Database, *, full: bool = False, head: str | None = None) -> dict[str, Any]:
    """Check the running periods and what has changed since the last check that found nothing; or everything.

    Args:
        full: everything there is, at a cost that grows with it.
        head: a head of the audit log's chain that was noted once ("number:hash"): it must still be there.

    Returns:
        balanced: nothing was found; full: everything was looked at (also where too much had changed); checked: how much
        that was; violations: each with invariant, user_id, request_id, period, expected, actual; audit: batches and
        rows compared, the chain's head, and the first problem or None.

    Raises:
        SluiceError: database_unavailable.
    """
    last_clean = database.row("books_checked_to", repeatable=True)["xact_id"]
    books = database.row("books_check", {"every": full}, repeatable=True)
    audit = _verify_audit(database, 0 if full else last_clean, head)
    balanced = not books["violations"] and audit["problem"] is None
    if balanced:
        database.rows("books_checked", {"seen_to": books["seen_to"]}, repeatable=True)
    else:
        # Until they balance again, every check begins at the same place and finds the same.
        found = {violation["invariant"] for violation in books["violations"]}
        logger.error("books do not balance", extra={"invariants": sorted(found), "audit_problem": audit["problem"]})
    return {
        "balanced": balanced,
        "full": books["every"],
        "checked": books["checked"],
        "violations": books["violations"],
        "audit": audit,
    }


def _verify_audit(database: Database, since_xact: int, head: str | None) -> dict[str, Any]:
    batches, rows, problem = 0, 0, None
    after = database.row("audit_chain_since", {"xact_id": since_xact}, repeatable=True)["batch_no"]
    while problem is None:
        step = database.row("audit_verify", {"after_batch": after, "at_most": CHAIN_STEP}, repeatable=True)
        batches += step["batches"]
        rows += step["row_count"]
        if step["kind"] is not None:
            problem = _problem(step["kind"], step["audit_id"], step["batch_no"])
        elif step["batches"] < CHAIN_STEP:
            break
        after = step["last_batch"]
    if problem is None and head is not None:
        number, _, digest = head.partition(":")
        if not database.row("audit_chain_has", {"batch_no": int(number), "hash": digest}, repeatable=True)["known"]:
            problem = _problem("head", None, int(number))
    newest = database.row("audit_head", repeatable=True)["head"]
    return {"batches": batches, "rows": rows, "head": newest, "problem": problem}


def _problem(kind: str, audit_id: Any, batch_no: int | None) -> dict[str, Any]:
    details = {
        "altered": "This row of the audit log is not what was sealed.",
        "missing": "This row of the audit log was sealed and is gone.",
        "inserted": "This row of the audit log was not there when rows of its time were sealed.",
        "chain": "This batch of the chain was altered, or the one before it is gone.",
        "head": "This head is not in the chain: it is of another database, or the chain was written anew.",
    }
    return {
        "kind": kind,
        "audit_id": None if audit_id is None else str(audit_id),
        "batch_no": batch_no,
        "detail": details[kind],
    }
