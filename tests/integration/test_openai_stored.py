"""Stored responses: retrieved, cancelled, listed, continued; by their owners only."""

import json
from typing import Any

import pytest

from sluice import bootstrap
from sluice.backends.protocol import ModelError
from sluice.domain.documents import ImagePart, Message, Output, TextPart, ToolCall
from tests.support.ledger import assert_books_balance
from tests.support.openai_api import Api, Reply, keyed
from tests.support.service import Service

BOB = "sluice_" + "b" * 43
UNKNOWN = "resp_" + "0" * 32
CALL = ToolCall(id="call_1", name="look", arguments="{}")
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}
LOOK = {"type": "function", "name": "look"}


def said(text: str, role: Any = "user") -> Message:
    return Message(role=role, content=(TextPart(text=text),))


def test_a_background_response_from_beginning_to_end(api: Api, service: Service, alice: bytes) -> None:
    made = api.respond("later", background=True, metadata={"a": "b"})
    assert (made.status, made.body["status"], made.body["background"], made.body["usage"]) == (
        200,
        "queued",
        True,
        None,
    )
    assert api.runs == []
    path = f"/v1/responses/{made.body['id']}"
    assert api.get(path).body == made.body

    assert api.work() == 1
    done = api.get(path).body
    assert (done["status"], done["output"][0]["content"][0]["text"]) == ("completed", "an answer")
    assert {name for name in done if done[name] != made.body[name]} == {"status", "output", "usage", "completed_at"}
    assert_books_balance(service)


def test_a_background_stream_is_taken_up_again(api: Api, alice: bytes) -> None:
    """It begins, breaks off after the time that a connection is held, and goes on where it was."""
    api.runner = lambda _: None
    begun = api.respond("later", background=True, stream=True)
    assert [event["type"] for event in begun.events] == ["response.created", "response.in_progress"]
    path = f"/v1/responses/{begun.events[0]['response']['id']}"
    held = api.get(path, {"stream": "true", "starting_after": "1"})
    assert (held.status, held.events) == (200, [])

    api.run(api.runs[0])
    rest = api.get(path, {"stream": "true", "starting_after": "1"}).events
    assert [rest[0]["type"], rest[-2]["type"], rest[-1]] == [
        "response.output_item.added",
        "response.completed",
        "[DONE]",
    ]
    assert rest[0]["sequence_number"] == 2


def test_a_response_is_cancelled(api: Api, service: Service, alice: bytes) -> None:
    path = f"/v1/responses/{api.respond('later', background=True).body['id']}"
    first, again = api.call("POST", f"{path}/cancel"), api.call("POST", f"{path}/cancel", "")
    assert (first.status, first.body["status"]) == (again.status, again.body["status"]) == (200, "cancelled")
    assert api.get(path).body == first.body
    done = api.respond("now").body
    ended = api.call("POST", f"/v1/responses/{done['id']}/cancel")
    assert (ended.status, ended.body["status"]) == (200, "completed")
    assert_books_balance(service)


def test_a_response_is_cancelled_while_it_is_answered(api: Api, service: Service, alice: bytes) -> None:
    def run(claim: Any) -> Any:
        path = f"/v1/responses/resp_{claim['request_id'].replace('-', '')}/cancel"
        assert api.call("POST", path).body["status"] == "in_progress"
        return api.run(claim)

    api.runner = run
    reply = api.respond()
    assert (reply.status, reply.error["failure"]) == (500, "cancelled")
    shown = api.get(f"/v1/responses/{reply.error['response_id']}").body
    assert (shown["status"], shown["output"], shown["error"]) == ("cancelled", [], None)
    # What the model used is used all the same.
    assert service.rows("SELECT status, total_tokens FROM requests") == [{"status": "cancelled", "total_tokens": 10}]
    assert_books_balance(service)


