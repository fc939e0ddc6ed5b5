"""/v1/uploads: files that come in parts."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.services.tasks import expire, objects
from tests.support.files import OTHER_KEY, FileApi, fail, form, in_bucket
from tests.support.functions import new_environment
from tests.support.ledger import set_clock, stop_the_clock, violations
from tests.support.openai_api import PNG, keyed
from tests.support.service import Service

NOTHING = {"files": 0, "uploads": 0, "parts": 0, "objects": 0}
FILE = {"files": 1, "uploads": 0, "parts": 0, "objects": 1}


def test_parts_become_a_file_in_the_order_in_which_they_are_named(files: FileApi, service: Service) -> None:
    begun = files.begin(6).body
    assert begun == {
        "id": begun["id"],
        "object": "upload",
        "bytes": 6,
        "created_at": begun["created_at"],
        "expires_at": begun["created_at"] + 3600,
        "filename": "large.jsonl",
        "purpose": "batch",
        "status": "pending",
        "file": None,
    }
    first = files.add(begun["id"], b"cd").body
    assert (first["object"], first["upload_id"]) == ("upload.part", begun["id"])
    others = files.added(begun["id"], b"ab", b"ef")
    assert violations(service) == []

    done = files.complete(begun["id"], [others[0], first["id"], others[1]], md5=hashlib.md5(b"abcdef").hexdigest())
    assert done.status == 200
    assert done.body == begun | {"status": "completed", "file": done.body["file"]}
    file = done.body["file"]
    assert (file["bytes"], file["filename"], file["purpose"]) == (6, "large.jsonl", "batch")
    assert file["expires_at"] == file["created_at"] + 30 * 86_400
    assert files.call("GET", f"/v1/files/{file['id']}").body == file
    assert files.content(file["id"]) == b"abcdef"
    assert files.left() == FILE
    assert violations(service) == []
    assert service.rows("SELECT after->>'byte_length' AS n FROM audit_log WHERE action = 'file.created'") == [
        {"n": "6"}
    ]

    # The repeat of a client that lost the answer.
    assert files.complete(begun["id"], [others[0], first["id"], others[1]]).body == done.body
    assert len(in_bucket()) == 4
    assert objects.run(service.tasks(storage=files.storage))["deleted"] == 3
    assert files.content(file["id"]) == b"abcdef"


def test_a_file_of_an_upload_expires_as_was_asked(files: FileApi) -> None:
    upload = files.begun(1, expires_after={"anchor": "created_at", "seconds": 7200}, purpose="user_data")
    file = files.complete(upload, files.added(upload, b"a")).body["file"]
    assert file["expires_at"] == file["created_at"] + 7200


def test_what_does_not_make_up_the_file_is_refused_and_changes_nothing(files: FileApi, service: Service) -> None:
    upload, other = files.begun(4), files.begun(4)
    a, b = files.added(upload, b"ab", b"cd")
    (foreign,) = files.added(other, b"cd")
    unknown = "part_" + "0" * 32
    before = in_bucket()
    cases: list[tuple[list[str], dict[str, Any], str]] = [
        ([a, unknown], {}, "upload_part_unknown"),
        ([a, foreign], {}, "upload_part_unknown"),
        ([a, a], {}, "upload_part_repeated"),
        ([a], {}, "upload_incomplete"),
        ([a, b], {"md5": "0" * 32}, "upload_altered"),
        ([], {}, "empty_array"),
        (["a"], {}, "invalid_value"),
        ([a, b], {"md5": "0"}, "invalid_value"),
        ([a, b], {"sha256": "0"}, "unknown_parameter"),
    ]
    for parts, more, code in cases:
        reply = files.complete(upload, parts, **more)
        assert (reply.status, reply.error["code"]) == (400, code), reply.text
    assert in_bucket() == before
    assert files.left() == {"files": 0, "uploads": 2, "parts": 3, "objects": 3}
    assert violations(service) == []
    assert files.complete(upload, [b, a], md5=hashlib.md5(b"cdab").hexdigest().upper()).status == 200


def test_a_part_has_no_more_than_was_announced(files: FileApi) -> None:
    upload = files.begun(4)
    files.added(upload, b"abc")
    reply = files.add(upload, b"de")
    assert (reply.status, reply.error["code"]) == (400, "upload_part_too_large")
    assert len(in_bucket()) == 1
    files.added(upload, b"d")


def test_an_upload_has_a_largest_number_of_parts(files: FileApi, service: Service) -> None:
    service.owner.execute(
        "CREATE OR REPLACE FUNCTION file_rules(OUT upload_lives interval, OUT most_parts integer,"
        " OUT batch_lives interval) LANGUAGE sql IMMUTABLE AS"
        " $$ SELECT interval '1 hour', 2, interval '30 days' $$"
    )
    upload = files.begun(4)
    files.added(upload, b"a", b"b")
    assert files.add(upload, b"c").error["code"] == "upload_parts_exceeded"


def test_a_cancelled_upload_is_over(files: FileApi, service: Service) -> None:
    upload = files.begun(2)
    parts = files.added(upload, b"ab")
    cancelled = files.cancel(upload)
    assert (cancelled.status, cancelled.body["status"], cancelled.body["file"]) == (200, "cancelled", None)
    assert files.cancel(upload).body == cancelled.body
    assert files.left() == NOTHING
    assert files.add(upload, b"c").error["code"] == "upload_finished"
    reply = files.complete(upload, parts)
    assert (reply.status, reply.error["code"], reply.headers["x-should-retry"]) == (400, "upload_finished", "false")
    assert violations(service) == []
    assert objects.run(service.tasks(storage=files.storage))["deleted"] == 1
    assert in_bucket() == []


def test_a_completed_upload_is_over(files: FileApi) -> None:
    upload = files.begun(2)
    parts = files.added(upload, b"ab")
    files.complete(upload, parts)
    assert files.add(upload, b"c").error["code"] == "upload_finished"
    assert files.cancel(upload).error["code"] == "upload_finished"
    assert files.left() == FILE


def test_an_upload_expires_after_an_hour(files: FileApi, service: Service) -> None:
    now = datetime(2031, 1, 30, 9, tzinfo=UTC)
    stop_the_clock(service.owner, now)
    left, touched = files.begun(2), files.begun(2)
    parts = files.added(left, b"ab")
    files.added(touched, b"ab")
    set_clock(service.owner, now + timedelta(hours=1))
    assert files.complete(left, parts).error["code"] == "upload_finished"
    assert expire.run(service.tasks())["files"] == 1
    assert files.cancel(touched).error["message"].startswith("The upload has ended: it is expired.")
    assert files.left() == NOTHING
    assert violations(service) == []


def test_wrong_announcements_are_refused(files: FileApi) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"bytes": 0}, "bytes"),
        ({"bytes": -1}, "bytes"),
        ({"bytes": 1.5}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"filename": "a/b"}, "filename"),
        ({"filename": "a\u0000"}, "filename"),
        ({"filename": ""}, "filename"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"mime_type": "text"}, "mime_type"),
        ({"mime_type": "a/b\n"}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ]
    for changes, param in cases:
        reply = files.begin(**({"size": 1} | changes))
        assert (reply.status, reply.error["param"]) == (400, param), reply.text
    assert files.left() == NOTHING


def test_wrong_parts_are_refused(files: FileApi) -> None:
    upload = files.begun(10)
    path = f"/v1/uploads/{upload}/parts"
    cases: list[tuple[bytes, str | None]] = [
        (form(("file", b"a", "a")), "data"),
        (form(), "data"),
        (form(("data", b"", "a")), "data"),
        (form(("data", b"a", "a"), ("data", b"a", "a")), "data"),
        (form(("data", b"a", "a"), ("name", b"a", None)), "name"),
        (b"data", None),
    ]
    for body, param in cases:
        reply = files.send(path, body)
        assert (reply.status, reply.error["param"]) == (400, param), reply.text
    assert in_bucket() == []
    # A part needs no name.
    assert files.send(path, form(("data", b"a", None))).status == 200


def test_a_file_in_parts_must_be_what_its_purpose_needs(files: FileApi, service: Service) -> None:
    upload = files.begun(4, purpose="vision")
    assert files.complete(upload, files.added(upload, b"text")).error["code"] == "file_refused"
    assert files.left() == {"files": 0, "uploads": 1, "parts": 1, "objects": 1}
    upload = files.begun(len(PNG), purpose="vision")
    file_id = files.complete(upload, files.added(upload, PNG[:5], PNG[5:])).body["file"]["id"]
    assert files.content(file_id) == PNG
    assert violations(service) == []


NO_UPLOADS: list[Any] = ["upload_1", "upload-" + "0" * 32, "upload_" + "0" * 32, "%00"]


def test_what_is_no_upload_is_404(files: FileApi) -> None:
    for name in NO_UPLOADS:
        for reply in (files.add(name, b"a"), files.complete(name, ["part_" + "0" * 32]), files.cancel(name)):
            assert (reply.status, reply.error["code"]) == (404, "upload_not_found")


def test_another_users_upload_is_not_there(files: FileApi, service: Service) -> None:
    service.add_user("bob", OTHER_KEY)
    upload = files.begun(2)
    parts = files.added(upload, b"ab")
    files.headers = keyed(OTHER_KEY)
    before = in_bucket()
    for reply in (files.add(upload, b"a"), files.complete(upload, parts), files.cancel(upload)):
        assert (reply.status, reply.error["code"]) == (404, "upload_not_found")
    mine = files.begun(2)
    assert files.complete(mine, parts).error["code"] == "upload_part_unknown"
    assert in_bucket() == before
    files.headers = {}
    assert files.complete(upload, parts).status == 200


def test_a_key_that_may_only_read_uploads_nothing(files: FileApi, service: Service) -> None:
    upload = files.begun(2)
    parts = files.added(upload, b"a", b"b")
    before = in_bucket()
    service.owner.execute("UPDATE api_keys SET scopes = '{read}'")
    for reply in (files.begin(2), files.add(upload, b"a"), files.complete(upload, parts), files.cancel(upload)):
        assert (reply.status, reply.error["code"]) == (403, "insufficient_permissions")
    assert in_bucket() == before


# The quota ------------------------------------------------------------------------------------------------------------


def test_files_and_announced_bytes_stay_within_the_tiers_quota(files: FileApi, service: Service) -> None:
    service.act("tier.set", tier="premium", max_file_bytes=10)
    kept = files.made(b"abcd")
    upload = files.begun(4)
    files.added(upload, b"ab")
    before = in_bucket()
    for reply in (files.create(b"abc"), files.begin(3)):
        assert (reply.status, reply.error["code"], reply.error["sluice_code"]) == (
            429,
            "insufficient_quota",
            "file_quota_exceeded",
        )
        assert (reply.error["maximum"], reply.error["used"], reply.error["bytes_needed"]) == (10, 8, 3)
        assert reply.headers["x-should-retry"] == "false"
    assert in_bucket() == before
    files.made(b"ab")
    files.cancel(upload)
    files.call("DELETE", f"/v1/files/{kept}")
    assert files.create(b"12345678").status == 200
    assert files.create(b"9").status == 429
    assert violations(service) == []


def test_a_user_may_have_a_quota_of_their_own(files: FileApi, service: Service) -> None:
    service.act("tier.set", tier="premium", max_file_bytes=1)
    service.act("quota.set", user_id="alice", max_file_bytes=2)
    assert files.create(b"ab").status == 200
    service.act("tier.set", tier="premium", max_file_bytes=10)
    assert files.create(b"a").status == 429
    service.act("quota.set", user_id="alice", max_file_bytes=None)
    assert files.create(b"a" * 100).status == 200
    assert violations(service) == []
    service.act("quota.clear", user_id="alice")
    reply = files.create(b"a")
    assert (reply.error["maximum"], reply.error["used"]) == (10, 102)
    assert service.rows("SELECT max_file_bytes FROM quota_plans") == [{"max_file_bytes": 10}]
    assert violations(service) == []


def test_expired_files_and_uploads_count_no_longer(files: FileApi, service: Service) -> None:
    service.act("tier.set", tier="premium", max_file_bytes=4)
    now = datetime(2031, 1, 30, 9, tzinfo=UTC)
    stop_the_clock(service.owner, now)
    files.made(b"ab", expires_after_anchor="created_at", expires_after_seconds="3600")
    files.begun(2)
    assert files.create(b"a").status == 429
    set_clock(service.owner, now + timedelta(hours=1))
    assert files.create(b"abcd").status == 200


# The bucket is away ---------------------------------------------------------------------------------------------------


def test_nothing_is_half_written_while_the_bucket_is_away(
    files: FileApi, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.storage.PART_BYTES", 5 * 2**20)
    size = 4 * 2**20
    upload = files.begun(3 * size)
    contents = [bytes([number]) * size for number in range(3)]
    fail(monkeypatch, "put_object")
    assert files.add(upload, contents[0]).status == 503
    parts = files.added(upload, *contents)
    before = sorted(in_bucket())
    for operation, at in (
        ("get_object", 1),
        ("get_object", 3),
        ("create_multipart_upload", 1),
        ("upload_part", 1),
        ("upload_part", 3),
        ("complete_multipart_upload", 1),
    ):
        client = fail(monkeypatch, operation, at)
        reply = files.complete(upload, parts)
        assert (reply.status, reply.error["code"]) == (503, "storage_unavailable"), operation
        assert client.calls.count(operation) == at
        assert sorted(in_bucket()) == before, operation
    assert files.left() == {"files": 0, "uploads": 1, "parts": 3, "objects": 3}
    assert violations(service) == []
    new_environment()
    file_id = files.complete(upload, parts).body["file"]["id"]
    assert hashlib.sha256(files.content(file_id)).digest() == hashlib.sha256(b"".join(contents)).digest()
    assert violations(service) == []
