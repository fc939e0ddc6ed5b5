"""Failed requests, and the state that a redrive changes."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.support.service import Service, failed


def fail(service: Service, *ids: UUID, attempt: int = 1, **changes: Any) -> None:
    """Fail these requests with model_rejected, or as `changes` say."""
    service.claim(*ids)
    service.settle(*[failed(each, attempt, **changes) for each in ids])


def now_ish(**more: Any) -> dict[str, Any]:
    """Arguments that select what failed with model_rejected in this test."""
    around = {name: datetime.now(UTC) + timedelta(hours=hours) for name, hours in (("start", -1), ("end", 1))}
    return {"error_code": "model_rejected"} | {name: at.isoformat() for name, at in around.items()} | more


def request_state(service: Service) -> list[Any]:
    """Every row that a redrive may change."""
    return [service.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("requests_all", "inflight", "quotas")]


def counters(service: Service, user_id: str = "alice") -> list[tuple[int, int, int]]:
    """Requests counted, tokens used and tokens reserved: one entry where all periods agree."""
    rows = service.rows(
        "SELECT DISTINCT requests_used, tokens_used, tokens_reserved FROM quotas WHERE user_id = %s", user_id
    )
    return [tuple(row.values()) for row in rows]


def statuses(service: Service) -> dict[UUID, str]:
    return {row["request_id"]: row["status"] for row in service.rows("SELECT request_id, status FROM requests_all")}


def outcomes(result: dict[str, Any]) -> dict[str, str]:
    return {each["request_id"]: each["outcome"] for each in result["requests"]}
