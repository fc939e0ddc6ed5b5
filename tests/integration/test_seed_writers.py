"""Direct inserts into the view `submissions`, with a named constraint for each refusal."""

import re
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import yaml

from tests.support.seed import NODE_STATUS, PAGE, accept, ask, books, claim, one, raw, run_as, settle
from tests.support.service import Service, completed, failed


def test_the_node_writer(service: Service, user123: bytes, writer: str) -> None:
    (made,) = ask(service, "submission", "user123", "hello", "nova-micro", role=writer)

    assert made["status"] == "queued"
    (seen,) = ask(service, "submission_status", made["request_id"], role=writer)
    assert {k: seen[k] for k in ("user_id", "prompt", "model_id", "status")} == {
        "user_id": "user123", "prompt": "hello", "model_id": "nova-micro", "status": "queued",
    }  # fmt: skip
    assert service.value("SELECT requests_used FROM quotas WHERE quota_period = 'monthly'") == 1, (
        "counted like any other"
    )
    assert service.database("rollup").call("request_dispatch", limit=10) == [
        {"request_id": made["request_id"], "user_id": "user123"}
    ]
    claim(service, made["request_id"])
    settle(service, completed(made["request_id"]))
    assert raw(service.owner, NODE_STATUS, made["request_id"]) == [
        {"status": "completed", "error_message": None, "result": "an answer"}
    ]
    (seen,) = ask(service, "submission_status", made["request_id"], role=writer)
    assert (seen["status"], seen["error_message"], seen["result"]) == ("completed", None, "an answer")
    assert one(service, "status_read", user123, made["request_id"])["result"] == "an answer"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run_as(service, writer, NODE_STATUS, made["request_id"])


def test_the_node_routes(service: Service, user123: bytes, deploy: Any) -> None:
    from tests.support.functions import KEYED, get, post

    deploy("submit")
    status, _, made = post('{"prompt": "hello", "model_id": "nova-micro"}')
    assert (status, made) == (202, {"request_id": made["request_id"], "status": "queued"})
    request_id = UUID(made["request_id"])
    claim(service, request_id)
    settle(service, failed(request_id))

    deploy("status")
    status, _, found = get(f"/status/{request_id}", KEYED)
    row = one(service, "status", request_id)
    assert (status, found["status"], found["result"]) == (200, row["status"], row["result"])
    assert found["error"]["message"] == row["error_message"]
    status, _, problem = get(f"/status/{uuid4()}", KEYED)
    assert (status, problem["title"]) == (404, "Request not found")


def test_the_benthos_output(service: Service, user123: bytes, writer: str) -> None:
    (config,) = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    output = config["output"]["sql_raw"]
    message = {"request_id": str(uuid4()), "user_id": "user123", "prompt": "hello", "model_id": "nova-micro"}
    arguments = [message[name] for name in re.findall(r"this\.(\w+)", output["args_mapping"])]

    run_as(service, writer, output["query"], *arguments)

    (row,) = service.rows(
        "SELECT r.user_id, p.prompt, r.model_id, r.status FROM requests r JOIN prompts p USING (request_id)"
    )
    assert row == {"user_id": "user123", "prompt": "hello", "model_id": "nova-micro", "status": "queued"}


def test_repeated_inserts_with_an_own_id_are_harmless(service: Service, user123: bytes) -> None:
    """The seed's insert on the view, which an at-least-once writer may repeat."""
    insert = "INSERT INTO submissions (request_id, user_id, prompt, model_id, status) VALUES ($1, $2, $3, $4, $5) RETURNING *"
    own = uuid4()

    (first,) = raw(service.owner, insert, own, "user123", "hello", "nova-micro", "queued")
    claim(service, first["request_id"])
    settle(service, completed(first["request_id"]))
    (again,) = raw(service.owner, insert, own, "user123", "hello", "nova-micro", "queued")

    assert first["status"] == "queued"
    assert first["request_id"] != own
    assert again == first | {"status": "completed", "result": "an answer"}
    assert service.value("SELECT count(*) FROM requests") == 1
    with pytest.raises(psycopg.Error) as refused:
        raw(service.owner, insert, own, "user123", "another prompt", "nova-micro", "queued")
    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == ("SL422", "idempotency_conflict")
    (other,) = raw(service.owner, insert, uuid4(), "user123", "hello", "nova-micro", "queued")
    assert other["request_id"] != first["request_id"]


REFUSALS = {
    "user_inactive": ("SL403", "UPDATE users SET is_active = false", None),
    "invalid_input": ("SL422", "SELECT", None),
    "model_unknown": ("SL422", "SELECT", "no-such-model"),
    "model_missing": ("SL422", "UPDATE models SET is_default = false", None),
    "max_tokens_exceeded": ("SL422", "UPDATE models SET max_tokens_default = 4, max_tokens_limit = 4", None),
    "quota_too_small": ("SL422", "UPDATE quotas SET max_tokens = 10 WHERE quota_period = 'daily'", None),
    "quota_exceeded": ("SL429", "UPDATE quotas SET requests_used = max_requests WHERE quota_period = 'monthly'", None),
    "unfinished_exceeded": ("SL429", "UPDATE quota_plans SET max_unfinished = 1", None),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_refusals_have_constraint_names(service: Service, user123: bytes, writer: str, code: str) -> None:
    sqlstate, spoil, model = REFUSALS[code]
    prompt = "" if code == "invalid_input" else "hello"
    accept(service, user123)
    service.owner.execute(spoil)
    before = books(service)
    insert = "INSERT INTO submissions (user_id, prompt, model_id, parameters) VALUES ($1, $2, $3, $4)"

    with pytest.raises(psycopg.Error) as refused:
        run_as(service, writer, insert, "user123", prompt, model, '{"max_tokens": 5}')

    assert (refused.value.sqlstate, refused.value.diag.constraint_name) == (sqlstate, code)
    assert books(service) == before
    assert re.search(rf"^\| `{sqlstate}` \| `{code}` \|", PAGE, re.MULTILINE), "the page lists it"


def test_the_page_lists_no_other_refusals() -> None:
    assert set(re.findall(r"^\| `SL\d+` \| `(\w+)` \|", PAGE, re.MULTILINE)) == {*REFUSALS, "idempotency_conflict"}


def test_oversized_values_are_refused_by_postgresql(service: Service, user123: bytes) -> None:
    for user, model in (("user123", "m" * 256), ("u" * 256, None)):
        with pytest.raises(psycopg.errors.StringDataRightTruncation):
            service.owner.execute(
                "INSERT INTO submissions (user_id, prompt, model_id) VALUES (%s, 'x', %s)", (user, model)
            )
    assert service.value("SELECT count(*) FROM requests") == 0
