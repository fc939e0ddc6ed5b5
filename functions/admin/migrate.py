"""The stack's custom resource: brings the schema up to date before the functions that need it are deployed."""

import json
import urllib.request
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap
from sluice.db.connection import connect
from sluice.db.connection_limits import limit_connections
from sluice.db.migrate import migrate
from sluice.domain.errors import SluiceError
from sluice.telemetry import logger

PHYSICAL_ID = "sluice-schema"
# CloudFormation keeps no more of a reason than this (4 KB answer, other members included).
REASON_MAX = 1000


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Migrates on Create and Update and answers CloudFormation; Delete succeeds and touches nothing.

    Without a ResponseURL (a person's `aws lambda invoke`) the report is only returned.
    """
    status, reason, data = "SUCCESS", "", {}
    if event.get("RequestType") != "Delete":
        try:
            data = _migrate()
        except Exception as error:  # noqa: BLE001  (whatever failed, CloudFormation waits for an answer)
            logger.exception("migration failed")
            status = "FAILED"
            reason = error.detail if isinstance(error, SluiceError) else f"{type(error).__name__}: {error}"
    report = {"Status": status, "Reason": reason[:REASON_MAX] or f"see the log {context.log_stream_name}", "Data": data}
    if "ResponseURL" in event:
        _answer(event, report)
    return report


def _migrate() -> dict[str, Any]:
    settings = bootstrap.settings()
    with connect(settings) as connection:
        report = migrate(connection)
        limits = limit_connections(
            connection,
            submit=settings.submit_concurrency,
            status=settings.status_concurrency,
            worker=settings.worker_concurrency,
        )
    logger.info(
        "schema is up to date",
        extra={"version": report.schema_version, "applied": report.applied, "connections": limits.sentence},
    )
    return {"SchemaVersion": str(report.schema_version), "Connections": limits.sentence}


def _answer(event: dict[str, Any], report: dict[str, Any]) -> None:
    ids = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    body = json.dumps(report | ids | {"PhysicalResourceId": event.get("PhysicalResourceId", PHYSICAL_ID)}).encode()
    # The URL is signed for a request without a content type; it comes from CloudFormation.
    request = urllib.request.Request(event["ResponseURL"], data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        response.read()
