"""Models whose next answers are given in Python, and a worker that calls them."""

import json
from collections import defaultdict, deque
from collections.abc import Callable
from threading import Lock
from typing import Any
from uuid import UUID

from sluice.backends.protocol import ModelError
from sluice.domain.requests import Claim, Completion
from sluice.messaging import Delivery
from sluice.services.process import BatchReport, Worker, WorkerSettings
from tests.support.ledger import SMALL
from tests.support.service import Service

SETTINGS = WorkerSettings(max_result_bytes=10_000, flush_seconds=0.05, retry_base_seconds=1, lease_margin_seconds=30)
Step = str | Completion | ModelError | Callable[[Claim], Completion]


class Models:
    """A backend. Each model does what its script says, and then what it usually does: it answers `MODEL: PROMPT`.

    A text in a script is an answer of 7 + 3 tokens; an error is raised.

    Attributes:
        calls: the claims with which it was called, in order.
        always: what a model does without a script.
    """

    def __init__(self) -> None:
        self.calls: list[Claim] = []
        self.always: dict[str, Step] = {}
        self._scripts: defaultdict[str, deque[Step]] = defaultdict(deque)
        self._lock = Lock()

    def script(self, model_id: str, *steps: Step) -> None:
        """What a model does with its next calls."""
        self._scripts[model_id] += steps

    def complete(self, claim: Claim, timeout: float) -> Completion:
        """As a backend."""
        with self._lock:
            self.calls.append(claim)
            script = self._scripts[claim.model_id]
            step = (
                script.popleft()
                if script
                else self.always.get(claim.model_id, f"{claim.model_id}: {claim.input.messages[0].text}")
            )
        if isinstance(step, ModelError):
            raise step
        if isinstance(step, Completion):
            return step
        return Completion.of_text(step, 7, 3, "stop") if isinstance(step, str) else step(claim)

    def called(self) -> list[str]:
        """The models in the order in which they were called since the last look."""
        names, self.calls = [claim.model_id for claim in self.calls], []
        return names


def add_models(service: Service, *names: str, **changes: Any) -> None:
    """Models with an overhead of 10 and max_tokens of 16; the first one is the default."""
    for name in names:
        service.act("model.set", **SMALL | {"model_id": name, "is_default": name == names[0]} | changes)


def worker_of(service: Service, models: Models, remaining_seconds: float = 60.0) -> Worker:
    """A worker that calls these models."""
    return Worker(
        ledger=service.ledger("worker"),
        queue=service.queue,
        backends={"bedrock": models},
        settings=SETTINGS,
        remaining_seconds=lambda: remaining_seconds,
    )


def work(service: Service, models: Models, *ids: UUID, now: bool = True) -> BatchReport:
    """One batch.

    Args:
        ids: of these requests; none given: of all messages in the queue.
        now: as if the pauses of these requests were over.
    """
    if now:
        service.owner.execute("UPDATE inflight SET not_before = NULL")
    wanted = list(ids) or service.queue.take()
    deliveries = [Delivery(str(n), json.dumps({"request_id": str(each)})) for n, each in enumerate(wanted)]
    return worker_of(service, models).work(deliveries)


def charges(service: Service, request_id: UUID) -> Any:
    """requests.charges of a request."""
    return service.value("SELECT charges FROM requests_all WHERE request_id = %s", request_id)
