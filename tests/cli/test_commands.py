"""Each command sends one operation with exactly the given arguments."""

import datetime as dt
from typing import Any

import click
import pytest

from sluice_cli.root import cli
from tests.cli.conftest import Deployment, run

KEY = "0199b7a4-0000-7000-8000-000000000001"
REQUEST = "0199b7a4-0000-7000-8000-000000000002"

# command line, operation, arguments; the results are empty, which every view must accept
COMMANDS: list[tuple[str, str, dict[str, Any]]] = [
    ("users create alice", "user.create", {"user_id": "alice"}),
    (
        "users create alice --name Alice --email a@example.com --tier gold",
        "user.create",
        {"user_id": "alice", "name": "Alice", "email": "a@example.com", "tier": "gold"},
    ),
    ("users show alice", "user.get", {"user_id": "alice"}),
    ("users show -- -_3kzqF", "user.get", {"user_id": "-_3kzqF"}),
    ("audit list --user -_3kzqF", "audit.list", {"user_id": "-_3kzqF", "limit": 500}),
    ("users list", "user.list", {"limit": 500}),
    ("users list --after alice --limit 7", "user.list", {"after": "alice", "limit": 7}),
    (
        "users update alice --name A --email b@example.com --tier gold --active",
        "user.update",
        {"user_id": "alice", "name": "A", "email": "b@example.com", "tier": "gold", "is_active": True},
    ),
    (
        "users update alice --no-name --no-email --inactive",
        "user.update",
        {"user_id": "alice", "name": None, "email": None, "is_active": False},
    ),
    ("users update alice --tier gold", "user.update", {"user_id": "alice", "tier": "gold"}),
    ("users deactivate alice", "user.deactivate", {"user_id": "alice"}),
    ("users activate alice", "user.activate", {"user_id": "alice"}),
    ("keys create alice", "key.create", {"user_id": "alice"}),
    (
        "keys create alice --name ci --scope read --scope submit --expires 2027-01-01T00:00:00Z",
        "key.create",
        {"user_id": "alice", "name": "ci", "scopes": ["read", "submit"], "expires_at": "2027-01-01T00:00:00+00:00"},
    ),
    ("keys list alice", "key.list", {"user_id": "alice"}),
    (f"keys rotate {KEY}", "key.rotate", {"key_id": KEY}),
    (
        f"keys rotate {KEY} --overlap 24h --expires 2027-06-01",
        "key.rotate",
        {"key_id": KEY, "overlap_seconds": 86400, "expires_at": "2027-06-01T00:00:00+00:00"},
    ),
    (f"keys rotate {KEY} --overlap 0s", "key.rotate", {"key_id": KEY, "overlap_seconds": 0}),
    (f"keys rotate {KEY} --overlap 90m", "key.rotate", {"key_id": KEY, "overlap_seconds": 5400}),
    (f"keys rotate {KEY} --overlap 7d", "key.rotate", {"key_id": KEY, "overlap_seconds": 604800}),
    (
        f"keys expire {KEY} 2027-01-01T01:00:00+01:00",
        "key.expire",
        {"key_id": KEY, "expires_at": "2027-01-01T01:00:00+01:00"},
    ),
    (f"keys expire {KEY} never", "key.expire", {"key_id": KEY, "expires_at": None}),
    (f"keys revoke {KEY}", "key.revoke", {"key_id": KEY}),
    ("tiers list", "tier.list", {}),
    ("tiers show gold", "tier.get", {"tier": "gold"}),
    ("tiers set gold --minute-requests 100", "tier.set", {"tier": "gold", "limits": {"minute": {"max_requests": 100}}}),
    (
        (
            "tiers set gold --minute-requests 1 --minute-tokens 2 --daily-requests 3 --daily-tokens unlimited"
            " --monthly-requests unlimited --monthly-tokens 0 --max-unfinished 7 --dispatch-window 8"
            " --reset-frequency daily --price-list special"
        ),
        "tier.set",
        {
            "tier": "gold",
            "limits": {
                "minute": {"max_requests": 1, "max_tokens": 2},
                "daily": {"max_requests": 3, "max_tokens": None},
                "monthly": {"max_requests": None, "max_tokens": 0},
            },
            "max_unfinished": 7,
            "dispatch_window": 8,
            "reset_frequency": "daily",
            "price_list": "special",
        },
    ),
    ("quotas show alice", "quota.get", {"user_id": "alice"}),
    (
        "quotas set alice --daily-tokens 50000 --monthly-requests unlimited --max-unfinished 20",
        "quota.set",
        {
            "user_id": "alice",
            "limits": {"daily": {"max_tokens": 50000}, "monthly": {"max_requests": None}},
            "max_unfinished": 20,
        },
    ),
    (
        "quotas set alice --max-file-bytes unlimited",
        "quota.set",
        {"user_id": "alice", "max_file_bytes": None},
    ),
    ("tiers set gold --max-file-bytes 0", "tier.set", {"tier": "gold", "max_file_bytes": 0}),
    (
        "quotas set alice --dispatch-window 3 --reset-frequency monthly",
        "quota.set",
        {"user_id": "alice", "dispatch_window": 3, "reset_frequency": "monthly"},
    ),
    ("quotas clear alice", "quota.clear", {"user_id": "alice"}),
    (
        "quotas clear alice --period minute --period daily",
        "quota.clear",
        {"user_id": "alice", "periods": ["minute", "daily"]},
    ),
    ("budgets show alice", "budget.list", {"user_id": "alice"}),
    (
        "budgets set alice --daily 5 --monthly unlimited",
        "budget.set",
        {"user_id": "alice", "limits": {"daily": "5", "monthly": None}},
    ),
    (
        f"budgets set alice --key {KEY} --model nova-micro --monthly 0.50 --currency USD",
        "budget.set",
        {
            "user_id": "alice",
            "key_id": KEY,
            "model_id": "nova-micro",
            "currency": "USD",
            "limits": {"monthly": "0.50"},
        },
    ),
    ("budgets clear alice", "budget.clear", {"user_id": "alice"}),
    (
        f"budgets clear alice --key {KEY} --model nova-micro",
        "budget.clear",
        {"user_id": "alice", "key_id": KEY, "model_id": "nova-micro"},
    ),
    ("budgets clear alice --all", "budget.clear", {"user_id": "alice", "is_all": True}),
    ("prices list", "price.list", {}),
    (
        "prices list --price-list standard --model nova-micro --on 2027-01-31",
        "price.list",
        {"price_list": "standard", "model_id": "nova-micro", "on": "2027-01-31"},
    ),
    ("prices windows", "price.windows", {}),
    ("prices windows --price-list offer", "price.windows", {"price_list": "offer"}),
    ("prices window 24h patient", "price.window", {"window": "24h", "window_list": "patient"}),
    (
        "prices window 2h patient --price-list offer --from 2027-01-01",
        "price.window",
        {"window": "2h", "window_list": "patient", "price_list": "offer", "valid_from": "2027-01-01"},
    ),
    ("stats windows", "stats.windows", {}),
    (
        "stats windows --from 2027-01-01 --to 2027-01-31",
        "stats.windows",
        {"start": "2027-01-01", "end": "2027-01-31"},
    ),
    (
        "prices set nova-micro --prompt 0.035 --completion 0.14 --from 2027-01-01",
        "price.set",
        {"model_id": "nova-micro", "prompt": "0.035", "completion": "0.14", "valid_from": "2027-01-01"},
    ),
    (
        "prices set nova-micro --cached-prompt 0.01 --reasoning 0",
        "price.set",
        {"model_id": "nova-micro", "cached_prompt": "0.01", "reasoning": "0"},
    ),
    (
        "prices set nova-micro --completion 1e-3 --price-list euro --currency EUR",
        "price.set",
        {"model_id": "nova-micro", "completion": "0.001", "price_list": "euro", "currency": "EUR"},
    ),
    ("models list", "model.list", {}),
    (
        "models set small --backend bedrock --backend-model nova",
        "model.set",
        {"model_id": "small", "backend": "bedrock", "backend_model": "nova"},
    ),
    (
        (
            "models set small --backend openai --backend-model org/small --endpoint http://127.0.0.1/v1 --secret-arn arn:s"
            " --max-tokens-default 1 --max-tokens-limit 2 --overhead-tokens 0 --timeout-seconds 4 --default --inactive"
            " --prompt-price 0.10 --completion-price 0.200 --cached-prompt-price 0.01 --reasoning-price 0"
        ),
        "model.set",
        {
            "model_id": "small",
            "backend": "openai",
            "backend_model": "org/small",
            "endpoint": "http://127.0.0.1/v1",
            "secret_arn": "arn:s",
            "max_tokens_default": 1,
            "max_tokens_limit": 2,
            "overhead_tokens": 0,
            "timeout_seconds": 4,
            "is_default": True,
            "is_active": False,
            "prices": {"prompt": "0.10", "cached_prompt": "0.01", "completion": "0.200", "reasoning": "0"},
        },
    ),
    (
        "models set small --backend bedrock --backend-model nova --completion-price 1",
        "model.set",
        {"model_id": "small", "backend": "bedrock", "backend_model": "nova", "prices": {"completion": "1"}},
    ),
    ("models set small --max-tokens-limit 900", "model.set", {"model_id": "small", "max_tokens_limit": 900}),
    (
        "models set small --no-endpoint --no-secret-arn --no-default --force",
        "model.set",
        {"model_id": "small", "endpoint": None, "secret_arn": None, "is_default": False, "force": True},
    ),
    (
        "models set vectors --kind embedding --item-tokens 0 --image-tokens 765",
        "model.set",
        {"model_id": "vectors", "kind": "embedding", "item_tokens": 0, "image_tokens": 765},
    ),
    ("models fallback small big other", "model.fallback", {"model_id": "small", "fallbacks": ["big", "other"]}),
    ("models fallback small --none", "model.fallback", {"model_id": "small", "fallbacks": []}),
    (
        "keys create alice --model small --model big",
        "key.create",
        {"user_id": "alice", "models": ["small", "big"]},
    ),
    (
        "keys create alice --cache-max-age 10m",
        "key.create",
        {"user_id": "alice", "cache_max_age": 600},
    ),
    ("tiers set gold --cache-max-age 0s", "tier.set", {"tier": "gold", "cache_max_age": 0}),
    (
        "models set painter --kind image --backend openai --backend-model gpt-image-1",
        "model.set",
        {"model_id": "painter", "kind": "image", "backend": "openai", "backend_model": "gpt-image-1"},
    ),
    (
        "models set small --cache-max-age 1h --cached-answer-price 5",
        "model.set",
        {"model_id": "small", "cache_max_age": 3600, "prices": {"cached_answer": "5"}},
    ),
    ("models set small --no-cache-max-age", "model.set", {"model_id": "small", "cache_max_age": None}),
    ("prices set small --cached-answer 5", "price.set", {"model_id": "small", "cached_answer": "5"}),
    ("cache purge alice", "cache.purge", {"user_id": "alice"}),
    ("batches list", "batch.list", {}),
    (
        "batches list --user alice --status expired --limit 7",
        "batch.list",
        {"user_id": "alice", "status": "expired", "limit": 7},
    ),
    (f"batches show batch_{'a' * 32}", "batch.show", {"batch_id": f"batch_{'a' * 32}"}),
    (f"batches cancel batch_{'a' * 32}", "batch.cancel", {"batch_id": f"batch_{'a' * 32}"}),
    ("webhooks list alice", "webhook.list", {"user_id": "alice"}),
    ("webhooks deliveries alice", "webhook.deliveries", {"user_id": "alice"}),
    (
        "webhooks deliveries alice --status dead --limit 7",
        "webhook.deliveries",
        {"user_id": "alice", "state": "dead", "limit": 7},
    ),
    (f"webhooks redeliver evt_{'a' * 32}", "webhook.redeliver", {"event_id": f"evt_{'a' * 32}"}),
    (f"webhooks enable we_{'a' * 32}", "webhook.enable", {"endpoint_id": f"we_{'a' * 32}"}),
    (f"webhooks disable we_{'a' * 32}", "webhook.disable", {"endpoint_id": f"we_{'a' * 32}"}),
    (f"webhooks delete we_{'a' * 32}", "webhook.delete", {"endpoint_id": f"we_{'a' * 32}"}),
    ("cache purge --model small", "cache.purge", {"model_id": "small"}),
    ("stats calibration", "stats.calibration", {}),
    (
        "stats calibration --model small --start 2027-01-01 --end 2027-01-31",
        "stats.calibration",
        {"model_id": "small", "start": "2027-01-01", "end": "2027-01-31"},
    ),
    ("models set small --no-images", "model.set", {"model_id": "small", "image_tokens": None}),
    ("models set small --no-mapping", "model.set", {"model_id": "small", "mapping": None}),
    ("aliases list", "alias.list", {}),
    ("aliases set gpt-4o-mini small", "alias.set", {"alias": "gpt-4o-mini", "model_id": "small"}),
    ("models alias gpt-4o-mini small", "alias.set", {"alias": "gpt-4o-mini", "model_id": "small"}),
    ("aliases remove gpt-4o-mini", "alias.remove", {"alias": "gpt-4o-mini"}),
    ("requests list", "request.list", {"limit": 500}),
    ("requests list --finish-reason length", "request.list", {"finish_reason": "length", "limit": 500}),
    (f"requests show {REQUEST}", "request.get", {"request_id": REQUEST}),
    (
        (
            "requests list --user alice --status failed --reason model_unavailable --from 2027-01-01"
            " --to 2027-01-02T00:00Z --after r --limit 3"
        ),
        "request.list",
        {
            "user_id": "alice",
            "status": "failed",
            "error_code": "model_unavailable",
            "start": "2027-01-01T00:00:00+00:00",
            "end": "2027-01-02T00:00:00+00:00",
            "before": "r",
            "limit": 3,
        },
    ),
    (f"requests cancel {REQUEST}", "request.cancel", {"request_id": REQUEST}),
    (f"requests redrive {REQUEST}", "request.redrive", {"request_id": REQUEST}),
    (
        "requests redrive --reason model_unavailable --from 2027-01-01 --to 2027-01-02T12:00:00+01:00",
        "request.redrive",
        {
            "error_code": "model_unavailable",
            "start": "2027-01-01T00:00:00+00:00",
            "end": "2027-01-02T12:00:00+01:00",
            "limit": 500,
        },
    ),
    (
        "requests redrive --reason worker_lost --from 2027-01-01 --to 2027-01-02 --user alice --dry-run",
        "request.redrive",
        {
            "error_code": "worker_lost",
            "start": "2027-01-01T00:00:00+00:00",
            "end": "2027-01-02T00:00:00+00:00",
            "user_id": "alice",
            "dry_run": True,
            "limit": 500,
        },
    ),
    ("usage show alice", "usage.get", {"user_id": "alice"}),
    (
        "usage show alice --start 2027-01-01 --end 2027-01-31 --by-model",
        "usage.get",
        {"user_id": "alice", "start": "2027-01-01", "end": "2027-01-31"},
    ),
    ("usage tiers", "usage.tiers", {"limit": 500}),
    (
        "usage tiers --user alice --start 2026-02 --end 2027-01",
        "usage.tiers",
        {"user_id": "alice", "start_month": "2026-02", "end_month": "2027-01", "limit": 500},
    ),
    ("usage show alice --by-key", "usage.get", {"user_id": "alice", "by_key": True}),
    ("usage show alice --by-tag project", "usage.get", {"user_id": "alice", "by_tag": "project"}),
    ("usage show alice --csv", "usage.get", {"user_id": "alice", "format": "csv"}),
    (
        "invoice alice 2027-01 --by-key",
        "invoice.get",
        {"user_id": "alice", "month": "2027-01", "by_key": True},
    ),
    (
        "invoice alice 2027-01 --by-tag project --csv",
        "invoice.get",
        {"user_id": "alice", "month": "2027-01", "by_tag": "project", "format": "csv"},
    ),
    ("invoice alice 2027-01", "invoice.get", {"user_id": "alice", "month": "2027-01"}),
    (
        "invoice alice 2027-01 --csv --price-list special",
        "invoice.get",
        {"user_id": "alice", "month": "2027-01", "format": "csv", "price_list": "special"},
    ),
    ("audit list", "audit.list", {"limit": 500}),
    (
        (
            "audit list --user alice --request r --action key.create --start 2027-01-01 --end 2027-01-02T00:00Z"
            " --after c --limit 3"
        ),
        "audit.list",
        {
            "user_id": "alice",
            "request_id": "r",
            "action": "key.create",
            "start": "2027-01-01T00:00:00+00:00",
            "end": "2027-01-02T00:00:00+00:00",
            "after": "c",
            "limit": 3,
        },
    ),
    ("verify", "verify", {}),
    ("verify --full --head 12:ab", "verify", {"full": True, "head": "12:ab"}),
    ("rollup recover", "rollup.run", {"tasks": ["recover"]}),
    (
        "rollup usage verify --full --head 12:ab",
        "rollup.run",
        {"tasks": ["usage", "verify"], "full": True, "head": "12:ab"},
    ),
]
LISTS = {"user.list", "key.list", "tier.list", "price.list", "price.set", "model.list", "usage.tiers"}


