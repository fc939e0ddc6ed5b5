"""Letting a user's answers be found again no longer."""

from dataclasses import dataclass

from sluice.db.ledger import Ledger
from sluice.services.access import refuse_unless_allowed


@dataclass(frozen=True)
class Purger:
    """Empties the answer caches of users, for themselves."""

    ledger: Ledger

    def purge(self, key_hash: bytes) -> int:
        """Forget all answers of the caller's requests; the requests keep them. Returns how many.

        Raises:
            SluiceError: what key_check finds; database_unavailable.
        """
        done = self.ledger.purge_cache(key_hash)
        refuse_unless_allowed(done.outcome)
        return done.forgotten or 0