def test_what_was_asked_is_listed_in_pages(api: Api, alice: bytes) -> None:
    asked = [{"role": "user", "content": str(number)} for number in range(5)]
    path = f"/v1/responses/{api.respond(asked).body['id']}/input_items"
    first = api.get(path, {"limit": "2"}).body
    assert [item["content"][0]["text"] for item in first["data"]] == ["4", "3"]
    assert (first["object"], first["has_more"]) == ("list", True)
    assert (first["first_id"], first["last_id"]) == (first["data"][0]["id"], first["data"][1]["id"])
    second = api.get(path, {"limit": "3", "after": first["last_id"]}).body
    assert [item["content"][0]["text"] for item in second["data"]] == ["2", "1", "0"]
    assert second["has_more"] is False
    after = api.get(path, {"after": second["last_id"]}).body
    assert after == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    oldest = api.get(path, {"order": "asc", "limit": "1", "include[]": "x"}).body
    assert oldest["data"][0]["content"][0]["text"] == "0"


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ({"limit": "0"}, "limit", "number_below_min_value"),
        ({"limit": "101"}, "limit", "number_above_max_value"),
        ({"limit": "x"}, "limit", "invalid_type"),
        ({"order": "up"}, "order", "invalid_value"),
        ({"before": "x"}, "before", "unknown_parameter"),
        ({"after": "x" * 1000}, "after", "invalid_value"),
        ({"after": "msg_" + "0" * 36}, "after", "invalid_value"),
    ],
)
def test_a_wrong_query_is_refused(api: Api, alice: bytes, query: dict[str, str], param: str, code: str) -> None:
    reply = api.get(f"/v1/responses/{api.respond().body['id']}/input_items", query)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert len(reply.text) < 1000


# Continuing -----------------------------------------------------------------------------------------------------------


def test_a_response_is_continued(api: Api, alice: bytes) -> None:
    api.model.says("first answer", "second answer")
    first = api.respond("first", instructions="be brief").body
    second = api.respond("second", previous_response_id=first["id"]).body
    third = api.respond("third", previous_response_id=second["id"])
    assert third.body["previous_response_id"] == second["id"]
    asked = api.model.claims[2].input
    assert asked.messages == (
        said("first"),
        said("first answer", "assistant"),
        said("second"),
        said("second answer", "assistant"),
        said("third"),
    )
    assert asked.instructions is None, "instructions are of one request only"
    assert len(api.get(f"/v1/responses/{third.body['id']}/input_items").body["data"]) == 5


def test_calls_of_tools_are_continued_with_their_results(api: Api, alice: bytes) -> None:
    call = Output.of_text("Let me see.", "tool_calls", reasoning="Hm.", tool_calls=(CALL,))
    api.model.says(call, call)
    first = api.respond("look", tools=[LOOK]).body
    assert api.respond("and?", previous_response_id=first["id"]).error["param"] == "input"
    assert api.respond([RESULT], previous_response_id=first["id"]).status == 200
    by_reference = [{"role": "user", "content": "look"}]
    by_reference += [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    assert api.respond([*by_reference, RESULT]).status == 200
    continued, referred = api.model.claims[1].input.messages, api.model.claims[2].input.messages
    assert continued == referred
    assert continued[1] == Message(role="assistant", content=(TextPart(text="Let me see."),), tool_calls=(CALL,))


def test_what_other_apis_asked_can_be_continued(api: Api, alice: bytes) -> None:
    chat = api.chat("hello")
    continued = api.respond("again", previous_response_id=f"resp_{chat.request_id.hex}")
    assert (continued.status, len(api.model.claims[1].input.messages)) == (200, 3)


def test_images_of_a_conversation_are_bounded(api: Api, service: Service, alice: bytes) -> None:
    """A body cannot have more than Lambda takes; a conversation that goes on could."""
    service.act("model.set", model_id="nova-micro", image_tokens=10)
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "AAAA" * 800_000}
    first = api.respond([{"role": "user", "content": [image]}])
    assert first.status == 200
    second = api.respond([{"role": "user", "content": [image]}], previous_response_id=first.body["id"])
    assert (second.status, second.error["code"]) == (400, "context_length_exceeded")
    assert api.respond("text", previous_response_id=first.body["id"]).status == 200
    assert isinstance(api.model.claims[1].input.messages[0].content[0], ImagePart)


# Not there ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def of_another(api: Api, service: Service, alice: bytes) -> str:
    """The id of a response of alice; BOB is another user's key."""
    service.add_user("bob", BOB)
    made: str = api.respond("a secret").body["id"]
    return made


@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
)
def test_what_is_not_the_callers_is_not_found(api: Api, of_another: str, method: str, suffix: str) -> None:
    unstored = f"resp_{api.respond('x', store=False, headers=keyed(BOB)).request_id.hex}"
    for wrong in (of_another, UNKNOWN, "nonsense", of_another.upper(), of_another[:-1], "%00", "x" * 500, unstored):
        if (wrong, method) == (unstored, "DELETE"):
            continue  # what is not shown may be erased all the same
        reply = api.call(method, f"/v1/responses/{wrong}{suffix}", headers=keyed(BOB))
        assert (reply.status, reply.error["code"], reply.error["type"]) == (
            404,
            "request_not_found",
            "invalid_request_error",
        )
        assert "secret" not in reply.text
        assert len(reply.text) < 500
    assert api.get(f"/v1/responses/{of_another}").status == 200


