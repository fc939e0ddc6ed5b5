"""The shares of a server's connections that the database roles get."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.connection_limits import OWNER_CONNECTIONS, RESERVE, connection_limits

CONCURRENCY = st.integers(1, 1000)


def test_what_fits_is_given() -> None:
    limits = connection_limits(submit=20, status=20, openai=10, worker=5, max_connections=100)
    assert limits.limits == {
        "sluice_submit": 20,
        "sluice_status": 20,
        "sluice_worker": 10,
        "sluice_openai": 10,
        "sluice_foreground": 10,
        "sluice_rollup": 4,
        "sluice_admin": 5,
        "sluice_webhooks": 2,
        "sluice_batches": 2,
    }
    assert limits.sentence == (
        "Connection limits: submit 20, status 20, worker 10, openai 10, foreground 10, rollup 4, admin 5, webhooks 2, "
        "batches 2; the server has 100, of which 16 stay free."
    )


def test_a_server_that_is_too_small_is_shared_in_proportion_and_named() -> None:
    limits = connection_limits(submit=100, status=20, openai=10, worker=5, max_connections=100)
    assert limits.limits == {
        "sluice_submit": 45,
        "sluice_status": 9,
        "sluice_worker": 5,
        "sluice_openai": 5,
        "sluice_foreground": 5,
        "sluice_rollup": 4,
        "sluice_admin": 5,
        "sluice_webhooks": 2,
        "sluice_batches": 2,
    }
    assert limits.sentence.endswith(
        "It is too small for what the parameters ask for: submit 100, status 20, worker 10, openai 10, foreground 10."
    )


@given(
    submit=CONCURRENCY,
    status=CONCURRENCY,
    openai=CONCURRENCY,
    worker=CONCURRENCY,
    max_connections=st.integers(35, 5000),
)
def test_the_reserve_is_never_given_away(
    submit: int, status: int, openai: int, worker: int, max_connections: int
) -> None:
    given = connection_limits(
        submit=submit, status=status, openai=openai, worker=worker, max_connections=max_connections
    ).limits
    assert sum(given.values()) + OWNER_CONNECTIONS + RESERVE <= max_connections
    assert min(given.values()) >= 1
    assert given["sluice_submit"] <= submit
    assert given["sluice_status"] <= status


@pytest.mark.parametrize("max_connections", [1, 25])
def test_even_the_smallest_server_gives_each_role_one(max_connections: int) -> None:
    given = connection_limits(submit=20, status=20, openai=10, worker=5, max_connections=max_connections)
    assert min(given.limits.values()) == 1
