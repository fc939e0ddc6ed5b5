"""Digests of what was asked: for idempotency keys, and to recognise equal questions."""

import hashlib
import json
from typing import Any

from sluice.domain.requests import Claim, Submission


def submission_digest(submission: Submission) -> bytes:
    """SHA-256 of what a submission means, so that another spelling of the same JSON is the same submission.

    Fields that are not given are left out: a repeat may meet a newer version, with more fields, than the first.
    """
    return _sha256({name: value for name, value in submission.to_json().items() if name != "idempotency_key"})


def question_fingerprint(claim: Claim) -> str:
    """SHA-256, in hexadecimal, of a question: equal where user, model, parameters and input are."""
    return _sha256([claim.user_id, claim.model_id, claim.parameters, claim.input.to_json()]).hex()


def _sha256(content: Any) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
