"""Verification finds files and parts of uploads whose objects are not theirs: one error at a time is injected."""

from tests.support.files import OTHER_KEY, FileApi
from tests.support.ledger import violations
from tests.support.openai_api import keyed
from tests.support.service import Service

OF_FILE = "WHERE object_id = (SELECT object_id FROM files WHERE filename = 'kept')"
OF_PART = "WHERE object_id IN (SELECT object_id FROM upload_parts)"
# The user of the violation, what was expected, and what was found, as far as these begin so.
WRONGS = {
    "the object of a file is deleted": (
        f"UPDATE objects SET deleted_at = now() {OF_FILE}",
        ("alice", "file ", "none"),
    ),
    "the object of a file has no row": (f"DELETE FROM objects {OF_FILE}", ("alice", "file ", "none")),
    "the object of a file is another user's": (
        f"UPDATE objects SET user_id = 'bob' {OF_FILE}",
        ("alice", "file ", "object of bob, files, 4 bytes"),
    ),
    "the object of a file has another size": (
        f"UPDATE objects SET byte_length = 5 {OF_FILE}",
        ("alice", "file ", "object of alice, files, 5 bytes"),
    ),
    "the object of a file is of another class": (
        f"UPDATE objects SET object_class = 'uploads' {OF_FILE}",
        ("alice", "file ", "object of alice, uploads, 4 bytes"),
    ),
    "the object of a part is deleted": (
        f"UPDATE objects SET deleted_at = now() {OF_PART}",
        ("alice", "part ", "none"),
    ),
    "the object of a part is another user's": (
        f"UPDATE objects SET user_id = 'bob' {OF_PART}",
        ("alice", "part ", "object of bob, uploads"),
    ),
    "the object of a deleted file is not deleted": (
        "UPDATE objects SET deleted_at = NULL WHERE object_id = (SELECT object_id FROM files WHERE filename = 'gone')",
        ("alice", "a file, or a part of an upload, with the object ", "none"),
    ),
    "a part is gone and its object is not": (
        "DELETE FROM upload_parts",
        ("alice", "a file, or a part of an upload, with the object ", "none"),
    ),
    "an object is missing from the bucket": (
        f"UPDATE objects SET missing_at = now() {OF_FILE}",
        ("alice", "object ", "missing since "),
    ),
}
ONLY_IN_FULL = {"the object of a deleted file is not deleted", "a part is gone and its object is not"}


def test_only_the_injected_violation_is_found(files: FileApi, service: Service) -> None:
    service.add_user("bob", OTHER_KEY)
    files.made(b"text", "kept")
    files.call("DELETE", f"/v1/files/{files.made(b'text', 'gone')}")
    files.added(files.begun(4), b"ab")
    files.headers = keyed(OTHER_KEY)
    files.made(b"text", "bobs")
    assert violations(service) == []
    for case, (sql, (user, expected, actual)) in WRONGS.items():
        with service.owner.transaction(force_rollback=True):
            service.owner.execute(sql)
            (found,) = violations(service)
            assert (found["invariant"], found["user_id"]) == ("object_is_kept", user), case
            assert found["expected"].startswith(expected), case
            assert found["actual"].startswith(actual), case
            assert violations(service, every=False) == ([] if case in ONLY_IN_FULL else [found]), case
