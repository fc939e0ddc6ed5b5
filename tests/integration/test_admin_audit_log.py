"""The audit log as an operator reads it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.support.service import Service, completed


def test_the_audit_log_is_filtered_by_user_request_and_time(
    admin: Callable[..., Any], service: Service, alice: bytes
) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    first, second = service.submit(alice), service.submit(alice)
    service.submit(bob)
    service.claim(first)
    service.settle(completed(first))

    of_first = admin("audit.list", request_id=str(first))
    assert [e["action"] for e in of_first["entries"]] == ["request.queued", "request.processing", "request.completed"]
    assert of_first["next_cursor"] is None
    assert {e["user_id"] for e in admin("audit.list", user_id="bob")["entries"]} == {"bob"}
    assert admin("audit.list", user_id="bob", request_id=str(second))["entries"] == []
    assert [e["request_id"] for e in admin("audit.list", user_id="alice", action="request.queued")["entries"]] == [
        str(first),
        str(second),
    ]
    everything = admin("audit.list", limit=1000)["entries"]
    paged, cursor = [], None
    while True:
        page = admin("audit.list", limit=2, **({"after": cursor} if cursor else {}))
        paged += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [e["audit_id"] for e in paged] == [e["audit_id"] for e in everything]
    # Searched by millisecond, the precision of UUIDv7.
    middle = datetime.fromisoformat(everything[4]["at"]).replace(microsecond=0) + timedelta(seconds=1)
    service.owner.execute("SELECT pg_sleep_until(%s)", (middle,))
    service.submit(alice)
    early = admin("audit.list", end=middle.isoformat())["entries"]
    late = admin("audit.list", start=middle.isoformat())["entries"]
    assert [e["audit_id"] for e in early] == [e["audit_id"] for e in everything if e["at"] < middle.isoformat(" ")]
    assert [e["action"] for e in late if e["at"] > everything[-1]["at"]] == ["request.queued"]
    # Entries do not depend on the request's row.
    service.owner.execute("DELETE FROM requests WHERE request_id = %s", (first,))
    assert admin("audit.list", request_id=str(first)) == of_first
    keys = {e["key_id"] for e in everything if e["action"] == "request.queued"}
    assert keys == {str(row["key_id"]) for row in service.rows("SELECT key_id FROM api_keys")}
