"""Verification: the invariants of the ledger (sql/functions/ledger), and the audit log against its hash chain."""

import logging
from typing import Any, Final

from sluice.db.maintenance import Maintenance

logger = logging.getLogger(__name__)

# Batches of the chain that one statement compares: at most 10,000 rows each.
CHAIN_STEP: Final = 20


def verify(maintenance: Maintenance, *, full: bool = False, head: str | None = None) -> dict[str, Any]:
    """Check the running periods and what has changed since the last check that found nothing; or everything.

    Args:
        full: everything, at a cost that grows with it.
        head: a head of the audit log's chain that was noted once ("number:hash"): it must still be there.

    Returns:
        balanced: nothing was found; full: everything was looked at (also where too much had changed); checked: how much
        that was; violations: each with invariant, user_id, request_id, period, expected, actual; audit: batches and
        rows compared, the chain's head, and the first problem or None.

    Raises:
        SluiceError: database_unavailable.
    """
    last_clean = maintenance.verified_to()
    ledger = maintenance.verify_ledger(full=full)
    audit = _verify_audit(maintenance, 0 if full else last_clean, head)
    balanced = not ledger.violations and audit["problem"] is None
    if balanced:
        maintenance.note_verified(ledger.seen_to)
    else:
        # Until the problem is solved, every check begins where this one began, and reports it again.
        found = {violation["invariant"] for violation in ledger.violations}
        logger.error("books do not balance", extra={"invariants": sorted(found), "audit_problem": audit["problem"]})
    return {
        "balanced": balanced,
        "full": ledger.is_full,
        "checked": ledger.checked,
        "violations": ledger.violations,
        "audit": audit,
    }


def _verify_audit(maintenance: Maintenance, since_xact: int, head: str | None) -> dict[str, Any]:
    batches, rows, problem = 0, 0, None
    after: int | None = maintenance.audit_chain_since(since_xact)
    while problem is None and after is not None:
        step = maintenance.verify_audit(after, CHAIN_STEP)
        batches += step.batches
        rows += step.row_count
        if step.kind is not None:
            problem = _problem(step.kind, step.audit_id, step.batch_no)
        elif step.batches < CHAIN_STEP:
            break
        after = step.last_batch
    if problem is None and head is not None:
        number, _, digest = head.partition(":")
        if not maintenance.audit_chain_has(int(number), digest):
            problem = _problem("head", None, int(number))
    return {"batches": batches, "rows": rows, "head": maintenance.audit_head(), "problem": problem}


def _problem(kind: str, audit_id: Any, batch_no: int | None) -> dict[str, Any]:
    details = {
        "altered": "This row of the audit log is not what was sealed.",
        "missing": "This row of the audit log was sealed and is gone.",
        "inserted": "This row of the audit log was not there when rows of its time were sealed.",
        "chain": "This batch of the chain was altered, or the one before it is gone.",
        "head": "This head is not in the chain: it is of another database, or the chain was rewritten.",
    }
    return {
        "kind": kind,
        "audit_id": None if audit_id is None else str(audit_id),
        "batch_no": batch_no,
        "detail": details[kind],
    }
