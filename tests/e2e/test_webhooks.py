"""Webhooks on the deployed stack: OpenAI's clients manage the endpoints, and accept what is sent to them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.processes import wait_until
from local.stack import Stack
from tests.support.openai_clients import OpenAI, SdkError
from tests.support.receiver import Received, Receiver, receiving

from .conftest import Client
from .test_ledger import sluice
from .test_openai_clients import ended, says

__all__ = ["sluice"]  # a fixture

ENDS = {
    "response": ("completed", "failed", "cancelled", "incomplete"),
    "batch": ("completed", "failed", "expired", "cancelled"),
}
TYPES = [f"{subject}.{end}" for subject, ends in ENDS.items() for end in ends]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def manager(request: pytest.FixtureRequest, client_processes: Any, stack: Stack) -> Iterator[OpenAI]:
    """The demo user with the major that manages endpoints."""
    info = stack.info
    client = OpenAI(client_processes[3], info.api_url, info.api_key, asynchronous=request.param == "async")
    yield client
    for endpoint in client("webhooks.list"):
        client("webhooks.delete", webhook_endpoint_id=endpoint["id"])


def endpoint(manager: OpenAI, url: str, event_types: list[str] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = manager("webhooks.create", name="jobs", url=url, event_types=event_types or TYPES)
    return made


def called(receiver: Receiver, wanted: Callable[[Received], bool], seconds: float = 30) -> Received:
    assert wait_until(lambda: any(map(wanted, receiver.received)), seconds), receiver.received
    return next(filter(wanted, receiver.received))


def about(name: str) -> Callable[[Received], bool]:
    return lambda call: bool(call.event["data"]["id"] == name)


def test_endpoints_are_managed_by_the_client(manager: OpenAI, receiver: Receiver) -> None:
    made = endpoint(manager, f"{receiver.url}/hooks")
    secret = made.pop("signing_secret")
    assert secret.startswith("whsec_")
    shown = manager("webhooks.retrieve", webhook_endpoint_id=made["id"])
    assert shown == made
    assert shown in manager("webhooks.list", limit=1)
    assert manager("webhooks.event_types.list")["data"] == TYPES
    changed = manager("webhooks.update", webhook_endpoint_id=made["id"], name="other", event_types=TYPES[:1])
    assert (changed["name"], changed["event_types"], changed["url"]) == ("other", TYPES[:1], made["url"])
    rotated = manager(
        "webhooks.rotate_secret", webhook_endpoint_id=made["id"], keep_old_secret_active_for_24_hours=True
    )
    told = manager("webhooks.test", webhook_endpoint_id=made["id"], event_type="response.completed")
    assert (told["status_code"], told["success"]) == (200, True)
    (call,) = receiver.received
    for each in (secret, rotated["signing_secret"]):
        accepted = manager("webhooks.unwrap", payload=call.body, headers=dict(call.headers), secret=each)
        assert accepted["type"] == "response.completed"
    deleted = manager("webhooks.delete", webhook_endpoint_id=made["id"])
    assert deleted["deleted"] is True
    with pytest.raises(SdkError) as gone:
        manager("webhooks.retrieve", webhook_endpoint_id=made["id"])
    assert gone.value.status == 404


def test_an_url_that_leads_inside_is_refused(manager: OpenAI) -> None:
    for url in ("https://10.0.0.1/", "http://example.com/", "https://169.254.169.254/"):
        with pytest.raises(SdkError) as refused:
            endpoint(manager, url)
        assert (refused.value.status, refused.value.param) == (400, "url")


def test_every_delivery_is_accepted_by_every_client(openai: OpenAI, manager: OpenAI, receiver: Receiver) -> None:
    made = endpoint(manager, f"{receiver.url}/hooks")
    answered = openai("responses.create", model="scripted", input=says("yes"), background=True)
    assert ended(openai, answered)["status"] == "completed"
    chat = openai("chat.completions.create", model="scripted", messages=[{"role": "user", "content": says("yes")}])
    failed = openai("responses.create", model="scripted", input=says("no", status=400), background=True)
    assert ended(openai, failed)["status"] == "failed"
    for name, kind in ((answered["id"], "completed"), (chat["id"], "completed"), (failed["id"], "failed")):
        call = called(receiver, about(name))
        accepted = openai(
            "webhooks.unwrap", payload=call.body, headers=dict(call.headers), secret=made["signing_secret"]
        )
        assert (accepted["type"], accepted["data"]["id"]) == (f"response.{kind}", name)
        with pytest.raises(SdkError):
            openai(
                "webhooks.unwrap", payload=call.body + " ", headers=dict(call.headers), secret=made["signing_secret"]
            )


def test_a_native_request_is_told_by_its_own_id_and_again_until_it_arrives(
    stack: Stack, manager: OpenAI, client: Client, receiver: Receiver
) -> None:
    made = endpoint(manager, f"{receiver.url}/hooks")
    receiver.answers(500, 200)
    request_id = client.submit(says("yes"), model="scripted")
    assert client.wait(request_id)["status"] == "completed"

    def delivered() -> bool:
        # The recovery task wakes up who delivers, each minute; here it is run at once.
        stack.invoke("rollup", {"tasks": ["recover"]})
        return bool(listed()["state"] == "delivered")

    def listed() -> dict[str, Any]:
        (event,) = client.get(f"/v1/webhook_deliveries?webhook_endpoint_id={made['id']}").body["data"]
        found: dict[str, Any] = event
        return found

    assert wait_until(delivered, 60)
    assert [each["status_code"] for each in listed()["attempts"]] == [500, 200]
    assert receiver.ids() == [listed()["id"]] * 2
    assert about(request_id)(receiver.received[-1])


def test_a_webhook_of_a_request(client: Client, receiver: Receiver) -> None:
    url = f"{receiver.url}/mine"
    request_id = client.submit(says("yes"), model="scripted", webhook=url)
    assert client.wait(request_id)["status"] == "completed"
    assert called(receiver, about(request_id)).path == "/mine"
    refused = client.generate("hello", webhook="https://10.0.0.1/")
    assert (refused.status, refused.body["code"]) == (422, "invalid_input")


def test_what_ends_without_a_worker_is_told_by_the_recovery_task(
    stack: Stack, manager: OpenAI, client: Client, receiver: Receiver
) -> None:
    endpoint(manager, f"{receiver.url}/hooks")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    request_id = client.submit("hello", model="scripted", not_before=later)
    assert client.call("POST", f"/requests/{request_id}/cancel").status == 200
    stack.invoke("rollup", {"tasks": ["recover"]})
    assert called(receiver, about(request_id)).event["type"] == "response.cancelled"


def test_an_operator_sees_what_was_sent_and_sends_it_again(
    stack: Stack, sluice: Callable[..., Any], manager: OpenAI, client: Client, receiver: Receiver
) -> None:
    made = endpoint(manager, f"{receiver.url}/hooks")
    receiver.answers(410)
    request_id = client.submit(says("yes"), model="scripted")
    assert client.wait(request_id)["status"] == "completed"
    called(receiver, about(request_id))
    user = stack.info.user_id

    def dead() -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = sluice("webhooks", "deliveries", user, "--status", "dead")
        return [each for each in listed if each["data_id"] == request_id]

    assert wait_until(lambda: bool(dead()), 30)
    (event,) = dead()
    assert (event["status_code"], event["last_cause"], event["endpoint_id"]) == (410, "gone", made["id"])
    (listed,) = (each for each in sluice("webhooks", "list", user) if each["endpoint_id"] == made["id"])
    assert listed["disabled_reason"] == "gone"
    refused = sluice("webhooks", "redeliver", event["event_id"], check=False)
    assert refused.returncode != 0
    assert len(refused.stderr.strip().splitlines()) == 1
    sluice("webhooks", "enable", made["id"])
    receiver.answers(200)
    sluice("webhooks", "redeliver", event["event_id"])
    stack.invoke("rollup", {"tasks": ["recover"]})
    assert wait_until(lambda: receiver.ids() == [event["event_id"]] * 2, 30)
