"""Output: results on standard output, as text or JSON; everything else on standard error."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Deployment, fields, lines
from tests.cli.test_verify import BALANCED

USER = {
    "user_id": "alice",
    "name": None,
    "email": "alice@example.com",
    "tier": "gold",
    "is_active": True,
    "created_at": "2027-01-01 13:00:00.123456+01:00",
    "updated_at": "2027-01-02T00:00:00+00:00",
}
API_KEY = "sluice_" + "k" * 43
KEY = {
    "key_id": "0199b7a4-0000-7000-8000-000000000001",
    "user_id": "alice",
    "key_prefix": "sluice_kkkkkk",
    "name": "ci",
    "scopes": ["submit", "read"],
    "created_at": "2027-01-01T00:00:00+00:00",
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
}


# Text -----------------------------------------------------------------------------------------------------------------


def test_record_has_one_field_per_line(deployment: Deployment) -> None:
    shown = deployment.run("users", "show", "alice", answers=USER)
    assert fields(shown.stdout) == {
        "user_id": "alice",
        "name": "-",
        "email": "alice@example.com",
        "tier": "gold",
        "is_active": "yes",
        "created_at": "2027-01-01T12:00:00Z",
        "updated_at": "2027-01-02T00:00:00Z",
    }
    assert shown.stderr == ""


def test_table_has_a_header_and_one_line_per_row(deployment: Deployment) -> None:
    keys = [KEY, KEY | {"name": "a longer name", "revoked_at": "2027-02-01T00:00:00+00:00"}]
    shown = deployment.run("keys", "list", "alice", answers=keys)
    header, first, second = shown.stdout.splitlines()
    for title in ("key_id", "key_prefix", "name", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at"):
        assert title in header
    assert header.index("scopes") == first.index("submit,read") == second.index("submit,read")
    assert header.index("revoked_at") == second.index("2027-02-01T00:00:00Z")
    assert first.split()[-3:] == ["never", "never", "-"]


def test_pipe_gets_full_values_without_escape_codes(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm-256color")
    long = "x" * 300
    shown = deployment.run("users", "list", answers=[USER | {"name": long}, USER | {"email": long}])
    assert len(shown.stdout.splitlines()) == 3
    assert shown.stdout.count(long) == 2
    assert "…" not in shown.stdout
    assert "\x1b" not in shown.stdout
    assert all(line == line.rstrip() for line in shown.stdout.splitlines())


@pytest.mark.parametrize(
    ("name", "shown_as"),
    [
        ("[bold]A[/bold]", "[bold]A[/bold]"),
        ("[/]", "[/]"),
        (":smile:", ":smile:"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\tand a tab", r"two\nlines\tand a tab"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\x9b31m", r"\x9b31m"),
        ("Ünïcödé 日本", "Ünïcödé 日本"),
    ],
)
@pytest.mark.parametrize("command", [("users", "show", "alice"), ("users", "list")])
def test_names_are_printed_as_plain_text(
    deployment: Deployment, name: str, shown_as: str, command: tuple[str, ...]
) -> None:
    user = USER | {"name": name}
    shown = deployment.run(*command, answers=user if "show" in command else [user])
    assert shown.exit_code == 0
    assert shown_as in shown.stdout
    assert len(shown.stdout.splitlines()) == (len(USER) if "show" in command else 2)


def test_wide_characters_keep_columns_aligned(deployment: Deployment) -> None:
    users = [USER | {"name": "日本"}, USER | {"name": "abcd"}]
    _, wide, narrow = deployment.run("users", "list", answers=users).stdout.splitlines()
    assert narrow.index("alice@") == wide.index("alice@") + 2


def test_null_limit_is_shown_as_unlimited(deployment: Deployment) -> None:
    tier = {
        "tier": "gold",
        "reset_frequency": "daily",
        "max_unfinished": 20,
        "dispatch_window": 10,
        "price_list": "standard",
        "limits": {"minute": {"max_requests": 5, "max_tokens": None}, "daily": {"max_requests": 0, "max_tokens": 7}},
        "users": 3,
        "users_changed": 2,
    }
    shown = fields(deployment.run("tiers", "set", "gold", "--daily-tokens", "7", answers=tier).stdout)
    assert (shown["minute_requests"], shown["minute_tokens"]) == ("5", "unlimited")
    assert (shown["daily_requests"], shown["daily_tokens"]) == ("0", "7")
    # A limit that the service did not send is not unlimited.
    assert shown["monthly_tokens"] == "-"
    assert shown["users_changed"] == "2"


def test_quota_shows_plan_and_periods(deployment: Deployment) -> None:
    period = {"period": "daily", "max_requests": None, "requests_used": 3, "max_tokens": 100, "tokens_used": 30}
    quota = {"user_id": "alice", "tier": "gold", "unfinished": 1, "max_unfinished": 20, "periods": [period]}
    plan, table = deployment.run("quotas", "show", "alice", answers=quota).stdout.split("\n\n")
    assert fields(plan)["max_unfinished"] == "20"
    header, row = lines(table)
    assert dict(zip(header, row, strict=True)) | {
        "period": "daily",
        "requests_used": "3",
        "max_requests": "unlimited",
        "max_tokens": "100",
    } == dict(zip(header, row, strict=True))


def test_prices_models_and_rollup_figures_are_tables(deployment: Deployment) -> None:
    price = {"price_list": "standard", "model_id": "nova", "token_class": "prompt", "price_per_million": "0.035"}
    assert "0.035" in deployment.run("prices", "list", answers=[price]).stdout
    model = {"model_id": "nova", "backend": "bedrock", "prices": {"prompt": "0.0350"}, "is_default": False}
    assert {"nova", "0.0350", "no"} <= set(lines(deployment.run("models", "list", answers=[model]).stdout)[1])
    figures = {"recover": {"requeued": 2}, "partitions": {"created": ["a", "b"]}, "archive": {"archived": []}}
    assert lines(deployment.run("rollup", "recover", "partitions", "archive", answers=figures).stdout)[1:] == [
        ["recover", "requeued", "2"],
        ["partitions", "created", "a,b"],
        ["archive", "archived", "-"],
    ]


def usage_answer() -> dict[str, Any]:
    model = {"model": "nova", "requests": 2, "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    span = {
        "requests": 3,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "total_tokens": 30,
        "costs": [{"currency": "USD", "amount": "1.50"}, {"currency": "EUR", "amount": "0.25"}],
        "unpriced_tokens": 4,
        "models": [
            model | {"costs": [{"currency": "USD", "amount": "1.50"}], "unpriced_tokens": 0},
            model | {"model": "free", "costs": [], "unpriced_tokens": 15},
        ],
    }
    limit = {"period": "daily", "requests_used": 3, "max_requests": 10, "resets_at": "2027-01-02T00:00:00+00:00"}
    return {
        "user_id": "alice",
        "tier": "gold",
        "limits": [limit | {"max_tokens": None, "tokens_remaining": None}],
        "unfinished": {"requests": 1, "max_requests": 20},
        "start": "2027-01-01",
        "end": "2027-01-01",
        "days": [{"day": "2027-01-01"} | span],
        "months": [{"month": "2027-01"} | span],
    }


def test_usage_shows_totals_or_models(deployment: Deployment) -> None:
    user, limits, days, months = deployment.run("usage", "show", "alice", answers=usage_answer()).stdout.split("\n\n")
    assert fields(user)["max_unfinished"] == "20"
    assert "unlimited" in limits
    assert "2027-01-02T00:00:00Z" in limits
    cost = ["3", "20", "10", "30", "1.50", "USD", "+", "0.25", "EUR", "4"]
    assert lines(days)[1:] == [["2027-01-01", *cost]]
    assert lines(months)[1:] == [["2027-01", *cost]]

    by_model = deployment.run("usage", "show", "alice", "--by-model", answers=usage_answer()).stdout.split("\n\n")
    assert lines(by_model[3])[1:] == [
        ["2027-01", "nova", "2", "10", "5", "15", "1.50", "USD", "0"],
        ["2027-01", "free", "2", "10", "5", "15", "-", "15"],
    ]


def test_usage_shows_cached_and_reasoning_tokens_if_there_are_any(deployment: Deployment) -> None:
    answer = usage_answer()
    answer["days"][0] |= {"cached_tokens": 12, "reasoning_tokens": 0}
    _, _, days, months = deployment.run("usage", "show", "alice", answers=answer).stdout.split("\n\n")
    assert lines(days)[1][:6] == ["2027-01-01", "3", "20", "10", "30", "12"]
    assert ("cached_tokens" in days, "reasoning_tokens" in days, "cached_tokens" in months) == (True, False, False)


def test_tier_comparison_has_a_column_per_tier(deployment: Deployment) -> None:
    compared = {"user_id": "alice", "tier": "gold", "months": 12, "max_requests": 5, "max_tokens": 9}
    tiers = [
        {"tier": "basic", "fits": False, "currency": "USD", "cost": "1.00"},
        {"tier": "gold", "fits": True, "currency": "USD", "cost": "2.00"},
    ]
    users = [compared | {"recommended_tier": "gold", "tiers": tiers}, compared | {"user_id": "bob", "tiers": []}]
    header, alice, bob = lines(deployment.run("usage", "tiers", answers=users).stdout)
    assert header[-2:] == ["cost_basic", "cost_gold"]
    assert alice[-5:] == ["1.00", "USD", "*", "2.00", "USD"]
    assert bob[-2:] == ["-", "-"]


def test_invoice_has_a_summary_and_lines(deployment: Deployment) -> None:
    line = {"model": "nova", "token_class": "prompt", "tokens": 10, "price_per_million": None, "amount": "0.00"}
    invoice = {"user_id": "alice", "month": "2027-01", "status": "final", "total": "12.30", "lines": [line]}
    head, table = deployment.run("invoice", "alice", "2027-01", answers=invoice).stdout.split("\n\n")
    assert fields(head)["total"] == "12.30"
    assert "none" in lines(table)[1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_is_printed_unchanged(deployment: Deployment, end: str) -> None:
    csv = end.join(["model,amount", '"a ""b"", [c]",1.00', "日本,2.00", ""])
    shown = deployment.run("invoice", "alice", "2027-01", "--csv", answers={"csv": csv})
    assert shown.stdout_bytes == csv.encode()


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("create", "alice"), ("rotate", KEY["key_id"])])
def test_new_key_is_shown_once_with_a_warning(deployment: Deployment, command: tuple[str, ...]) -> None:
    old = KEY | {"key_id": "the-old-one", "expires_at": "2027-01-03T00:00:00+00:00"}
    made = deployment.run("keys", *command, answers=KEY | {"api_key": API_KEY, "replaces": old})
    assert fields(made.stdout)["api_key"] == API_KEY
    assert made.stdout.count(API_KEY) == 1
    assert API_KEY not in made.stderr
    assert "only time" in made.stderr
    if "rotate" in command:
        assert fields(made.stdout)["replaces"] == "the-old-one"
        assert fields(made.stdout)["replaced_until"] == "2027-01-03T00:00:00Z"


# Warnings ---------------------------------------------------------------------------------------------------------------


def test_warnings_are_on_standard_error(deployment: Deployment) -> None:
    warned = USER | {"warnings": ["alice may use less.", "Two\nlines."]}
    done = deployment.run("users", "update", "alice", "--tier", "basic", answers=warned)
    assert done.exit_code == 0
    assert done.stderr.splitlines() == ["Warning: alice may use less.", r"Warning: Two\nlines."]
    assert "warnings" not in done.stdout

    done = deployment.run("users", "update", "alice", "--tier", "basic", "--json", answers=warned)
    assert json.loads(done.stdout) == warned
    assert done.stderr == ""


# JSON -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("users show alice", USER | {"name": "[b]Ünï\x1b[0m"}),
        ("users list", [USER]),
        ("keys create alice", KEY | {"api_key": API_KEY}),
        ("keys list alice", []),
        ("tiers list", [{"tier": "gold", "limits": {}, "new_in_a_later_version": [1, 2.5, None]}]),
        ("usage show alice", usage_answer()),
        ("invoice alice 2027-01 --csv", {"csv": "a,b\r\n"}),
        ("audit list", {"entries": [{"audit_id": "1"}], "next_cursor": None}),
        ("verify", BALANCED),
        ("rollup usage", {"usage": {"rows": 1}}),
    ],
)
def test_json_is_exactly_the_result(deployment: Deployment, line: str, result: object) -> None:
    for command in (["--json", *line.split()], [*line.split(), "--json"]):
        done = deployment.run(*command, answers=result)
        assert done.exit_code == 0
        assert json.loads(done.stdout) == result
        assert done.stdout.isascii()
        assert done.stderr == ""


def test_json_option_between_group_and_command(deployment: Deployment) -> None:
    assert json.loads(deployment.run("users", "--json", "show", "alice", answers=USER).stdout) == USER
