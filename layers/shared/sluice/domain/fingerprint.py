"""Digests of what was asked: for idempotency keys, and to recognise equal questions."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sluice.domain.documents import Input
from sluice.domain.requests import Claim, Submission


def submission_digest(submission: Submission) -> bytes:
    """SHA-256 of what a submission means, so that another spelling of the same JSON is the same submission.

    Fields that are not given are left out: a repeat may meet a newer version, with more fields, than the first.
    """
    return _sha256({name: value for name, value in submission.to_json().items() if name != "idempotency_key"})


def question_digest(asked: Input, parameters: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of an input and its parameters, but for max_tokens, for which models have a default."""
    chosen = {name: value for name, value in parameters.items() if name != "max_tokens"}
    return _sha256([chosen, asked.to_json()]).hex()


def question_fingerprint(claim: Claim) -> str:
    """SHA-256, in hexadecimal, of a question: equal where user, model, parameters and input are.

    question_fingerprint() in the database makes the same of a submission.
    """
    parts = (
        claim.user_id,
        claim.model_id,
        str(claim.parameters.get("max_tokens", 0)),
        question_digest(claim.input, claim.parameters),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sha256(content: Any) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