def empty(operation: str) -> Any:
    verified = {"balanced": True}
    return [] if operation in LISTS else {"verify": verified, "rollup.run": {"verify": verified}}.get(operation, {})


@pytest.mark.parametrize(("line", "operation", "arguments"), COMMANDS, ids=[line for line, *_ in COMMANDS])
def test_command_sends_one_operation(
    deployment: Deployment, line: str, operation: str, arguments: dict[str, Any]
) -> None:
    done = deployment.run(*line.split(), answers=empty(operation))
    assert (done.exit_code, done.exception) == (0, None), done.stderr
    (asked,) = deployment.asked
    assert (asked.name, asked.arguments) == (operation, arguments)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(command, click.Group):
        return [leaf for name, each in command.commands.items() for leaf in leaves(each, (*path, name))]
    return [path]


def test_list_of_commands_is_complete() -> None:
    for path in leaves(cli):
        assert any(tuple(line.split())[: len(path)] == path for line, *_ in COMMANDS), path


@pytest.mark.parametrize("path", leaves(cli), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    shown = run(*path, "--help")
    assert shown.exit_code == 0
    assert f"Usage: sluice {' '.join(path)}" in shown.stdout
    assert "--json" in shown.stdout


def test_since_is_relative_to_now(deployment: Deployment) -> None:
    before = dt.datetime.now(dt.UTC)
    deployment.run("audit", "list", "--since", "2h", answers={"entries": [], "next_cursor": None})
    asked = dt.datetime.fromisoformat(deployment.asked[0].arguments["start"])
    assert before <= asked + dt.timedelta(hours=2) <= dt.datetime.now(dt.UTC)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "users",
        "users create",
        "users update alice",
        "users update alice --name A --no-name",
        "users update alice --email a@example.com --no-email",
        "users list --limit 0",
        "users list --limit many",
        "keys create alice --scope all",
        "keys create alice --expires soon",
        "keys create alice --expires 2027-01-01T00:00:00",
        "keys create alice --expires 2027-02-30",
        f"keys rotate {KEY} --overlap 24",
        f"keys rotate {KEY} --overlap -1h",
        f"keys expire {KEY}",
        f"keys expire {KEY} whenever",
        "tiers set gold --daily-tokens lots",
        "tiers set gold --daily-tokens 1.5",
        "tiers set gold --max-unfinished unlimited",
        "tiers set gold --max-file-bytes -1",
        "tiers set gold --reset-frequency weekly",
        "quotas set alice",
        "quotas clear alice --period weekly",
        "prices list --on 2027-1-1",
        "prices list --on 20270101",
        "prices list --on 2027-02-30",
        "prices set nova",
        "prices set nova --prompt cheap",
        "prices set nova --prompt nan",
        "prices set nova --prompt inf",
        "models set small",
        "models set small --force",
        "models set small --endpoint http://127.0.0.1/v1 --no-endpoint",
        "models set small --secret-arn arn:s --no-secret-arn",
        "models set small --backend magic --backend-model x",
        "models set small --kind video",
        "models set small --cache-max-age 60",
        "models set small --cache-max-age 1h --no-cache-max-age",
        "models fallback small",
        "models fallback small big --none",
        "cache purge",
        "stats calibration --start yesterday",
        "stats windows --from yesterday",
        "prices window 1h patient",
        "prices window soonest patient",
        "prices window 24h",
        "prices window 24h patient --from tomorrow",
        "models set small --image-tokens 5 --no-images",
        "aliases set gpt-4o-mini",
        "aliases remove",
        "requests list --status lost",
        "requests list --finish-reason bored",
        "requests show",
        "requests list --from yesterday",
        "requests list --limit 0",
        "requests cancel",
        f"requests cancel {REQUEST} {REQUEST}",
        "requests redrive",
        "requests redrive --user alice --dry-run",
        "requests redrive --reason model_unavailable",
        "requests redrive --reason model_unavailable --from 2027-01-01",
        "requests redrive --reason model_unavailable --from 2027-01-01 --to 2027-01-02T00:00:00",
        "requests redrive --from 2027-01-01 --to 2027-01-02",
        f"requests redrive {REQUEST} --reason model_unavailable --from 2027-01-01 --to 2027-01-02",
        f"requests redrive {REQUEST} --user alice",
        f"requests redrive {REQUEST} --dry-run",
        "usage tiers --start 2027-13",
        "invoice alice",
        "invoice alice 2027-01 --by-key --by-tag project",
        "usage show alice --by-key --by-model",
        "budgets set alice",
        "budgets set alice --daily much",
        "budgets clear alice --all --model nova-micro",
        "invoice alice 2027-1",
        "invoice alice 2027-01-01",
        "audit list --start 2027-01-01 --since 2h",
        "rollup",
        "rollup everything",
        "--stack production --state .local users list",
        "--region eu-west-1 users list",
        "users list --profile production",
    ],
)
def test_invalid_usage_is_refused(deployment: Deployment, line: str) -> None:
    done = run(*line.split())
    # `sluice users` alone shows its help.
    assert done.exit_code == (0 if line == "users" else 2)
    assert "Usage: sluice" in done.stdout + done.stderr
    assert deployment.asked == []
