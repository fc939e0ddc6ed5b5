"""Webhooks delivered as the functions do it, without another function."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sluice.db.webhooks import Webhooks
from sluice.posting import post
from sluice.services.deliver import Deliverer, DeliveryReport
from tests.support.receiver import SECONDS
from tests.support.service import Service


def deliver(service: Service, *, seconds: float = SECONDS) -> DeliveryReport:
    """What the functions webhooks and deliver do, once."""

    def send(webhook: Mapping[str, Any]) -> Mapping[str, Any]:
        sent = post(webhook["url"], webhook["headers"], webhook["body"], loopback=True, seconds=seconds)
        answer: Mapping[str, Any] = json.loads(json.dumps(sent.to_json()))
        return answer

    return Deliverer(Webhooks(service.kept("webhooks")), send, lambda: 1000.0).run()


def add_endpoint(
    service: Service,
    key_hash: bytes,
    url: str,
    event_types: Sequence[str] = (
        "response.completed",
        "response.failed",
        "response.cancelled",
        "response.incomplete",
    ),
) -> dict[str, Any]:
    """An endpoint of the key's user, with its secret."""
    made = Webhooks(service.kept("openai")).manage(
        key_hash, "create", url=url, name="test", event_types=list(event_types)
    )
    assert made.outcome == "ok"
    endpoint: dict[str, Any] = made.value
    return endpoint
