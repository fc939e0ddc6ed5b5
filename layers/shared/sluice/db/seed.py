"""The tiers and models that are shipped: inserted where nothing has their name."""

import json
from pathlib import Path
from typing import Any, Final

from psycopg.types.json import Jsonb

from sluice.db.connection import Connection

_TIER: Final = """
    INSERT INTO tiers (tier, reset_frequency, max_unfinished, dispatch_window, max_file_bytes)
    VALUES (%(tier)s, %(reset_frequency)s, %(max_unfinished)s, %(dispatch_window)s, %(max_file_bytes)s)
    ON CONFLICT (tier) DO NOTHING
    RETURNING tier"""
_TIER_LIMIT: Final = """
    INSERT INTO tier_limits (tier, quota_period, max_requests, max_tokens)
    VALUES (%(tier)s, %(quota_period)s, %(max_requests)s, %(max_tokens)s)"""
_MODEL: Final = """
    SELECT model_set(%(description)s, 'migrate')
    WHERE NOT EXISTS (SELECT FROM models m WHERE m.model_id = %(description)s->>'model_id')
      AND NOT EXISTS (SELECT FROM model_aliases a WHERE a.alias = %(description)s->>'model_id')"""


def seed(connection: Connection, directory: Path) -> None:
    """Insert what is missing; the connection's search path leads to the schema.

    Args:
        directory: of tiers.json and models.json.
    """
    for tier in _rows(directory / "tiers.json"):
        limits = tier.pop("limits")
        if connection.execute(_TIER, tier).fetchone() is not None:
            for period, limit in limits.items():
                connection.execute(_TIER_LIMIT, {"tier": tier["tier"], "quota_period": period} | limit)
    for model in _rows(directory / "models.json"):
        connection.execute(_MODEL, {"description": Jsonb(model)})


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows
