"""/v1/batches: what callers send, and what they get."""

from typing import Any

import pytest

from sluice import bootstrap
from sluice.domain.batches import batch_name
from tests.support.batches import BatchBench, line
from tests.support.files import OTHER_KEY, FileApi
from tests.support.functions import new_environment
from tests.support.openai_api import Reply, keyed
from tests.support.service import Service

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h"}
NO_BATCHES = ["batch-1", "batch-" + "0" * 32, "batch_" + "0" * 32, "batch_" + "G" * 32, "%00"]


def create(files: FileApi, file_id: str | None = None, **more: Any) -> Reply:
    """A batch of a file; without one, of a new file of one line."""
    return files.call("POST", "/v1/batches", ASKED | {"input_file_id": file_id or files.made()} | more)


def created(files: FileApi, **more: Any) -> str:
    """The id of a batch that is made."""
    reply = create(files, **more)
    assert reply.status == 200, reply.text
    return str(reply.body["id"])


def page(files: FileApi, **query: str) -> list[str]:
    reply = files.call("GET", "/v1/batches", **query)
    assert reply.status == 200, reply.text
    return [each["id"] for each in reply.body["data"]]


def test_a_batch_is_made_shown_listed_and_cancelled(files: FileApi, service: Service) -> None:
    file_id = files.made()
    metadata = {"night": "7"}
    expiry = {"anchor": "created_at", "seconds": 3600}
    made = create(files, file_id, metadata=metadata, output_expires_after=expiry).body
    assert made == {
        "id": made["id"],
        "object": "batch",
        "endpoint": CHAT,
        "errors": None,
        "input_file_id": file_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": made["created_at"],
        "in_progress_at": None,
        "expires_at": made["created_at"] + 24 * 3600,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": metadata,
        "usage": None,
        "waits_for": None,
    }
    assert service.value("SELECT output_expires_seconds FROM batches") == 3600
    assert files.call("GET", f"/v1/batches/{made['id']}").body == made
    assert files.call("GET", "/v1/batches").body == {
        "object": "list",
        "data": [made],
        "first_id": made["id"],
        "last_id": made["id"],
        "has_more": False,
    }
    cancelled = files.call("POST", f"/v1/batches/{made['id']}/cancel").body
    assert cancelled["status"] == "cancelling"
    assert cancelled["cancelling_at"] >= made["created_at"]
    assert files.call("POST", f"/v1/batches/{made['id']}/cancel").body == cancelled


def test_whoever_works_on_batches_is_woken_up(files: FileApi, monkeypatch: pytest.MonkeyPatch) -> None:
    url = files.api.sqs.create_queue(QueueName="batches")["QueueUrl"]
    monkeypatch.setenv("BATCH_QUEUE_URL", url)
    new_environment()
    batch_id = created(files)
    files.call("POST", f"/v1/batches/{batch_id}/cancel")
    found = files.api.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert len(found) == 2


