"""Managing webhooks: what their users do through the API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sluice.db.webhooks import Webhooks
from sluice.domain.errors import SluiceError
from sluice.domain.webhooks import WebhookClaim, WebhookOutcome
from sluice.messaging import Waker
from sluice.services.access import refuse_unless_allowed
from sluice.services.deliver import LEASE_SECONDS, Deliverer, Send
from sluice.services.submit import check_webhook_url

_NO_ENDPOINT = "You have no webhook endpoint with this id."
_NO_EVENT = "You have no webhook event with this id."


@dataclass(frozen=True)
class WebhookManager:
    """Does what a caller wants done about webhooks.

    Attributes:
        sender: makes what has one webhook sent, for tests.
        queue: is woken up when an event is to be sent again; None: nobody is, and it is sent within a minute.
        loopback: URLs of this machine are allowed, as on the local stack.
    """

    webhooks: Webhooks
    sender: Callable[[], Send]
    queue: Waker | None
    loopback: bool

    def endpoint(self, key_hash: bytes, act: str, endpoint_id: UUID | None, **arguments: Any) -> dict[str, Any]:
        """Do something about one endpoint: show, update, enable, disable, delete, rotate.

        Args:
            endpoint_id: None if what the caller gave is not an id; the key is checked all the same.
            arguments: of update: url, name, event_types; of rotate: keep_old.

        Returns:
            the endpoint, with its secret where that is new.

        Raises:
            SluiceError: webhook_endpoint_not_found, also for another user's; invalid_input: the URL; what key_check
                finds; database_unavailable.
        """
        self._check_url(arguments.get("url"))
        return self._act(key_hash, act, endpoint_id=None if endpoint_id is None else str(endpoint_id), **arguments)

    def create(self, key_hash: bytes, url: str, name: str, event_types: list[str]) -> dict[str, Any]:
        """Make an endpoint; the only answer with its secret until that is rotated.

        Raises:
            SluiceError: as endpoint(); webhook_endpoints_exceeded.
        """
        self._check_url(url)
        return self._act(key_hash, "create", url=url, name=name, event_types=event_types)

    def page(self, key_hash: bytes, act: str, limit: int, **wanted: str | None) -> list[dict[str, Any]]:
        """A page, newest first, and one more if there is more: list (endpoints) or events.

        Args:
            wanted: after (an id); of events also endpoint_id and state.
        """
        return list(self._done(key_hash, act, {"limit": limit + 1, **wanted}))

    def rotate_own(self, key_hash: bytes, *, keep_old: bool) -> dict[str, Any]:
        """A new secret for the events of requests that name an URL themselves."""
        return self._act(key_hash, "secret", keep_old=keep_old)

    def event(self, key_hash: bytes, event_id: UUID | None) -> dict[str, Any]:
        """An event with the attempts to deliver it.

        Raises:
            SluiceError: webhook_event_not_found, also for another user's.
        """
        return self._act(key_hash, "event", event_id=None if event_id is None else str(event_id))

    def redeliver(self, key_hash: bytes, event_id: UUID | None) -> dict[str, Any]:
        """Have an event sent again, whatever became of it.

        Raises:
            SluiceError: webhook_event_not_found; webhook_endpoint_not_found, webhook_endpoint_disabled.
        """
        event = self._act(key_hash, "redeliver", event_id=None if event_id is None else str(event_id))
        if self.queue is not None:
            self.queue.wake()
        return event

    def test(self, key_hash: bytes, endpoint_id: UUID | None, event_type: str) -> WebhookOutcome:
        """Send an event that is about nothing to an endpoint, once, and wait for the answer.

        Raises:
            SluiceError: webhook_endpoint_not_found; webhook_endpoint_busy; webhook_unanswered: no status came back.
        """
        begun = self.webhooks.test(key_hash, endpoint_id or UUID(int=0), event_type, LEASE_SECONDS)
        self._refuse(begun.outcome, {})
        claim = claim_of(begun.claim or {})
        # Its own time is longer than the longest that sending takes.
        outcome = Deliverer(self.webhooks, self.sender(), lambda: LEASE_SECONDS).attempt(claim)
        self.webhooks.settle([outcome])
        if outcome.status_code is None:
            raise SluiceError(
                "webhook_unanswered", f"No answer came from the endpoint: {outcome.cause}.", cause=outcome.cause
            )
        return outcome

    def _act(self, key_hash: bytes, act: str, **arguments: Any) -> dict[str, Any]:
        return dict(self._done(key_hash, act, arguments))

    def _done(self, key_hash: bytes, act: str, arguments: Mapping[str, Any]) -> Any:
        given = {name: value for name, value in arguments.items() if value is not None}
        answer = self.webhooks.manage(key_hash, act, **given)
        self._refuse(answer.outcome, answer.value or {})
        return answer.value

    def _check_url(self, url: str | None) -> None:
        if url is not None:
            check_webhook_url(url, "url", loopback=self.loopback)

    @staticmethod
    def _refuse(outcome: str, value: Any) -> None:
        refuse_unless_allowed(outcome)
        match outcome:
            case "webhook_endpoint_not_found":
                raise SluiceError(outcome, _NO_ENDPOINT)
            case "webhook_event_not_found":
                raise SluiceError(outcome, _NO_EVENT)
            case "webhook_endpoints_exceeded":
                raise SluiceError(outcome, f"You have {value['most']} webhook endpoints, and no more are allowed.")
            case "webhook_endpoint_disabled":
                raise SluiceError(outcome, "The webhook endpoint of this event is disabled. Enable it first.")
            case "webhook_endpoint_busy":
                raise SluiceError(outcome, "Too much is being sent to this endpoint right now.", retry_after=5)


def claim_of(row: Mapping[str, Any]) -> WebhookClaim:
    """A claim from its row as JSON."""
    return WebhookClaim(
        event_id=UUID(row["event_id"]),
        attempt=row["attempt"],
        endpoint_id=UUID(row["endpoint_id"]),
        url=row["url"],
        event_type=row["event_type"],
        data_id=row["data_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
        secret=row["secret"],
        old_secret=row["old_secret"],
        claimed_at=datetime.fromisoformat(row["claimed_at"]),
    )
