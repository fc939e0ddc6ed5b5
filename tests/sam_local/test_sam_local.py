"""`sam local` with the local stack: each route's function and each event, in containers."""

import json
from typing import Any
from uuid import uuid4

import pytest

from local.environment import ROOT
from local.stack import Stack
from tests.e2e.conftest import Client
from tests.sam_local.conftest import Invoke

EVENTS = sorted((ROOT / "events").glob("*.json"))
# Which function an event is for, by the first part of its name; all others are routes of status.
FUNCTIONS = {
    "admin": "AdminFunction",
    "batches": "BatchesFunction",
    "cancel": "SubmitFunction",
    "deliver": "DeliverFunction",
    "migrate": "MigrateFunction",
    "openai": "OpenaiFunction",
    "purge": "SubmitFunction",
    "quote": "SubmitFunction",
    "rollup": "RollupFunction",
    "submit": "SubmitFunction",
    "webhooks": "WebhooksFunction",
    "worker": "WorkerFunction",
}
# The key in the events has the right form and belongs to nobody. What is answered all the same, or before:
STATUSES = {"health": 200, "openapi": 200, "submit-invalid": 422}


def message(request_id: str) -> dict[str, Any]:
    """A message of the queue, as Lambda gets it."""
    event: dict[str, Any] = json.loads((ROOT / "events" / "worker.json").read_text())
    record = event["Records"][0] | {"messageId": str(uuid4()), "body": json.dumps({"request_id": request_id})}
    return {"Records": [record]}


def test_a_prompt_is_accepted_answered_by_the_model_and_shown(client: Client, invoke: Invoke) -> None:
    prompt = {"prompt": "Name a river.", "parameters": {"max_tokens": 8}}
    accepted = client.call("POST", "/generate", json.dumps(prompt).encode())
    assert accepted.status == 202, accepted.body
    request_id = accepted.body["request_id"]
    assert client.get(f"/status/{request_id}").body["status"] == "queued"

    assert invoke("WorkerFunction", message(request_id)) == {"batchItemFailures": []}

    shown = client.get(f"/status/{request_id}").body
    assert (shown["status"], shown["model"]) == ("completed", "smollm2-135m-instruct")
    assert shown["result"]
    assert shown["usage"]["completion_tokens"] > 0


def test_openais_clients_are_answered(client: Client) -> None:
    asked = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    answer = client.call("POST", "/v1/chat/completions", json.dumps(asked).encode())
    assert answer.status == 200, answer.body
    assert answer.body["choices"][0]["message"]["content"]


def test_routes_answer_as_on_lambda(client: Client) -> None:
    assert client.get("/health").body["status"] == "ok"
    assert client.get("/usage").status == 200
    wrong = Client(client.url, "sluice_" + "x" * 43).get("/usage")
    assert (wrong.status, wrong.body["code"]) == (401, "key_unknown")
    bad = client.call("POST", "/generate", b'{"prompt": 5}')
    assert (bad.status, bad.headers["Content-Type"]) == (422, "application/problem+json")


@pytest.mark.parametrize("name", [path.stem for path in EVENTS])
def test_each_event_is_taken_by_its_function(invoke: Invoke, stack: Stack, name: str) -> None:
    kind = name.split("-", maxsplit=1)[0]
    event = json.loads((ROOT / "events" / f"{name}.json").read_text())
    event.pop("ResponseURL", None)  # CloudFormation's, which nobody may call
    answer = invoke(FUNCTIONS.get(kind, "StatusFunction"), event)
    assert "errorType" not in (answer or {}), answer
    if "routeKey" in event:
        assert answer["statusCode"] == STATUSES.get(name, 401), answer
    elif kind == "admin":
        assert answer["ok"] or answer["problem"]["code"] in ("user_not_found", "request_not_found"), answer
    elif kind == "worker":
        assert len(answer["batchItemFailures"]) == (2 if name == "worker-invalid" else 0), answer


def test_every_function_has_an_event(stack: Stack) -> None:
    kinds = {path.stem.split("-")[0] for path in EVENTS}
    invoked = {FUNCTIONS.get(kind, "StatusFunction") for kind in kinds}
    # What foreground gets is a claim, which only openai can make.
    assert {f"{role.capitalize()}Function" for role in stack.info.functions} - invoked == {"ForegroundFunction"}
