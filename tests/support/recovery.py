"""The recovery task, and the state of a request after it."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sluice.services.tasks import recover
from tests.support.service import Service

NOON = datetime(2031, 1, 30, 12, tzinfo=UTC)


def run_recovery(service: Service) -> dict[str, Any]:
    return recover.run(service.tasks())


def state(service: Service, request_id: UUID) -> tuple[str, str | None]:
    (row,) = service.rows("SELECT status, error_code FROM requests WHERE request_id = %s", request_id)
    return row["status"], row["error_code"]
