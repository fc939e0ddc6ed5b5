"""Deleting a response: its content goes, from every table; what it used and cost stays."""

from typing import Any

import pytest

from sluice.backends.protocol import ModelError
from sluice.domain.documents import Output, ToolCall
from tests.support.functions import administer
from tests.support.ledger import assert_books_balance, seal, wait_until_visible
from tests.support.openai_api import Api, Reply, tables_with
from tests.support.redrive import now_ish, outcomes
from tests.support.service import KEY, Service

CALL = ToolCall(id="zebra", name="zebra", arguments='{"a": "zebra"}')
TOOL = {"type": "function", "name": "zebra", "description": "zebra", "parameters": {"title": "zebra"}}
FORM = {"format": {"type": "json_schema", "name": "zebra", "schema": {"title": "zebra"}}}
STRIPED: dict[str, Any] = {
    "instructions": "zebra",
    "tools": [TOOL],
    "text": FORM,
    "user": "zebra",
    "safety_identifier": "zebra",
    "prompt_cache_key": "zebra",
}


def delete(api: Api, response_id: str) -> Reply:
    return api.call("DELETE", f"/v1/responses/{response_id}")


def money_and_tokens(service: Service) -> list[Any]:
    """What is left of a request when its content is gone."""
    service.database("rollup").call("rollup_usage")
    return [
        service.rows("SELECT status, prompt_tokens, completion_tokens, total_tokens, finish_reason FROM requests"),
        service.rows("SELECT quota_period, requests_used, tokens_used, tokens_reserved FROM quotas ORDER BY 1"),
        service.rows("SELECT * FROM usage_by_attribute ORDER BY 1, 2, 3"),
        service.rows("SELECT period, requests_count, tokens_used FROM usage ORDER BY 1"),
    ]


def test_nothing_of_the_content_is_left(api: Api, service: Service, alice: bytes) -> None:
    api.model.says(Output.of_text("zebra", "tool_calls", reasoning="zebra", refusal="zebra", tool_calls=(CALL,)))
    made = api.respond("zebra", metadata={"project": "apollo"}, **STRIPED)
    assert made.status == 200
    assert {line.split("_")[0] for line in tables_with(service, "zebra")} == {"prompts", "results"}
    wait_until_visible(service)
    before = money_and_tokens(service)
    assert any("apollo" in str(each) for each in before)

    answer = delete(api, made.body["id"])

    assert (answer.status, answer.body) == (200, {"id": made.body["id"], "object": "response", "deleted": True})
    assert tables_with(service, "zebra") == []
    wait_until_visible(service)
    assert money_and_tokens(service) == before
    seal(service)
    assert_books_balance(service)
    assert service.rows("SELECT user_id, before, after FROM audit_log WHERE action = 'request.erased'") == [
        {"user_id": "alice", "before": None, "after": None}
    ]
    assert service.value("SELECT count(*) FROM results WHERE fingerprint IS NOT NULL") == 0
    assert service.value("SELECT count(*) FROM idempotency_keys") == 0


def test_what_is_deleted_is_not_found(api: Api, service: Service, alice: bytes) -> None:
    made = api.respond("zebra").body
    item = made["output"][0]["id"]
    assert delete(api, made["id"]).status == 200
    path = f"/v1/responses/{made['id']}"
    for reply in (
        api.get(path),
        api.get(path, {"stream": "true"}),
        api.get(f"{path}/input_items"),
        api.call("POST", f"{path}/cancel"),
        delete(api, made["id"]),
    ):
        assert (reply.status, reply.error["code"]) == (404, "request_not_found")
    assert api.respond("x", previous_response_id=made["id"]).error["code"] == "previous_response_not_found"
    assert api.respond([{"type": "item_reference", "id": item}]).error["code"] == "item_not_found"
    assert service.value("SELECT count(*) FROM audit_log WHERE action = 'request.erased'") == 1


def test_chats_and_stop_sequences_are_erased_too(api: Api, service: Service, alice: bytes) -> None:
    chat = api.chat("zebra", stop=["zebra"], temperature=0.5)
    assert delete(api, f"resp_{chat.request_id.hex}").status == 200
    assert tables_with(service, "zebra") == []
    assert service.value("SELECT parameters FROM prompts") == {"temperature": 0.5, "max_tokens": 512}
    assert_books_balance(service)


def test_what_is_queued_is_cancelled_first(api: Api, service: Service, alice: bytes) -> None:
    made = api.respond("zebra", background=True).body
    assert delete(api, made["id"]).status == 200
    assert (api.work(), api.model.claims) == (1, [])
    assert service.value("SELECT status FROM requests") == "cancelled"
    assert tables_with(service, "zebra") == []
    assert_books_balance(service)


def test_what_is_being_answered_leaves_no_answer(api: Api, service: Service, alice: bytes) -> None:
    def run(claim: Any) -> Any:
        assert delete(api, f"resp_{claim['request_id'].replace('-', '')}").status == 200
        return api.run(claim)

    api.runner = run
    api.model.says("zebra")
    reply = api.respond("zebra")
    assert (reply.status, reply.error["failure"]) == (500, "cancelled")
    assert tables_with(service, "zebra") == []
    assert service.rows("SELECT status, total_tokens FROM requests") == [{"status": "cancelled", "total_tokens": 10}]
    assert_books_balance(service)


def test_what_was_erased_is_not_redriven(api: Api, deploy: Any, service: Service, alice: bytes) -> None:
    api.model.says(ModelError("model_rejected"))
    failed = api.respond("zebra").error["response_id"]
    assert delete(api, failed).status == 200
    request_id = str(service.value("SELECT request_id FROM requests"))
    deploy("admin")
    problem = administer("request.redrive", request_id=request_id)["problem"]
    assert (problem["code"], problem["status"]) == ("request_erased", 409)
    assert outcomes(administer("request.redrive", **now_ish())["result"]) == {request_id: "request_erased"}
    assert service.value("SELECT count(*) FROM inflight") == 0
    assert_books_balance(service)


def test_the_next_request_of_the_window_is_sent(api: Api, service: Service, alice: bytes) -> None:
    service.act("quota.set", user_id="alice", dispatch_window=1)
    first = api.respond("first", background=True).body
    api.respond("second", background=True)
    assert delete(api, first["id"]).status == 200
    assert (api.work(), [claim.input.messages[0].text for claim in api.model.claims]) == (2, ["second"])


def test_what_others_read_of_it_is_empty(api: Api, service: Service, alice: bytes) -> None:
    """In Sluice's own dialect a request is still there: it was used and is paid for."""
    made = api.respond("zebra")
    delete(api, made.body["id"])
    state = service.status(alice, made.request_id)
    assert (state["status"], state["result"], state["usage"]["total_tokens"]) == ("completed", "", 10)
    (listed,) = service.history(alice)["requests"]
    assert (listed["status"], "zebra" in str(listed)) == ("completed", False)


@pytest.mark.parametrize("scopes", [["read"]])
def test_whoever_may_only_read_may_not_delete(api: Api, service: Service, alice: bytes, scopes: list[str]) -> None:
    made = api.respond("zebra").body
    service.owner.execute("UPDATE api_keys SET scopes = %s WHERE key_prefix = %s", (scopes, KEY[:13]))
    reply = delete(api, made["id"])
    assert (reply.status, reply.error["code"]) == (403, "insufficient_permissions")
    assert tables_with(service, "zebra") != []
