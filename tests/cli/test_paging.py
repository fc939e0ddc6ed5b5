"""Lists that take more than one call."""

import json
from typing import Any

from tests.cli.conftest import Deployment, lines, ok, refused


def users(first: int, last: int) -> list[dict[str, Any]]:
    return [{"user_id": f"user-{n:04}"} for n in range(first, last + 1)]


def test_reads_users_to_the_end(deployment: Deployment) -> None:
    pages = (ok(users(1, 500)), ok(users(501, 1000)), ok(users(1001, 1001)))
    shown = deployment.run("users", "list", answers=pages)
    assert [words[0] for words in lines(shown.stdout)] == ["user_id", *(f"user-{n:04}" for n in range(1, 1002))]
    assert [each.arguments for each in deployment.asked] == [
        {"limit": 500},
        {"limit": 500, "after": "user-0500"},
        {"limit": 500, "after": "user-1000"},
    ]
    assert shown.stderr == ""


def test_limit_ends_the_list_and_prints_the_cursor(deployment: Deployment) -> None:
    shown = deployment.run("users", "list", "--limit", "501", answers=(ok(users(1, 500)), ok(users(501, 501))))
    assert len(shown.stdout.splitlines()) == 502
    assert [each.arguments["limit"] for each in deployment.asked] == [500, 1]
    assert "--after user-0501" in shown.stderr


def test_json_joins_the_pages(deployment: Deployment) -> None:
    shown = deployment.run("users", "list", "--json", answers=(ok(users(1, 500)), ok([])))
    assert json.loads(shown.stdout) == users(1, 500)


def entries(*ids: str, cursor: str | None) -> dict[str, Any]:
    return {"entries": [{"audit_id": each, "after": {"tier": "gold"}} for each in ids], "next_cursor": cursor}


def test_reads_audit_entries_by_cursor(deployment: Deployment) -> None:
    pages = (ok(entries("1", "2", cursor="2")), ok(entries("a-longer-id", cursor=None)))
    shown = deployment.run("audit", "list", "--user", "alice", answers=pages)
    assert [each.arguments for each in deployment.asked] == [
        {"user_id": "alice", "limit": 500},
        {"user_id": "alice", "limit": 500, "after": "2"},
    ]
    header, *rows = shown.stdout.splitlines()
    assert [row.split()[6] for row in rows] == ["1", "2", "a-longer-id"]
    assert all('{"tier":"gold"}' in row for row in rows)
    assert header.split()[:3] == ["at", "actor", "action"]

    pages = (ok(entries("1", "2", cursor="2")), ok(entries("3", cursor="3")))
    shown = deployment.run("audit", "list", "--limit", "3", "--json", answers=pages)
    assert json.loads(shown.stdout) == entries("1", "2", "3", cursor="3")
    assert [each.arguments["limit"] for each in deployment.asked[2:]] == [3, 1]


def test_prints_a_page_before_fetching_the_next(deployment: Deployment) -> None:
    pages = (ok(entries("1", cursor="1")), refused("database_unavailable", "Try again."))
    shown = deployment.run("audit", "list", answers=pages)
    assert shown.exit_code == 1
    assert len(shown.stdout.splitlines()) == 2
    # Some of the entries would not be a result.
    assert deployment.run("audit", "list", "--json", answers=pages).stdout == ""


def test_tier_comparison_reads_all_users(deployment: Deployment) -> None:
    shown = deployment.run("usage", "tiers", "--json", answers=(ok(users(1, 500)), ok(users(501, 501))))
    assert json.loads(shown.stdout) == users(1, 501)
    assert [each.arguments for each in deployment.asked] == [{"limit": 500}, {"limit": 500, "after": "user-0500"}]
