"""/v1/files: files that users upload at once, and what becomes of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.services.tasks import expire, objects
from tests.support.files import BOUNDARY, OTHER_KEY, FileApi, fail, form, in_bucket, texts
from tests.support.functions import new_environment
from tests.support.ledger import set_clock, stop_the_clock, violations
from tests.support.openai_api import PNG, keyed, tables_with
from tests.support.service import Service

TEXT = b"a text"


def test_a_file_is_created_listed_shown_fetched_and_deleted(files: FileApi, service: Service) -> None:
    made = files.create(TEXT, "report ü.txt", "user_data").body
    assert made == {
        "id": made["id"],
        "object": "file",
        "bytes": 6,
        "created_at": made["created_at"],
        "expires_at": None,
        "filename": "report ü.txt",
        "purpose": "user_data",
        "status": "processed",
        "status_details": None,
    }
    assert files.call("GET", f"/v1/files/{made['id']}").body == made
    assert files.listed() == [made["id"]]
    assert files.content(made["id"]) == TEXT
    location = files.call("GET", f"/v1/files/{made['id']}/content").headers["Location"]
    assert "filename%2A%3DUTF-8%27%27report%2520%25C3%25BC.txt" in location
    assert violations(service) == []

    assert files.call("DELETE", f"/v1/files/{made['id']}").body == {
        "id": made["id"],
        "object": "file",
        "deleted": True,
    }
    assert files.left() == {"files": 0, "uploads": 0, "parts": 0, "objects": 0}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        reply = files.call(method, f"/v1/files/{made['id']}{path}")
        assert (reply.status, reply.error["code"]) == (404, "file_not_found")
    assert files.listed() == []
    assert violations(service) == []
    assert [each for each in tables_with(service, "report ü") if not each.startswith("files")] == []


def test_what_is_done_is_audited(files: FileApi, service: Service) -> None:
    file_id = files.made(TEXT, "secret.txt", "user_data")
    files.call("DELETE", f"/v1/files/{file_id}")
    rows = service.rows(
        "SELECT action, actor, user_id, after AS details FROM audit_log WHERE action LIKE 'file%%' ORDER BY audit_id"
    )
    assert [(row["action"], row["actor"], row["user_id"]) for row in rows] == [
        ("file.created", "openai", "alice"),
        ("file.deleted", "openai", "alice"),
    ]
    assert rows[0]["details"] == rows[1]["details"]
    assert set(rows[0]["details"]) == {"file_id", "purpose", "byte_length"}


def test_files_are_listed_in_pages(files: FileApi) -> None:
    made = [files.made(TEXT, f"{number}.jsonl", "vision" if number == 3 else "batch") for number in (1, 2)]
    image = files.made(PNG, "3.png", "vision")
    made.append(image)
    assert files.listed() == made[::-1]
    assert files.listed(order="asc") == made
    assert files.listed(order="asc", after=made[0]) == made[1:]
    assert files.listed(after=made[1]) == made[:1]
    assert files.listed(purpose="vision") == [image]
    assert files.listed(purpose="batch_output") == []
    page = files.call("GET", "/v1/files", limit="2").body
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", made[2], made[1], True)
    assert files.call("GET", "/v1/files", limit="10000").body["has_more"] is False
    empty = files.call("GET", "/v1/files", after=made[0]).body
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


WRONG_QUERIES: list[Any] = [
    ({"limit": "0"}, "limit"),
    ({"limit": "10001"}, "limit"),
    ({"limit": "many"}, "limit"),
    ({"order": "random"}, "order"),
    ({"purpose": "assistants"}, "purpose"),
    ({"after": "nothing"}, "after"),
    ({"before": "nothing"}, "before"),
]


def test_a_wrong_query_is_refused(files: FileApi) -> None:
    for query, param in WRONG_QUERIES:
        reply = files.call("GET", "/v1/files", **query)
        assert (reply.status, reply.error["param"]) == (400, param)


def test_an_expired_file_is_gone_at_once_and_its_object_with_the_next_tasks(files: FileApi, service: Service) -> None:
    now = datetime(2031, 1, 30, 9, tzinfo=UTC)
    stop_the_clock(service.owner, now)
    expiry = {"expires_after_anchor": "created_at", "expires_after_seconds": "3600"}
    made = files.create(TEXT, **expiry).body
    kept = files.made(TEXT, purpose="user_data")
    assert made["expires_at"] == made["created_at"] + 3600
    set_clock(service.owner, now + timedelta(seconds=3599))
    assert files.listed() == [kept, made["id"]]
    set_clock(service.owner, now + timedelta(seconds=3600))
    assert files.listed() == [kept]
    assert files.call("GET", f"/v1/files/{made['id']}").status == 404
    assert files.call("GET", f"/v1/files/{made['id']}/content").status == 404
    assert files.call("DELETE", f"/v1/files/{made['id']}").status == 404
    assert violations(service) == []

    assert expire.run(service.tasks())["files"] == 1
    assert expire.run(service.tasks())["files"] == 0
    assert files.left() == {"files": 1, "uploads": 0, "parts": 0, "objects": 1}
    assert service.rows("SELECT action, actor FROM audit_log WHERE action = 'file.expired'") == [
        {"action": "file.expired", "actor": "rollup"}
    ]
    assert violations(service) == []


def test_files_of_batches_expire_after_30_days_unless_the_user_says_otherwise(files: FileApi) -> None:
    made = files.create().body
    assert made["expires_at"] == made["created_at"] + 30 * 86_400


def test_a_deleted_file_is_deleted_from_the_bucket(files: FileApi, service: Service) -> None:
    kept, gone = files.made(TEXT), files.made(TEXT)
    files.call("DELETE", f"/v1/files/{gone}")
    assert objects.run(service.tasks(storage=files.storage))["deleted"] == 1
    assert len(in_bucket()) == 1
    assert files.content(kept) == TEXT


WRONG_FORMS: list[Any] = [
    (texts(purpose="batch"), "file", "missing_required_parameter"),
    ([("file", TEXT, "a")], "purpose", "missing_required_parameter"),
    ([*texts(purpose="assistants"), ("file", TEXT, "a")], "purpose", "invalid_value"),
    ([*texts(purpose="batch_output"), ("file", TEXT, "a")], "purpose", "invalid_value"),
    ([*texts(purpose="batch", colour="red"), ("file", TEXT, "a")], "colour", "unknown_parameter"),
    ([*texts(purpose="batch", filename="b"), ("file", TEXT, "a")], "filename", "unknown_parameter"),
    ([*texts(purpose="batch"), ("file", TEXT, "a"), ("file", TEXT, "b")], "file", "duplicate_parameter"),
    ([*texts(purpose="batch"), *texts(purpose="batch"), ("file", TEXT, "a")], "purpose", "duplicate_parameter"),
    ([*texts(purpose="batch"), ("file", TEXT, None)], "file", "invalid_value"),
    ([*texts(purpose="batch"), ("file", TEXT, "")], "file", "invalid_value"),
    ([*texts(purpose="batch"), ("file", TEXT, "../../etc/passwd")], "file", "invalid_value"),
    ([*texts(purpose="batch"), ("file", TEXT, "a\\\\b")], "file", "invalid_value"),
    ([*texts(purpose="batch"), ("file", TEXT, "..")], "file", "invalid_value"),
    ([*texts(purpose="batch"), ("file", TEXT, "a\tb")], "file", "invalid_value"),
    ([*texts(purpose="batch"), ("file", TEXT, "a\x00b")], "file", "invalid_value"),
    ([*texts(purpose="batch"), ("file", TEXT, "ü" * 256)], "file", "invalid_value"),
    ([("purpose", b"b\xffch", None), ("file", TEXT, "a")], None, "invalid_form"),
    ([("purpose", b"b" * 5000, None), ("file", TEXT, "a")], "purpose", "string_above_max_length"),
    ([*texts(**{f"f{n}": "x" for n in range(20)}), ("file", TEXT, "a")], None, "invalid_form"),
    (
        [*texts(purpose="batch", expires_after_anchor="created_at"), ("file", TEXT, "a")],
        "expires_after.seconds",
        "missing_required_parameter",
    ),
    (
        [*texts(purpose="batch", expires_after_seconds="3600"), ("file", TEXT, "a")],
        "expires_after.anchor",
        "missing_required_parameter",
    ),
]


def test_a_wrong_form_is_refused(files: FileApi) -> None:
    for fields, param, code in WRONG_FORMS:
        reply = files.send("/v1/files", form(*fields))
        assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code), reply.text
    assert in_bucket() == []


WRONG_SECONDS: list[Any] = ["3599", "2592001", "soon", "-1", "1e9", "3600.5", "9" * 30]


def test_an_expiry_has_limits(files: FileApi) -> None:
    for seconds in WRONG_SECONDS:
        reply = files.create(expires_after_anchor="created_at", expires_after_seconds=seconds)
        assert (reply.status, reply.error["param"]) == (400, "expires_after.seconds")


WHOLE = form(*texts(purpose="batch"), ("file", TEXT, "a"))


NO_FORMS: list[Any] = [
    (WHOLE, "multipart/form-data"),
    (WHOLE, "multipart/form-data; boundary="),
    (WHOLE, "multipart/form-data; boundary=another"),
    (WHOLE, 'multipart/form-data; boundary="a\nb"'),
    (WHOLE, "multipart/form-data; boundary=ü"),
    (WHOLE, "application/json"),
    (WHOLE, ""),
    (b"", f"multipart/form-data; boundary={BOUNDARY}"),
    (b"not a form", f"multipart/form-data; boundary={BOUNDARY}"),
    (WHOLE[:-10], f"multipart/form-data; boundary={BOUNDARY}"),
    (WHOLE[:60], f"multipart/form-data; boundary={BOUNDARY}"),
    (WHOLE.replace(b"name=", b"named="), f"multipart/form-data; boundary={BOUNDARY}"),
    (WHOLE.replace(b"\r\n", b"\n"), f"multipart/form-data; boundary={BOUNDARY}"),
]


def test_what_is_no_form_is_refused(files: FileApi) -> None:
    for body, content_type in NO_FORMS:
        reply = files.send("/v1/files", body, content_type)
        assert (reply.status, reply.error["code"]) == (400, "invalid_form"), reply.text
    assert in_bucket() == []


NO_BODIES: list[Any] = [("%%%", True), ("\ud800", False), (None, False)]


def test_a_body_that_lambda_cannot_have_meant_is_refused(files: FileApi) -> None:
    for body, is_base64 in NO_BODIES:
        headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        reply = files.api.call("POST", "/v1/files", body, headers, isBase64Encoded=is_base64)
        assert reply.status == 400


def test_a_form_may_come_as_text(files: FileApi) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = form(*texts(purpose="batch"), ("file", "ü".encode(), "a")).decode()
    reply = files.api.call("POST", "/v1/files", body, headers)
    assert files.content(reply.body["id"]) == "ü".encode()


CONTENTS: list[Any] = [
    (b"", "batch", 400),
    (TEXT, "vision", 400),
    (b"<svg/>", "vision", 400),
    (b"GIF89a", "vision", 200),
    (b"\xff\xd8\xff\xe0", "vision", 200),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "vision", 200),
    (TEXT, "user_data", 200),
]


def test_a_file_must_be_what_its_purpose_needs(files: FileApi) -> None:
    for content, purpose, status in CONTENTS:
        reply = files.create(content, "a", purpose)
        assert reply.status == status
        if status == 400:
            assert reply.error["code"] == "file_refused"
    assert len(in_bucket()) == 4


def test_a_file_has_a_largest_size(files: FileApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_FILE_BYTES", "6")
    new_environment()
    assert files.create(TEXT).status == 200
    reply = files.create(TEXT + b".")
    assert (reply.status, reply.error["code"], reply.error["max_file_bytes"]) == (400, "file_too_large", 6)
    assert files.begin(7).error["code"] == "file_too_large"


NO_FILES: list[Any] = ["file-1", "file_" + "0" * 32, "file-" + "0" * 32, "file-" + "G" * 32, "%00"]


def test_what_is_no_file_is_404(files: FileApi) -> None:
    for name in NO_FILES:
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert files.call(method, f"/v1/files/{name}{path}").status == 404


def test_another_users_files_are_not_there(files: FileApi, service: Service) -> None:
    service.add_user("bob", OTHER_KEY)
    file_id = files.made(TEXT)
    files.headers = keyed(OTHER_KEY)
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        reply = files.call(method, f"/v1/files/{file_id}{path}")
        assert (reply.status, reply.error["code"]) == (404, "file_not_found")
    assert files.listed() == []
    mine = files.made(TEXT)
    assert files.listed(after=file_id, order="asc") == [mine]
    files.headers = {}
    assert files.listed() == [file_id]


@pytest.mark.parametrize(("scopes", "reads", "writes"), [(["read"], 200, 403), (["submit"], 403, 200)])
def test_a_key_does_what_its_scopes_allow(
    files: FileApi, service: Service, scopes: list[str], reads: int, writes: int
) -> None:
    file_id = files.made(TEXT)
    service.owner.execute("UPDATE api_keys SET scopes = %s", [scopes])
    before = in_bucket()
    assert files.call("GET", "/v1/files").status == reads
    assert files.call("GET", f"/v1/files/{file_id}").status == reads
    assert files.call("GET", f"/v1/files/{file_id}/content").status == (302 if reads == 200 else reads)
    assert files.create(TEXT).status == writes
    assert (in_bucket() == before) is (writes == 403)
    assert files.call("DELETE", f"/v1/files/{file_id}").status == writes


def test_nobody_without_a_valid_key_writes(files: FileApi) -> None:
    files.headers = keyed(OTHER_KEY)
    assert files.create(TEXT).status == 401
    assert in_bucket() == []


def test_nothing_is_half_written_while_the_bucket_is_away(
    files: FileApi, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "put_object")
    reply = files.create(TEXT)
    assert (reply.status, reply.error["code"]) == (503, "storage_unavailable")
    assert files.left() == {"files": 0, "uploads": 0, "parts": 0, "objects": 0}
    assert violations(service) == []
    # The repeat succeeds.
    assert files.create(TEXT).status == 200


def test_no_address_while_the_bucket_is_away(files: FileApi, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = files.made(TEXT)
    fail(monkeypatch, "generate_presigned_url")
    assert files.call("GET", f"/v1/files/{file_id}/content").status == 503
