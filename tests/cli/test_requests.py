"""Listing, cancelling and redriving requests, page by page."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Deployment, fields, lines, ok, refused
from tests.cli.test_failures import line

ID = "0199b7a4-0000-7000-8000-00000000000{}"
REQUEST: dict[str, Any] = {
    "request_id": ID.format(1),
    "user_id": "alice",
    "model_id": "nova-micro",
    "status": "failed",
    "attempts": 3,
    "error_code": "model_unavailable",
    "error_message": "The model could not be reached. It was tried 3 times.",
    "created_at": "2027-01-01T00:00:00.123+00:00",
    "started_at": "2027-01-01T00:00:01+00:00",
    "completed_at": "2027-01-01T00:00:02+00:00",
    "prompt_tokens": None,
    "completion_tokens": None,
    "waits_for": None,
    "waits_until": None,
    "last_error": None,
    "finish_reason": None,
}
WAITING = REQUEST | {
    "request_id": ID.format(2),
    "status": "queued",
    "attempts": 1,
    "error_code": None,
    "completed_at": None,
    "waits_for": "retry",
    "waits_until": "2027-01-01T00:05:00+00:00",
    "last_error": "model_timeout",
}
ONE = ("requests", "redrive", ID.format(1))
MANY = ("requests", "redrive", "--reason", "model_unavailable", "--from", "2027-01-01", "--to", "2027-01-02")
SENT = "The recovery task sends them to the queue within a minute.\n"


# List and cancel ------------------------------------------------------------------------------------------------------


def listed(*requests: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    return {"requests": list(requests), "next_cursor": cursor}


def test_table_shows_why_requests_failed_or_wait(deployment: Deployment) -> None:
    shown = deployment.run("requests", "list", answers=listed(WAITING, REQUEST, cursor=None))
    header, *rows = lines(shown.stdout)
    waiting, failed = (dict(zip(header, row, strict=True)) for row in rows)
    assert waiting == {
        "created_at": "2027-01-01T00:00:00Z",
        "request_id": ID.format(2),
        "user_id": "alice",
        "model_id": "nova-micro",
        "status": "queued",
        "finish_reason": "-",
        "attempts": "1",
        "error_code": "-",
        "last_error": "model_timeout",
        "waits_for": "retry",
        "waits_until": "2027-01-01T00:05:00Z",
        "completed_at": "-",
    }
    assert (failed["status"], failed["error_code"], failed["waits_for"]) == ("failed", "model_unavailable", "-")
    assert failed["completed_at"] == "2027-01-01T00:00:02Z"
    assert shown.stderr == ""


def test_shows_how_an_answer_ended(deployment: Deployment) -> None:
    cut = REQUEST | {"status": "completed", "error_code": None, "error_message": None, "finish_reason": "length"}
    shown = deployment.run("requests", "list", "--finish-reason", "length", answers=listed(cut, cursor=None))
    header, row = lines(shown.stdout)
    assert dict(zip(header, row, strict=True))["finish_reason"] == "length"
    shown = deployment.run("requests", "show", ID.format(1), answers=cut | {"empty_reason": "reasoning"})
    found = fields(shown.stdout)
    assert (found["status"], found["finish_reason"], found["empty_reason"]) == ("completed", "length", "reasoning")
    # A service of an earlier version does not tell.
    older = {name: value for name, value in cut.items() if name != "finish_reason"}
    assert fields(deployment.run("requests", "show", ID.format(1), answers=older).stdout)["finish_reason"] == "-"


@pytest.mark.parametrize("prefix", ["resp_", "chatcmpl-"])
def test_an_id_of_openais_clients_names_the_request(deployment: Deployment, prefix: str) -> None:
    known = REQUEST | {"api": "chat", "erased_at": None}
    shown = deployment.run("requests", "show", prefix + ID.format(1).replace("-", ""), answers=known)
    assert fields(shown.stdout)["api"] == "chat"
    assert deployment.asked[-1].arguments == {"request_id": ID.format(1)}


def test_reads_requests_by_cursor(deployment: Deployment) -> None:
    pages = (ok(listed(WAITING, cursor=ID.format(2))), ok(listed(REQUEST, cursor=None)))
    shown = deployment.run("requests", "list", "--status", "failed", answers=pages)
    assert len(shown.stdout.splitlines()) == 3
    assert [each.arguments for each in deployment.asked] == [
        {"status": "failed", "limit": 500},
        {"status": "failed", "limit": 500, "before": ID.format(2)},
    ]

    shown = deployment.run("requests", "list", "--json", answers=pages)
    assert json.loads(shown.stdout) == listed(WAITING, REQUEST, cursor=None)


def test_limit_ends_the_list_and_prints_the_cursor(deployment: Deployment) -> None:
    shown = deployment.run("requests", "list", "--limit", "1", answers=listed(WAITING, cursor=ID.format(2)))
    assert deployment.asked[0].arguments == {"limit": 1}
    assert shown.stderr == f"There may be more: --after {ID.format(2)}\n"


@pytest.mark.parametrize(
    ("status", "note"),
    [
        ("cancelled", ""),
        (
            "processing",
            "A worker is processing it: it is cancelled when the worker is done, and the result is discarded.\n",
        ),
    ],
)
def test_cancel_shows_the_new_status(deployment: Deployment, status: str, note: str) -> None:
    result = {"request_id": ID.format(1), "user_id": "alice", "status": status}
    done = deployment.run("requests", "cancel", ID.format(1), answers=result)
    assert (done.exit_code, fields(done.stdout), done.stderr) == (0, result, note)

    done = deployment.run("requests", "cancel", ID.format(1), "--json", answers=result)
    assert (json.loads(done.stdout), done.stderr) == (result, "")


@pytest.mark.parametrize("code", ["request_not_found", "request_finished"])
def test_cancel_is_refused(deployment: Deployment, code: str) -> None:
    done = deployment.run("requests", "cancel", ID.format(1), answers=(refused(code, "Why not."),))
    assert line(done) == "Why not."


# Redrive --------------------------------------------------------------------------------------------------------------


def redriven(*outcomes: str, first: int = 1, cursor: str | None = None) -> dict[str, Any]:
    """An answer about requests with these outcomes, with ids numbered from `first`."""
    return {
        "redriven": outcomes.count("redriven"),
        "requests": [{"request_id": ID.format(n), "outcome": each} for n, each in enumerate(outcomes, first)],
        "next_cursor": cursor,
    }


def test_redrive_one_request(deployment: Deployment) -> None:
    done = deployment.run(*ONE, answers=redriven("redriven"))
    assert lines(done.stdout) == [["outcome", "requests"], ["redriven", "1"]]
    assert (done.exit_code, done.stderr) == (0, SENT)

    done = deployment.run(*ONE, "--json", answers=redriven("redriven"))
    assert (json.loads(done.stdout), done.stderr) == (redriven("redriven"), "")


@pytest.mark.parametrize(
    "code",
    [
        "request_not_found",
        "request_archived",
        "request_not_failed",
        "user_inactive",
        "request_erased",
        "model_unknown",
        "quota_exceeded",
    ],
)
def test_redrive_of_one_request_is_refused(deployment: Deployment, code: str) -> None:
    assert line(deployment.run(*ONE, answers=(refused(code, "Why not."),))) == "Why not."
    done = deployment.run(*ONE, "--json", answers=(refused(code, "Why not."),))
    assert (done.exit_code, done.stdout, json.loads(done.stderr)["code"]) == (1, "", code)


PAGES = (
    ok(redriven("redriven", "quota_exceeded", cursor="a")),
    ok(redriven(cursor="b")),
    ok(redriven("quota_exceeded", "redriven", "user_inactive", first=3)),
)


def test_redrive_many_reads_to_the_end_and_counts(deployment: Deployment) -> None:
    done = deployment.run(*MANY, answers=PAGES)
    asked = {
        "error_code": "model_unavailable",
        "start": "2027-01-01T00:00:00+00:00",
        "end": "2027-01-02T00:00:00+00:00",
        "limit": 500,
    }
    assert [each.arguments for each in deployment.asked] == [asked, asked | {"after": "a"}, asked | {"after": "b"}]
    totals, left = done.stdout.split("\n\n")
    assert lines(totals) == [
        ["outcome", "requests"],
        ["quota_exceeded", "2"],
        ["redriven", "2"],
        ["user_inactive", "1"],
    ]
    assert lines(left) == [
        ["request_id", "outcome"],
        [ID.format(2), "quota_exceeded"],
        [ID.format(3), "quota_exceeded"],
        [ID.format(5), "user_inactive"],
    ]
    assert (done.exit_code, done.stderr) == (0, SENT)


def test_redrive_many_as_json_is_one_object(deployment: Deployment) -> None:
    done = deployment.run(*MANY, "--json", answers=PAGES)
    outcomes = ("redriven", "quota_exceeded", "quota_exceeded", "redriven", "user_inactive")
    assert (json.loads(done.stdout), done.stderr) == (redriven(*outcomes), "")


def test_dry_run_lists_requests_without_redriving(deployment: Deployment) -> None:
    done = deployment.run(
        *MANY, "--dry-run", answers=(ok(redriven("found", cursor="a")), ok(redriven("found", first=2)))
    )
    assert [each.arguments["dry_run"] for each in deployment.asked] == [True, True]
    totals, found = done.stdout.split("\n\n")
    assert lines(totals) == [["outcome", "requests"], ["found", "2"]]
    assert lines(found)[1:] == [[ID.format(1), "found"], [ID.format(2), "found"]]
    assert done.stderr == ""


def test_request_on_two_pages_is_counted_once(deployment: Deployment) -> None:
    pages = (ok(redriven("found", "found", cursor="a")), ok(redriven("found", "found", first=2)))
    done = deployment.run(*MANY, "--dry-run", "--json", answers=pages)
    assert json.loads(done.stdout) == redriven("found", "found", "found")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_redrive_finds_no_requests(deployment: Deployment, more: tuple[str, ...]) -> None:
    done = deployment.run(*MANY, *more, answers=redriven())
    assert lines(done.stdout) == [["outcome", "requests"], ["redriven", "0"]]
    assert (done.exit_code, done.stderr) == (0, "")


def test_failure_after_a_page_still_shows_that_page(deployment: Deployment) -> None:
    first = redriven("redriven", "user_inactive", cursor="a")
    pages = (ok(first), refused("database_unavailable", "Try again."))
    done = deployment.run(*MANY, answers=pages)
    assert done.exit_code == 1
    assert lines(done.stdout)[1:3] == [["redriven", "1"], ["user_inactive", "1"]]
    assert done.stderr == f"{SENT}sluice: Try again.\n"

    done = deployment.run(*MANY, "--json", answers=pages)
    assert (done.exit_code, json.loads(done.stdout)) == (1, first)
    assert json.loads(done.stderr)["code"] == "database_unavailable"


def test_invalid_period_is_refused(deployment: Deployment) -> None:
    answer = refused("invalid_input", "start must be before end")
    assert line(deployment.run(*MANY, answers=(answer,))) == "start must be before end"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give the ID of one request, or --reason, --from and --to for many: --reason is missing."),
        (
            ["--reason", "model_unavailable", "--to", "2027-01-02"],
            "Give the ID of one request, or --reason, --from and --to for many: --from is missing.",
        ),
        ([ID.format(1), "--dry-run"], "ID is a single request and cannot be combined with --dry-run."),
        (
            [ID.format(1), "--reason", "model_unavailable", "--user", "alice"],
            "ID is a single request and cannot be combined with --reason or --user.",
        ),
    ],
)
def test_invalid_combination_of_options(deployment: Deployment, arguments: list[str], said: str) -> None:
    done = deployment.run("requests", "redrive", *arguments)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == f"Error: {said}"
    assert deployment.asked == []
