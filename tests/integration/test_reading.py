"""What clients read: their own requests only, page by page, archived or not."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from sluice.domain.errors import SluiceError
from sluice.domain.keys import digest
from tests.support.service import Service, completed, failed, status_of


def test_status_shows_everything_about_an_answered_request(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice, metadata={"team": "x"})
    service.claim(request_id)
    service.settle(completed(request_id))

    found = service.status(alice, str(request_id))

    times = {name: found.pop(name) for name in ("created_at", "started_at", "completed_at")}
    took = found.pop("processing_time_ms")
    assert found == {
        "request_id": str(request_id),
        "status": "completed",
        "model": "nova-micro",
        "result": "an answer",
        "empty_reason": None,
        "error": None,
        "finish_reason": None,
        "estimated_tokens": 2 + 64 + 512,
        "reserved_tokens": 5 + 64 + 512,
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
        },
        # 7 at 0.035 and 3 at 0.14 per million
        "cost": {"amount": "0.000000665", "currency": "USD", "price_list": "standard"},
        "metadata": {"team": "x"},
        "queue": None,
    }
    assert list(times.values()) == sorted(times.values())
    assert all(time.endswith("Z") for time in times.values())
    assert took >= 0


def test_status_of_a_queued_request(service: Service, alice: bytes) -> None:
    found = service.status(alice, str(service.submit(alice)))

    assert (found["status"], found["result"], found["error"], found["completed_at"]) == ("queued", None, None, None)
    assert found["usage"] == {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    assert (found["reserved_tokens"], found["cost"]) == (5 + 64 + 512, None)
    assert "metadata" not in found


def test_status_shows_why_a_request_failed(service: Service, alice: bytes) -> None:
    request_id = service.submit(alice)
    service.claim(request_id)
    service.settle(failed(request_id))

    found = service.status(alice, str(request_id))

    assert (found["status"], found["error"]) == (
        "failed",
        {"code": "model_rejected", "message": "no", "fault": "client"},
    )


@pytest.mark.parametrize("whose", ["another's", "nobody's", "no id at all"])
def test_requests_of_other_users_are_not_found(service: Service, alice: bytes, whose: str) -> None:
    service.add_user("bob", bob_key := "sluice_" + "b" * 43)
    ids = {"another's": str(service.submit(alice)), "nobody's": str(uuid4()), "no id at all": "12; DROP TABLE requests"}
    with pytest.raises(SluiceError) as refused:
        service.status(digest(bob_key), ids[whose])

    assert (refused.value.code, status_of(refused.value), refused.value.title) == (
        "request_not_found",
        404,
        "Request not found",
    )


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        ("UPDATE api_keys SET key_hash = sha256('another')", "key_unknown"),
        ("UPDATE api_keys SET revoked_at = now()", "key_revoked"),
        ("UPDATE api_keys SET expires_at = now()", "key_expired"),
        ("UPDATE users SET is_active = false", "user_inactive"),
        ("UPDATE api_keys SET scopes = '{submit}'", "scope_missing"),
    ],
)
def test_reading_needs_a_valid_key_with_read_scope(service: Service, alice: bytes, spoil: str, code: str) -> None:
    request_id = str(service.submit(alice))
    service.owner.execute(spoil)

    reads: list[Callable[[], object]] = [
        lambda: service.status(alice, request_id),
        lambda: service.history(alice),
        lambda: service.models(alice),
    ]
    for read in reads:
        with pytest.raises(SluiceError) as refused:
            read()
        assert refused.value.code == code


def test_history_is_paged_newest_first(service: Service, alice: bytes) -> None:
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    mine = [str(service.submit(alice, f"prompt {n}")) for n in range(5)]
    service.submit(bob)

    pages: list[list[dict[str, Any]]] = []
    cursor: str | None = None
    while cursor is not None or not pages:
        page = service.history(alice, cursor, "2")
        pages.append(page["requests"])
        cursor = page["next_cursor"]

    assert [len(page) for page in pages] == [2, 2, 1]
    listed = [entry for page in pages for entry in page]
    assert [entry["request_id"] for entry in listed] == mine[::-1]
    assert [entry["prompt"] for entry in listed] == [f"prompt {n}" for n in (4, 3, 2, 1, 0)]


def test_a_full_last_page_has_no_next(service: Service, alice: bytes) -> None:
    for _ in range(2):
        service.submit(alice)
    page = service.history(alice, None, "2")
    assert (len(page["requests"]), page["next_cursor"]) == (2, None)


@pytest.mark.parametrize(
    ("cursor", "limit"), [("x", None), (None, "0"), (None, "101"), (None, "ten"), (None, "²"), (None, "9" * 5000)]
)
def test_a_bad_page_is_refused(service: Service, alice: bytes, cursor: str | None, limit: str | None) -> None:
    with pytest.raises(SluiceError) as refused:
        service.history(alice, cursor, limit)
    assert refused.value.code == "invalid_input"


def test_models_lists_the_active_models(service: Service, alice: bytes) -> None:
    service.owner.execute(
        "INSERT INTO models (model_id, backend, backend_model, max_tokens_default, max_tokens_limit, is_active)"
        " VALUES ('old', 'bedrock', 'old', 1, 1, false)"
    )
    assert service.models(alice) == {
        "models": [
            {
                "model": "nova-micro",
                "is_default": True,
                "max_tokens_default": 512,
                "max_tokens_limit": 5000,
                "kind": "chat",
                "aliases": [],
            },
        ]
    }


def test_history_shows_the_beginning_of_a_long_prompt(service: Service, alice: bytes) -> None:
    service.owner.execute("INSERT INTO submissions (user_id, prompt) VALUES ('alice', repeat('é', 5000))")
    (entry,) = service.history(alice)["requests"]
    assert entry["prompt"] == "é" * 1000


def test_the_key_is_checked_before_the_id(service: Service, alice: bytes) -> None:
    service.owner.execute("UPDATE api_keys SET revoked_at = now()")
    with pytest.raises(SluiceError) as refused:
        service.status(alice, "no id at all")
    assert refused.value.code == "key_revoked"
