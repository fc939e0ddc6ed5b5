"""Delivering webhooks: events that are due are claimed, sent by a function that can reach nothing else, and settled."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final

from sluice.db.webhooks import Webhooks
from sluice.domain.errors import SluiceError
from sluice.domain.webhooks import WebhookClaim, WebhookOutcome, message, message_id, outcome_of
from sluice.handover import BrokenOffError, NotStartedError

logger = logging.getLogger(__name__)

AT_ONCE: Final = 10
"""Events that one invocation has sent at a time."""
SEND_SECONDS: Final = 25.0
"""The longest that having one sent takes."""
LEASE_SECONDS: Final = 60.0
# To settle what was sent last.
_MARGIN_SECONDS: Final = 5.0
# Before another attempt at an event that could not be handed over.
_NOT_STARTED_SECONDS: Final = 5.0

Send = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Has {url, headers, body} sent; returns what sluice.posting says, or None if it was not done in time."""


@dataclass
class DeliveryReport:
    """What an invocation did.

    Attributes:
        counts: attempts by what became of their events: delivered, pending (to be tried again), dead, superseded.
        is_more: events may be due that it had no time for.
        next_seconds: until the first of those is due that are to be tried again; None: there are none.
    """

    counts: Counter[str] = field(default_factory=Counter)
    is_more: bool = False
    next_seconds: float | None = None


class Deliverer:
    """Delivers what is due, for as long as an invocation lasts.

    Args:
        remaining_seconds: how long this invocation still has.
    """

    def __init__(self, webhooks: Webhooks, send: Send, remaining_seconds: Callable[[], float]) -> None:
        self._webhooks = webhooks
        self._send = send
        self._remaining = remaining_seconds

    def run(self) -> DeliveryReport:
        """Deliver until nothing is due, or the time is up; raises nothing.

        An event that could not be settled is sent again when its lease ends.
        """
        report = DeliveryReport()
        pending: set[Future[WebhookOutcome]] = set()
        is_open = True
        with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="webhook") as executor:
            while True:
                if is_open and self._remaining() < SEND_SECONDS + _MARGIN_SECONDS:
                    report.is_more, is_open = True, False
                claims = self._claim(AT_ONCE - len(pending)) if is_open else []
                if claims is None:
                    is_open, claims = False, []
                pending |= {executor.submit(self.attempt, claim) for claim in claims}
                if not pending:
                    return report
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                self._settle([each.result() for each in done], report)

    def attempt(self, claim: WebhookClaim) -> WebhookOutcome:
        """Have one event sent; raises nothing."""
        headers, body = message(claim)
        try:
            answer = self._send({"url": claim.url, "headers": headers, "body": body})
        except NotStartedError:
            answer = {"cause": "released", "retry_after": _NOT_STARTED_SECONDS}
        except BrokenOffError:
            answer = None
        return outcome_of(claim, {"cause": "timeout"} if answer is None else answer)

    def _claim(self, limit: int) -> list[WebhookClaim] | None:
        if limit <= 0:
            return []
        try:
            return self._webhooks.claim(limit, LEASE_SECONDS)
        except SluiceError as error:
            logger.warning("webhooks not claimed", extra={"code": error.code})
            return None

    def _settle(self, outcomes: list[WebhookOutcome], report: DeliveryReport) -> None:
        try:
            settled = {each.event_id: each for each in self._webhooks.settle(outcomes)}
        except SluiceError as error:
            logger.warning("webhooks not settled", extra={"code": error.code, "events": len(outcomes)})
            return
        report.counts.update(each.state for each in settled.values())
        delays = [each.delay_seconds for each in settled.values() if each.delay_seconds is not None]
        if delays:
            report.next_seconds = min(*delays, report.next_seconds or delays[0])
        for outcome in outcomes:
            logger.info(
                "webhook attempted",
                extra={
                    "event": message_id(outcome.event_id),
                    "attempt": outcome.attempt,
                    "status_code": outcome.status_code,
                    "cause": outcome.cause,
                    "latency_ms": outcome.latency_ms,
                    "state": settled[outcome.event_id].state,
                },
            )
