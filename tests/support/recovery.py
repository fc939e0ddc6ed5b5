"""The minute's sweep, and what it leaves of a request."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sluice.services.tasks import recover
from tests.support.service import Service

NOON = datetime(2031, 1, 30, 12, tzinfo=UTC)


def sweep(service: Service) -> dict[str, Any]:
    return recover.run(service.tasks())


def state(service: Service, request_id: UUID) -> tuple[str, str | None]:
    (row,) = service.rows("SELECT status, error_code FROM requests WHERE request_id = %s", request_id)
    return row["status"], row["error_code"]
