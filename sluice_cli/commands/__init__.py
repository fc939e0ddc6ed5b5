"""The subcommands, a module for each subject. Each runs one operation of the admin function."""

from sluice_cli.commands.aliases import aliases
from sluice_cli.commands.audit import audit
from sluice_cli.commands.batches import batches
from sluice_cli.commands.budgets import budgets
from sluice_cli.commands.cache import cache
from sluice_cli.commands.invoice import invoice
from sluice_cli.commands.keys import keys
from sluice_cli.commands.maintenance import rollup, verify
from sluice_cli.commands.models import models
from sluice_cli.commands.prices import prices
from sluice_cli.commands.quotas import quotas
from sluice_cli.commands.requests import requests
from sluice_cli.commands.stats import stats
from sluice_cli.commands.tiers import tiers
from sluice_cli.commands.usage import usage
from sluice_cli.commands.users import users
from sluice_cli.commands.webhooks import webhooks

COMMANDS = (
    users,
    keys,
    tiers,
    quotas,
    budgets,
    prices,
    models,
    aliases,
    cache,
    requests,
    batches,
    webhooks,
    usage,
    invoice,
    stats,
    audit,
    verify,
    rollup,
)
