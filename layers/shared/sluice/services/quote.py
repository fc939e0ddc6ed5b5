"""Quotes: what a request would use and cost, whether it would be accepted now, and when it would be answered."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sluice.db.ledger import Ledger
from sluice.domain.errors import SluiceError
from sluice.domain.requests import QuotaCounter, RequestLimits, Submission
from sluice.services.submit import check_submission, refusal


@dataclass(frozen=True)
class Quote:
    """A quote.

    Attributes:
        quoted: as in Quotation.
        refusal: why it would be refused now; None: it would be accepted.
    """

    quoted: Mapping[str, Any]
    refusal: SluiceError | None


@dataclass(frozen=True)
class Quoter:
    """Makes quotes."""

    ledger: Ledger
    limits: RequestLimits

    def quote(self, key_hash: bytes, submission: Submission) -> Quote:
        """What would become of a submission, which is not accepted.

        Raises:
            SluiceError: it is refused before it is known what it would use; database_unavailable.
        """
        check_submission(submission, self.limits)
        asked = replace(submission, idempotency_key=None, repeat=None)
        quotation = self.ledger.quote(key_hash, asked, self.limits)
        if quotation.outcome == "accepted" and quotation.quoted is not None:
            return Quote(quotation.quoted, None)
        detail = quotation.detail or {}
        quotas = [QuotaCounter(**counter) for counter in detail.get("quotas", ())]
        refused = refusal(quotation.outcome, asked, detail, quotas)
        if quotation.quoted is None:
            raise refused
        return Quote(quotation.quoted, refused)
