"""Wrong keys: looked up once in each environment, for some seconds; all others each time."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from sluice import bootstrap
from sluice.services.access import UNKNOWN_MOST, UNKNOWN_SECONDS, UnknownKeys
from tests.support.functions import KEYED, get, post
from tests.support.service import Service

WRONG = {"x-api-key": f"sluice_{'w' * 43}"}
ROUTES = ("/usage", "/requests", "/models", f"/status/{uuid4()}")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def digest_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_a_key_is_forgotten_when_its_time_is_over() -> None:
    clock = Clock()
    keys = UnknownKeys(clock=clock)
    keys.add(digest_of(1))
    assert digest_of(1) in keys
    assert digest_of(2) not in keys
    clock.seconds = UNKNOWN_SECONDS - 0.001
    assert digest_of(1) in keys
    clock.seconds = UNKNOWN_SECONDS
    assert digest_of(1) not in keys


def test_there_are_never_more_than_the_most_and_the_oldest_goes_first() -> None:
    keys = UnknownKeys(most=3, clock=Clock())
    for number in (1, 2, 3, 1, 4):
        keys.add(digest_of(number))
        assert len(keys) <= 3
    assert [number for number in range(1, 5) if digest_of(number) in keys] == [1, 3, 4]
    keys = UnknownKeys()
    for number in range(2 * UNKNOWN_MOST):
        keys.add(digest_of(number))
    assert len(keys) == UNKNOWN_MOST


# Through the functions ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(service: Service) -> Callable[[], int]:
    """How often a key was looked up in this database since the last call."""

    def count() -> int:
        service.owner.execute("SELECT pg_stat_force_next_flush()")
        calls: int = service.value(
            "SELECT coalesce(sum(calls), 0)::integer FROM pg_stat_statements s"
            " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND query ~ '(model_offers|request_history|usage_show|request_show|request_submit)' AND toplevel"
        )
        service.owner.execute(
            "SELECT pg_stat_statements_reset(dbid => oid) FROM pg_database WHERE datname = current_database()"
        )
        return calls

    count()
    return count


def test_a_wrong_key_is_looked_up_once(deploy: Any, asked: Callable[[], int]) -> None:
    deploy("status")
    for _ in range(5):
        for route in ROUTES:
            status, headers, body = get(route, WRONG)
            assert (status, body["code"]) == (401, "key_unknown")
            assert headers["WWW-Authenticate"] == 'Bearer realm="sluice"'
    assert asked() == 1
    assert get("/requests", {"authorization": f"Bearer {WRONG['x-api-key']}"})[2]["code"] == "key_unknown"
    assert asked() == 0

    deploy("submit")
    for _ in range(5):
        assert post('{"prompt": "x"}', WRONG)[2]["code"] == "key_unknown"
    assert asked() == 1, "another environment has not seen it yet"


def test_other_keys_are_looked_up_each_time(deploy: Any, alice: bytes, asked: Callable[[], int]) -> None:
    deploy("status")
    for _ in range(3):
        get("/requests", WRONG)
        assert get("/requests", KEYED)[0] == 200
    assert asked() == 4


@pytest.mark.parametrize("change", ["revoked_at = now()", "expires_at = now()"])
def test_a_key_that_is_dead_is_looked_up_each_time(
    deploy: Any, service: Service, alice: bytes, asked: Callable[[], int], change: str
) -> None:
    """An operator who repairs it need not wait."""
    service.owner.execute("UPDATE api_keys SET created_at = now() - interval '1 day'")
    service.owner.execute(f"UPDATE api_keys SET {change}".encode())
    deploy("status")
    for _ in range(3):
        assert get("/requests", KEYED)[2]["code"] in ("key_revoked", "key_expired")
    assert asked() == 3
    service.owner.execute("UPDATE api_keys SET revoked_at = NULL, expires_at = NULL")
    assert get("/requests", KEYED)[0] == 200


def test_a_key_made_after_an_attempt_works_after_some_seconds(deploy: Any, service: Service) -> None:
    deploy("status")
    assert get("/requests", KEYED)[2]["code"] == "key_unknown"
    service.add_user()
    keys = bootstrap.unknown_keys()
    assert get("/requests", KEYED)[2]["code"] == "key_unknown"
    keys._clock = lambda: float("inf")  # the seconds are over
    assert get("/requests", KEYED)[0] == 200


def test_health_needs_no_key_and_is_told_with_a_wrong_one_too(deploy: Any) -> None:
    deploy("status")
    get("/requests", WRONG)
    assert get("/health", WRONG) == get("/health")
    assert get("/health", WRONG)[0] == 200


def test_a_remembered_refusal_is_counted(deploy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    deploy("submit")
    for _ in range(2):
        capsys.readouterr()
        post('{"prompt": "x"}', WRONG)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["RequestsRefused"] for line in lines if "RequestsRefused" in line] == [[1.0]]
        (refused,) = [line for line in lines if line.get("message") == "refused"]
        assert refused["code"] == "key_unknown"
        assert refused["milliseconds"] >= 0
        assert WRONG["x-api-key"] not in json.dumps(lines)
