"""The routes under /v1/webhook_…: what users manage, and what is refused."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sluice import bootstrap
from sluice.db.webhooks import Webhooks
from sluice.domain.keys import digest
from sluice.domain.webhooks import EVENT_TYPES, signature
from sluice.services.deliver import Deliverer
from tests.support.functions import Context, load
from tests.support.openai_api import MINIMAL, Api, keyed
from tests.support.receiver import Receiver, receiving
from tests.support.service import KEY

BOB = "sluice_" + "b" * 43
READER = "sluice_" + "c" * 43
WEBHOOK = "/v1/webhook_endpoints"
DELIVERIES = "/v1/webhook_deliveries"
NOBODYS = "we_" + "0" * 32


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def webhooks(api: Api, alice: bytes, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The API on the local stack, whose webhooks are sent by the handler of the function deliver."""
    monkeypatch.setenv("WEBHOOK_LOOPBACK", "true")
    bootstrap.settings.cache_clear()
    module = load("deliver.app")
    monkeypatch.setattr(module, "_SETTINGS", bootstrap.settings())

    def send(webhook: Mapping[str, Any]) -> Any:
        return json.loads(json.dumps(module.handler(json.loads(json.dumps(webhook)), Context())))

    monkeypatch.setattr(bootstrap, "webhook_sender", lambda: send)
    bootstrap.webhook_manager.cache_clear()
    return api


def create(api: Api, url: str, **more: Any) -> dict[str, Any]:
    asked = {"url": url, "name": "jobs", "event_types": list(EVENT_TYPES)} | more
    reply = api.post(WEBHOOK, asked)
    assert reply.status == 200, reply.text
    made: dict[str, Any] = reply.body
    return made


