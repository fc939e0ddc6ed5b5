"""What a client reads: one request, the recent ones, the models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from uuid import UUID

from sluice.db.ledger import Ledger
from sluice.domain.errors import SluiceError
from sluice.domain.history import HistoryQuery
from sluice.domain.objects import StoredObject
from sluice.domain.requests import ModelOffer, RequestDetail, RequestState, RequestSummary, StoredResult
from sluice.services.access import refuse_unless_allowed

if TYPE_CHECKING:
    from sluice.services.inputs import InputKeeper
    from sluice.storage import Storage

T = TypeVar("T")

# As long as most requests take at least.
_POLL_SECONDS: Final = 1


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list.

    Attributes:
        has_next: there is more after it.
    """

    items: Sequence[T]
    has_next: bool


@dataclass(frozen=True)
class History:
    """A page of a user's requests, newest first.

    Attributes:
        next_cursor: where the next page begins; None on the last one. A page with one may be short, or empty: so many
            requests are looked through for a page, and no more.
    """

    requests: Sequence[RequestSummary]
    next_cursor: UUID | None


def read_page(read: Callable[[int], Sequence[T]], size: int) -> Page[T]:
    """Read a page, and one row more, which tells whether there is a next page.

    Args:
        read: returns at most so many rows.
    """
    rows = read(size + 1)
    return Page(rows[:size], len(rows) > size)


@dataclass(frozen=True)
class Reader:
    """Reads for the user of a key.

    Attributes:
        storage: asked for when an answer is there; None: there is none.
        inputs: reads large ones; None: there are none.
    """

    ledger: Ledger
    storage: Callable[[], "Storage"] | None = None
    inputs: "InputKeeper | None" = None

    def request(self, key_hash: bytes, request_id: UUID | None) -> RequestState:
        """One request of the caller.

        Args:
            request_id: None if what the caller gave is not an id; the key is checked all the same.

        Raises:
            SluiceError: request_not_found, also for another user's; what key_check finds; database_unavailable.
        """
        state = self.ledger.show(key_hash, request_id)
        refuse_unless_allowed(state.outcome)
        if request_id is None:
            raise SluiceError("request_not_found", "What the path names is no id: a UUID in lower case, with hyphens.")
        if state.outcome == "request_not_found":
            raise SluiceError("request_not_found", "You have no request with this id.")
        return state

    def detail(self, key_hash: bytes, request_id: UUID | None) -> RequestDetail:
        """One request of the caller, with what was asked.

        Args:
            request_id: as in request().

        Raises:
            SluiceError: request_not_found, also for another user's and an erased one; what key_check finds;
                database_unavailable.
        """
        found = self.ledger.detail(key_hash, request_id)
        refuse_unless_allowed(found.outcome)
        if found.outcome == "request_not_found":
            raise SluiceError("request_not_found", "You have no request with this id.")
        if found.input.stored is None:
            return found
        if self.inputs is None:
            raise SluiceError("storage_unavailable", "The input is in a bucket that this deployment does not know.")
        return replace(found, input=self.inputs.whole(found.input))

    def result(self, key_hash: bytes, request_id: UUID | None) -> StoredResult:
        """The answer of one request of the caller by itself.

        Args:
            request_id: as in request().

        Raises:
            SluiceError: request_not_found, also for another user's; result_not_ready, it is unfinished;
                result_not_found, it ended without an answer or was erased; what key_check finds; database_unavailable.
        """
        found = self.ledger.result(key_hash, request_id)
        refuse_unless_allowed(found.outcome)
        match found.outcome:
            case "request_not_found":
                raise SluiceError("request_not_found", "You have no request with this id.")
            case "result_not_ready":
                raise SluiceError(
                    "result_not_ready", "The request is unfinished: ask again later.", retry_after=_POLL_SECONDS
                )
            case "result_not_found":
                raise SluiceError("result_not_found", "The request ended without an answer, or its answer was erased.")
        return found

    def address(self, stored: StoredObject, filename: str) -> str:
        """Where whoever may read an answer can fetch it for some minutes, as a download with this name.

        Raises:
            SluiceError: storage_unavailable, also if this deployment has none any more.
        """
        if self.storage is None:
            raise SluiceError("storage_unavailable", "The answer is in a bucket that this deployment does not know.")
        return self.storage().address(stored, filename)

    def history(self, key_hash: bytes, query: HistoryQuery) -> History:
        """A page of those of the caller's requests that a query asks for.

        Raises:
            SluiceError: what key_check finds; database_unavailable.
        """
        *rows, end = self.ledger.history(key_hash, query)
        if end.outcome not in ("end", "more"):
            refuse_unless_allowed(end.outcome)
        return History(rows, end.request_id if end.outcome == "more" else None)

    def models(self, key_hash: bytes) -> Sequence[ModelOffer]:
        """The models that the caller may name.

        Raises:
            SluiceError: what key_check finds; database_unavailable.
        """
        rows = self.ledger.models(key_hash)
        if rows:
            refuse_unless_allowed(rows[0].outcome)
        return rows

    def database_answers(self) -> bool:
        """Return True if the database answers."""
        try:
            self.ledger.ping()
        except SluiceError:
            return False
        return True
