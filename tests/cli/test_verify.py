"""The result of verify as text, as JSON and as an exit code."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Deployment, fields, lines

BALANCED: dict[str, Any] = {
    "balanced": True,
    "full": False,
    "checked": {"usage_matches_requests": 12},
    "violations": [],
    "audit": {"batches": 3, "rows": 40, "head": "3:" + "ab" * 32, "problem": None},
}


def test_verify_succeeds_if_the_books_balance(deployment: Deployment) -> None:
    done = deployment.run("verify", answers=BALANCED)
    assert done.exit_code == 0
    head, checked = done.stdout.split("\n\n")
    assert fields(head) == {
        "balanced": "yes",
        "full": "no",
        "audit_batches": "3",
        "audit_rows": "40",
        "audit_head": "3:" + "ab" * 32,
    }
    assert lines(checked)[1] == ["usage_matches_requests", "12"]
    assert done.stderr == "The books balance.\n"


VIOLATION = {
    "invariant": "usage_matches_requests",
    "user_id": "alice",
    "request_id": None,
    "period": "monthly",
    "expected": 10,
    "actual": 9,
}
CHAIN = {"kind": "missing", "audit_id": "an-id", "batch_no": 2, "detail": "A row is gone."}


def test_verify_fails_if_the_books_do_not_balance(deployment: Deployment) -> None:
    result = BALANCED | {"balanced": False, "violations": [VIOLATION]}
    done = deployment.run("verify", answers=result)
    assert done.exit_code == 1
    assert lines(done.stdout)[-1] == ["usage_matches_requests", "alice", "-", "monthly", "10", "9"]
    assert done.stderr == "sluice: The books do not balance: there are violations of usage_matches_requests.\n"

    done = deployment.run("verify", "--json", answers=result)
    assert done.exit_code == 1
    assert json.loads(done.stdout) == result
    assert json.loads(done.stderr)["code"] == "unbalanced"


def test_rollup_fails_if_verify_does(deployment: Deployment) -> None:
    found = BALANCED | {"balanced": False, "violations": [VIOLATION]}
    done = deployment.run("rollup", "usage", "verify", answers={"usage": {"changed": 1}, "verify": found})
    assert done.exit_code == 1
    assert ["usage", "changed", "1"] in lines(done.stdout)
    assert "violations of usage_matches_requests" in done.stderr
    assert deployment.run("rollup", "verify", answers={"verify": BALANCED}).exit_code == 0


@pytest.mark.parametrize("balanced", [True, False])
def test_verify_fails_if_the_audit_log_is_not_intact(deployment: Deployment, balanced: bool) -> None:
    audit = {**BALANCED["audit"], "problem": CHAIN}
    done = deployment.run("verify", answers=BALANCED | {"balanced": balanced, "audit": audit})
    assert done.exit_code == 1
    assert fields(done.stdout)["audit_problem"] == "missing"
    assert done.stderr == "sluice: The audit log is not intact: missing (batch 2, entry an-id): A row is gone.\n"