def deliver(api: Api, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The function webhooks, woken up."""
    database = api.service.database("webhooks")
    monkeypatch.setattr(
        bootstrap,
        "deliverer",
        lambda remaining: Deliverer(Webhooks(database), bootstrap.webhook_sender(), lambda: 60.0),
    )
    done: dict[str, int] = load("webhooks.app").handler({"Records": []}, Context())
    return done


def test_an_endpoint_is_made_with_a_secret_that_is_shown_once(webhooks: Api) -> None:
    made = create(webhooks, "https://example.com/hooks")
    secret = made.pop("signing_secret")
    assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64
    assert webhooks.get(f"{WEBHOOK}/{made['id']}").body == made
    assert webhooks.get(WEBHOOK).body["data"] == [made]
    assert made["signing_secret_hint"].endswith(secret[-4:])


def test_endpoints_are_listed_newest_first_in_pages(webhooks: Api) -> None:
    made = [create(webhooks, f"https://example.com/{n}")["id"] for n in range(5)][::-1]
    first = webhooks.get(WEBHOOK, {"limit": "2"}).body
    assert ([each["id"] for each in first["data"]], first["has_more"]) == (made[:2], True)
    rest = webhooks.get(WEBHOOK, {"limit": "3", "after": first["last_id"]}).body
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (made[2:], False)
    assert webhooks.get(WEBHOOK, {"after": "we_1"}).status == 400


def test_a_user_has_twenty_endpoints_at_most(webhooks: Api) -> None:
    made = [create(webhooks, f"https://example.com/{n}") for n in range(20)]
    asked = {"url": "https://example.com/more", "name": "x", "event_types": []}
    assert webhooks.post(WEBHOOK, asked).error["sluice_code"] == "webhook_endpoints_exceeded"
    webhooks.call("DELETE", f"{WEBHOOK}/{made[0]['id']}")
    assert webhooks.post(WEBHOOK, asked).status == 200


def test_an_endpoint_is_changed_disabled_enabled_and_deleted(webhooks: Api) -> None:
    made = create(webhooks, "https://example.com/hooks")
    path = f"{WEBHOOK}/{made['id']}"
    changed = webhooks.post(path, {"name": "other", "event_types": ["response.failed", "response.failed"]}).body
    assert (changed["name"], changed["event_types"], changed["url"]) == ("other", ["response.failed"], made["url"])
    off = webhooks.post(path, {"disabled": True}).body
    assert (off["disabled"], off["disabled_reason"]) == (True, "user")
    assert webhooks.post(path, {"disabled": False}).body["disabled"] is False
    webhooks.post(path, {"disabled": True})
    assert webhooks.post(path, {"url": "https://example.com/new"}).body["disabled"] is False
    assert webhooks.call("DELETE", path).body == {
        "id": made["id"],
        "object": "webhook_endpoint.deleted",
        "deleted": True,
    }
    assert webhooks.get(path).status == 404


def test_what_does_not_change_anything_does_not_say_that_it_did(webhooks: Api) -> None:
    made = create(webhooks, "https://example.com/hooks")
    before = webhooks.service.value("SELECT updated_at FROM webhook_endpoints")
    webhooks.post(f"{WEBHOOK}/{made['id']}", {"name": "jobs"})
    assert webhooks.service.value("SELECT updated_at FROM webhook_endpoints") == before
    assert webhooks.service.value("SELECT count(*) FROM audit_log WHERE action = 'webhook.updated'") == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/latest"}, "url"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "url"),
        ({"url": "https://" + "a" * 3000}, "url"),
        ({"url": "https://a.example/\u0000"}, "url"),
        ({"url": 7}, "url"),
        ({"url": None}, "url"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"event_types": ["response.exploded"]}, "event_types[0]"),
        ({"event_types": "response.failed"}, "event_types"),
        ({"more": 1}, "more"),
    ],
)
def test_a_body_that_cannot_be_is_refused_and_names_the_parameter(
    webhooks: Api, change: dict[str, Any], param: str
) -> None:
    asked = {"url": "https://example.com/", "name": "jobs", "event_types": []} | change
    refused = webhooks.post(WEBHOOK, asked)
    assert (refused.status, refused.error["param"]) == (400, param)
    assert webhooks.get(WEBHOOK).body["data"] == []


def test_a_test_says_how_the_endpoint_answered(webhooks: Api, receiver: Receiver) -> None:
    made = create(webhooks, f"{receiver.url}/hooks")
    receiver.answers(418)
    told = webhooks.post(f"{WEBHOOK}/{made['id']}/test", {"event_type": "response.failed"}).body
    assert told == {
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": made["id"],
        "event_type": "response.failed",
        "status_code": 418,
        "success": True,
    }
    (call,) = receiver.received
    assert call.event["type"] == "response.failed"
    (listed,) = webhooks.get(DELIVERIES).body["data"]
    assert (listed["is_test"], listed["state"], listed["attempts"][0]["status_code"]) == (True, "dead", 418)


def test_a_test_of_an_endpoint_that_does_not_answer_is_an_error(webhooks: Api) -> None:
    with receiving() as gone:
        url = gone.url
    made = create(webhooks, url)
    refused = webhooks.post(f"{WEBHOOK}/{made['id']}/test", {"event_type": "response.failed"})
    assert (refused.status, refused.error["cause"]) == (400, "unreachable")


def test_what_was_sent_is_listed_and_sent_again(
    webhooks: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(webhooks, f"{receiver.url}/hooks")
    answered = webhooks.respond("hello").body
    assert deliver(webhooks, monkeypatch) == {"delivered": 1}
    (listed,) = webhooks.get(DELIVERIES, {"webhook_endpoint_id": made["id"], "state": "delivered"}).body["data"]
    assert listed["data"] == {"id": answered["id"]} == receiver.received[0].event["data"]
    assert (listed["attempts"][0]["status_code"], listed["webhook_endpoint_id"]) == (200, made["id"])
    assert listed["attempts"][0]["latency_ms"] >= 0
    assert webhooks.get(f"{DELIVERIES}/{listed['id']}").body == listed
    assert webhooks.get(DELIVERIES, {"state": "dead"}).body["data"] == []
    again = webhooks.post(f"{DELIVERIES}/{listed['id']}/redeliver", {}).body
    assert again["state"] == "pending"
    assert deliver(webhooks, monkeypatch) == {"delivered": 1}
    assert receiver.ids() == [listed["id"]] * 2


def test_who_delivers_is_woken_up_for_the_next_attempt(
    webhooks: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(webhooks, f"{receiver.url}/hooks")
    receiver.answers(500)
    webhooks.respond("hello")
    url = bootstrap.settings().webhook_queue_url

    def waiting(kind: str) -> int:
        found = webhooks.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return int(found[f"ApproximateNumberOfMessages{kind}"])

    # The settlement wakes it up; after that it is the pause of the schedule.
    assert (waiting(""), waiting("Delayed")) == (1, 0)
    assert deliver(webhooks, monkeypatch) == {"pending": 1}
    assert (waiting(""), waiting("Delayed")) == (1, 1)


def test_a_disabled_endpoint_is_not_sent_to_again(webhooks: Api, receiver: Receiver) -> None:
    made = create(webhooks, f"{receiver.url}/hooks")
    webhooks.respond("hello")
    webhooks.post(f"{WEBHOOK}/{made['id']}", {"disabled": True})
    (listed,) = webhooks.get(DELIVERIES).body["data"]
    assert (listed["state"], listed["cause"]) == ("dead", "disabled")
    refused = webhooks.post(f"{DELIVERIES}/{listed['id']}/redeliver", {})
    assert (refused.status, refused.error["sluice_code"]) == (400, "webhook_endpoint_disabled")


def test_a_webhook_on_a_request_is_signed_with_the_users_own_secret(
    webhooks: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = webhooks.post("/v1/webhook_secret", {}).body["signing_secret"]
    answered = [
        webhooks.respond("hello", webhook=f"{receiver.url}/a").body["id"],
        webhooks.chat("hello", webhook=f"{receiver.url}/b").body["id"],
    ]
    assert deliver(webhooks, monkeypatch) == {"delivered": 2}
    assert {call.path: call.event["data"]["id"] for call in receiver.received} == dict(
        zip(("/a", "/b"), answered, strict=True)
    )
    for call in receiver.received:
        assert call.headers["webhook-signature"] == signature(
            secret, call.headers["webhook-id"], int(call.headers["webhook-timestamp"]), call.body
        )
    assert webhooks.get(WEBHOOK).body["data"] == []
    listed = webhooks.get(DELIVERIES).body["data"]
    assert {(each["webhook_endpoint_id"], each["url"]) for each in listed} == {
        (None, f"{receiver.url}/a"),
        (None, f"{receiver.url}/b"),
    }


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/images/generations", "/v1/audio/speech"])
def test_what_has_no_id_of_its_own_is_told_by_the_requests(
    webhooks: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    secret = webhooks.post("/v1/webhook_secret", {}).body["signing_secret"]
    asked = MINIMAL[path] | {"webhook": f"{receiver.url}/mine"}
    answered, others = webhooks.post(path, asked), webhooks.post(path, MINIMAL[path])
    assert (answered.status, others.status) == (200, 200)
    assert deliver(webhooks, monkeypatch) == {"delivered": 1}
    (call,) = receiver.received
    assert (call.path, call.event["type"]) == ("/mine", "response.completed")
    assert call.event["data"] == {"id": str(answered.request_id)}
    assert call.headers["webhook-signature"] == signature(
        secret, call.headers["webhook-id"], int(call.headers["webhook-timestamp"]), call.body
    )


@pytest.mark.parametrize("path", MINIMAL)
def test_a_webhook_that_cannot_be_sent_refuses_the_request(webhooks: Api, path: str) -> None:
    refused = webhooks.post(path, MINIMAL[path] | {"webhook": "https://10.0.0.1/"})
    assert (refused.status, refused.error["param"]) == (400, "webhook")
    assert webhooks.service.value("SELECT count(*) FROM requests") == 0


ROUTES = [
    ("GET", f"{WEBHOOK}/{{endpoint}}", None),
    ("POST", f"{WEBHOOK}/{{endpoint}}", {"name": "mine"}),
    ("DELETE", f"{WEBHOOK}/{{endpoint}}", None),
    ("POST", f"{WEBHOOK}/{{endpoint}}/rotate_secret", {}),
    ("POST", f"{WEBHOOK}/{{endpoint}}/test", {"event_type": "response.failed"}),
    ("GET", f"{DELIVERIES}?webhook_endpoint_id={{endpoint}}", None),
    ("GET", f"{DELIVERIES}/{{event}}", None),
    ("POST", f"{DELIVERIES}/{{event}}/redeliver", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_what_belongs_to_another_user_is_not_there(
    webhooks: Api, receiver: Receiver, method: str, path: str, body: Any
) -> None:
    webhooks.service.add_user("bob", BOB)
    made = create(webhooks, f"{receiver.url}/hooks")
    webhooks.respond("hello")
    (event,) = webhooks.get(DELIVERIES).body["data"]
    tables = ("webhook_endpoints", "webhook_events", "webhook_deliveries")
    before = [webhooks.service.rows(f"SELECT * FROM {each}") for each in tables]
    for endpoint, event_id in (
        (made["id"], event["id"]),
        (NOBODYS, "evt_" + "0" * 32),
        ("we_x", "evt_"),
        ("%00", ".."),
    ):
        where, _, query = path.format(endpoint=endpoint, event=event_id).partition("?")
        asked = dict([query.split("=")]) if query else None
        refused = webhooks.call(method, where, body, keyed(BOB), asked)
        assert refused.status == 404, refused.text
        assert made["id"] not in refused.text or endpoint == made["id"]
    assert [webhooks.service.rows(f"SELECT * FROM {each}") for each in tables] == before
    assert receiver.received == []
    assert webhooks.call("GET", WEBHOOK, None, keyed(BOB)).body["data"] == []
    assert webhooks.call("GET", DELIVERIES, None, keyed(BOB)).body["data"] == []


def test_a_key_that_may_only_read_changes_nothing(webhooks: Api) -> None:
    made = create(webhooks, "https://example.com/hooks")
    webhooks.service.act(
        "key.create", user_id="alice", key_hash=digest(READER).hex(), key_prefix=READER[:13], scopes=["read"]
    )
    assert webhooks.call("GET", WEBHOOK, None, keyed(READER)).status == 200
    for method, path, body in (
        *ROUTES,
        ("POST", WEBHOOK, {"url": "https://a.example", "name": "x", "event_types": []}),
        ("POST", "/v1/webhook_secret", {}),
    ):
        if method != "GET":
            where = path.format(endpoint=made["id"], event="evt_" + "0" * 32)
            assert webhooks.call(method, where, body, keyed(READER)).status == 403, path
    assert webhooks.call("GET", WEBHOOK, None, keyed("sluice_" + "z" * 43)).status == 401
    assert KEY not in str(webhooks.service.rows("SELECT * FROM audit_log"))


def test_the_types_are_listed(webhooks: Api) -> None:
    assert webhooks.get("/v1/webhook_event_types").body == {"object": "list", "data": list(EVENT_TYPES)}