def test_a_batch_that_nobody_could_be_woken_for_is_made_all_the_same(
    files: FileApi, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = files.api.sqs.create_queue(QueueName="batches")["QueueUrl"]
    monkeypatch.setenv("BATCH_QUEUE_URL", url)
    new_environment()
    assert bootstrap.batch_queue() is not None
    files.api.sqs.delete_queue(QueueUrl=url)
    batch_id = created(files)
    assert service.value("SELECT count(*) FROM batches WHERE next_at <= clock_now()") == 1
    assert page(files) == [batch_id]


def test_what_a_batch_that_has_ended_shows(bench: BatchBench, files: FileApi, alice: bytes) -> None:
    batch_id = bench.create(alice, [line("a"), line("b", {"messages": "none"})])
    bench.finish(batch_id)
    shown = files.call("GET", f"/v1/batches/{batch_name(batch_id)}").body
    assert (shown["status"], shown["request_counts"]) == ("completed", {"total": 2, "completed": 1, "failed": 1})
    assert shown["completed_at"] >= shown["finalizing_at"] >= shown["in_progress_at"] >= shown["created_at"]
    assert [shown[f"{end}_at"] for end in ("failed", "expired", "cancelled", "cancelling")] == [None] * 4
    usage = shown["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    contents = [files.content(shown[name]) for name in ("output_file_id", "error_file_id")]
    assert [content.count(b"\n") for content in contents] == [1, 1]
    refused = files.call("POST", f"/v1/batches/{shown['id']}/cancel")
    assert (refused.status, refused.error["code"]) == (400, "batch_finished")


def test_a_file_with_faults_has_them_listed(bench: BatchBench, files: FileApi) -> None:
    batch_id = created(files, file_id=files.made(b'{"custom_id":\n'))
    bench.run()
    shown = files.call("GET", f"/v1/batches/{batch_id}").body
    assert (shown["status"], shown["errors"]["object"]) == ("failed", "list")
    (fault,) = shown["errors"]["data"]
    assert (fault["code"], fault["line"]) == ("invalid_json_line", 1)
    assert fault["message"]
    assert shown["failed_at"] is not None


def test_batches_are_listed_in_pages(files: FileApi) -> None:
    file_id = files.made()
    newest_first = [created(files, file_id=file_id) for _ in range(5)][::-1]
    assert page(files) == newest_first
    assert page(files, limit="2") == newest_first[:2]
    assert page(files, limit="3", after=newest_first[1]) == newest_first[2:]
    assert files.call("GET", "/v1/batches", limit="2").body["has_more"] is True
    assert files.call("GET", "/v1/batches", limit="5").body["has_more"] is False
    assert files.call("GET", "/v1/batches", after=newest_first[-1]).body == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"after": "batch-1"}, "after"),
        ({"after": ""}, "after"),
        ({"status": "completed"}, "status"),
    ],
)
def test_a_wrong_query_is_refused(files: FileApi, query: dict[str, str], param: str) -> None:
    reply = files.call("GET", "/v1/batches", **query)
    assert (reply.status, reply.error["param"]) == (400, param), reply.text


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/completions"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"completion_window": "soonest"}, "completion_window"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"input_file_id": "f" * 65}, "input_file_id"),
        ({"metadata": {"key": 7}}, "metadata.key"),
        ({"metadata": {f"key{n}": "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"webhook": "https://example.com"}, "webhook"),
    ],
)
def test_a_wrong_body_is_refused(files: FileApi, service: Service, changes: dict[str, Any], param: str) -> None:
    body = ASKED | {"input_file_id": "file-" + "0" * 32} | changes
    reply = files.call("POST", "/v1/batches", {name: value for name, value in body.items() if value is not None})
    assert (reply.status, reply.error["param"]) == (400, param), reply.text
    assert service.value("SELECT count(*) FROM batches") == 0


@pytest.mark.parametrize("body", [None, "", "{", "[]", '"a"', '{"endpoint": NaN}'])
def test_what_is_no_object_is_refused(files: FileApi, body: str | None) -> None:
    assert files.call("POST", "/v1/batches", body).status == 400


def test_a_file_that_cannot_be_a_batch_is_refused(files: FileApi, service: Service) -> None:
    text = files.made(b"a text", "report.txt", "user_data")
    reply = create(files, text)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "batch_file_unfit", "input_file_id")
    for name in ("file-" + "0" * 32, "no file"):
        reply = create(files, name)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "file_not_found", "input_file_id")
    assert service.value("SELECT count(*) FROM batches") == 0


def test_what_is_no_batch_is_404(files: FileApi) -> None:
    for name in NO_BATCHES:
        for method, path in (("GET", ""), ("POST", "/cancel")):
            assert files.call(method, f"/v1/batches/{name}{path}").status == 404


def test_another_users_batch_is_not_there(files: FileApi, service: Service) -> None:
    service.add_user("bob", OTHER_KEY)
    file_id = files.made()
    batch_id = created(files, file_id=file_id)
    files.headers = keyed(OTHER_KEY)
    for method, path in (("GET", ""), ("POST", "/cancel")):
        reply = files.call(method, f"/v1/batches/{batch_id}{path}")
        assert (reply.status, reply.error["code"]) == (404, "batch_not_found")
    assert create(files, file_id).status == 404
    assert page(files) == []
    mine = created(files)
    assert page(files) == [mine]
    files.headers = {}
    assert files.call("GET", f"/v1/batches/{batch_id}").body["status"] == "validating"


@pytest.mark.parametrize(("scopes", "reads", "writes"), [(["read"], 200, 403), (["submit"], 403, 200)])
def test_a_key_does_what_its_scopes_allow(
    files: FileApi, service: Service, scopes: list[str], reads: int, writes: int
) -> None:
    file_id = files.made()
    batch_id = created(files, file_id=file_id)
    service.owner.execute("UPDATE api_keys SET scopes = %s", [scopes])
    assert files.call("GET", "/v1/batches").status == reads
    assert files.call("GET", f"/v1/batches/{batch_id}").status == reads
    assert create(files, file_id).status == writes
    assert files.call("POST", f"/v1/batches/{batch_id}/cancel").status == writes


def test_nobody_without_a_valid_key_makes_a_batch(files: FileApi) -> None:
    file_id = files.made()
    files.headers = keyed(OTHER_KEY)
    assert create(files, file_id).status == 401
    assert files.call("GET", "/v1/batches").status == 401
