"""Webhooks for operators: what they see and do, and that it is audited."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.deliveries import add_endpoint, deliver
from tests.support.functions import administer
from tests.support.receiver import Receiver, receiving
from tests.support.service import Service, completed

Run = Callable[..., Any]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def endpoint(service: Service, alice: bytes, receiver: Receiver) -> dict[str, Any]:
    made = add_endpoint(service, alice, f"{receiver.url}/hooks")
    one = service.submit(alice)
    service.claim(one)
    service.settle(completed(one))
    return made


def test_endpoints_and_deliveries_are_listed_without_secrets(
    service: Service, admin: Run, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    receiver.answers(503)
    deliver(service)
    (listed,) = admin("webhook.list", user_id="alice")
    assert listed["endpoint_id"] == "we_" + endpoint["endpoint_id"].replace("-", "")
    assert (listed["url"], listed["failures"], listed["disabled_at"]) == (endpoint["url"], 1, None)
    (event,) = admin("webhook.deliveries", user_id="alice")
    assert (event["state"], event["status_code"], event["last_cause"]) == ("pending", 503, "status")
    assert event["endpoint_id"] == listed["endpoint_id"]
    assert event["deliveries"][0]["attempt"] == 1
    assert admin("webhook.deliveries", user_id="alice", state="dead") == []
    assert endpoint["secret"] not in str([listed, event])
    assert not {"secret", "old_secret"} & set(listed)


def test_an_endpoint_is_disabled_enabled_and_deleted(
    service: Service, admin: Run, receiver: Receiver, endpoint: dict[str, Any]
) -> None:
    name = admin("webhook.list", user_id="alice")[0]["endpoint_id"]
    assert admin("webhook.disable", endpoint_id=name)["disabled_reason"] == "operator"
    assert deliver(service).counts == {}
    (event,) = admin("webhook.deliveries", user_id="alice", state="dead")
    refused = administer("webhook.redeliver", event_id=event["event_id"])
    assert refused["problem"]["code"] == "webhook_endpoint_disabled"
    assert admin("webhook.enable", endpoint_id=name)["disabled_at"] is None
    assert admin("webhook.redeliver", event_id=event["event_id"])["state"] == "pending"
    assert deliver(service).counts == {"delivered": 1}
    assert receiver.ids() == [event["event_id"]]
    admin("webhook.delete", endpoint_id=name)
    assert admin("webhook.list", user_id="alice") == []
    assert service.value("SELECT has_webhooks FROM quota_plans WHERE user_id = 'alice'") is False
    assert (
        administer("webhook.redeliver", event_id=event["event_id"])["problem"]["code"] == "webhook_endpoint_not_found"
    )
    audited = service.rows(
        "SELECT action, actor, user_id FROM audit_log WHERE action LIKE 'webhook.%%' ORDER BY audit_id"
    )
    assert [row["action"] for row in audited] == [
        "webhook.created",
        "webhook.disabled",
        "webhook.enabled",
        "webhook.redelivered",
        "webhook.deleted",
    ]
    assert {(row["actor"], row["user_id"]) for row in audited[1:]} == {("admin", "alice")}