def test_what_is_not_the_callers_cannot_be_continued(api: Api, of_another: str) -> None:
    unstored = f"resp_{api.respond('x', store=False, headers=keyed(BOB)).request_id.hex}"
    calls = len(api.model.claims)
    for wrong in (of_another, UNKNOWN, "nonsense", "", "x" * 128, unstored):
        reply = api.respond("go on", keyed(BOB), previous_response_id=wrong)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (
            400,
            "previous_response_not_found",
            "previous_response_id",
        )
        item = api.respond([{"type": "item_reference", "id": wrong.replace("resp_", "msg_") + "0000"}], keyed(BOB))
        assert (item.status, item.error["param"]) == (400, "input[0].id")
    assert len(api.model.claims) == calls


def test_what_has_no_answer_cannot_be_continued(api: Api, service: Service, alice: bytes) -> None:
    queued = api.respond("later", background=True).body["id"]
    api.model.says(ModelError("model_rejected"))
    failed = api.respond("bad").error["response_id"]
    for earlier in (queued, failed):
        reply = api.respond("go on", previous_response_id=earlier)
        assert (reply.status, reply.error["code"]) == (400, "previous_response_unanswered")


def test_routes_that_do_not_exist(api: Api, alice: bytes) -> None:
    for method, path in (
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses/x"),
        ("PATCH", "/v1/responses/x"),
        ("GET", "/v1/fine_tuning/jobs"),
        ("GET", "/v1"),
    ):
        reply = api.call(method, path)
        assert (reply.status, reply.error["code"]) == (404, "unknown_url")
        assert reply.headers["x-should-retry"] == "false"


# Models ---------------------------------------------------------------------------------------------------------------


def test_models_are_listed_by_all_their_names(api: Api, service: Service, alice: bytes) -> None:
    service.act("alias.set", alias="org/tiny@1", model_id="nova-micro")
    listed = api.get("/v1/models").body
    assert (listed["object"], {each["id"] for each in listed["data"]}) == (
        "list",
        {"nova-micro", "org/tiny@1", "embedder", "artist", "speaker"},
    )
    for name in ("org/tiny@1", "org%2Ftiny@1", "nova-micro"):
        one = api.get(f"/v1/models/{name}").body
        assert one in listed["data"]
        assert (one["object"], one["owned_by"], type(one["created"])) == ("model", "sluice", int)
    assert api.chat(model="org/tiny@1").body["model"] == "nova-micro"
    unknown = api.get("/v1/models/gpt-5")
    assert (unknown.status, unknown.error["code"], unknown.error["param"]) == (404, "model_not_found", "model")


def test_the_input_of_a_response_is_counted(api: Api, service: Service, alice: bytes) -> None:
    """As much as would be reserved for it, without the answer."""
    body = {"input": [{"role": "user", "content": "hello"}], "instructions": "brief", "tools": [LOOK]}
    counted = api.post("/v1/responses/input_tokens", body).body
    assert counted == {"object": "response.input_tokens", "input_tokens": 5 + 5 + 4 + 64 + 2 * 16}
    api.post("/v1/responses", body | {"max_output_tokens": 10})
    assert service.value("SELECT reserved_tokens FROM requests") == counted["input_tokens"] + 10
    for wrong, code in (("embedder", "model_not_supported"), ("gpt-5", "model_not_found")):
        assert api.post("/v1/responses/input_tokens", body | {"model": wrong}).error["code"] == code
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://i.example/1"}]}]
    assert api.post("/v1/responses/input_tokens", {"input": image}).error["code"] == "model_not_supported"


def test_a_message_is_a_repeat_of_nothing(api: Api, alice: bytes) -> None:
    """The queue's messages hold an id and nothing else."""
    api.respond("later", background=True)
    received = api.sqs.receive_message(QueueUrl=bootstrap.settings().queue_url)["Messages"]
    assert [set(json.loads(message["Body"])) for message in received] == [{"request_id"}]


def test_the_reply_to_a_stored_one_names_it(api: Api, alice: bytes) -> None:
    made: Reply = api.respond()
    assert made.body["id"] == f"resp_{made.request_id.hex}"
