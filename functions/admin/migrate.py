"""The stack's custom resources: the schema, brought up to date before the functions that need it are deployed; a digest
of each function's settings, for its versions; and the functions' reserved concurrency, once they exist."""

import hashlib
import json
import urllib.request
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import bootstrap, concurrency
from sluice.db.capacity import set_waiting_room
from sluice.db.connection import connect
from sluice.db.connection_limits import limit_connections
from sluice.db.migrate import migrate
from sluice.domain.errors import SluiceError
from sluice.telemetry import logger

PHYSICAL_IDS = {
    "Custom::Schema": "sluice-schema",
    "Custom::Versions": "sluice-versions",
    "Custom::Concurrency": "sluice-concurrency",
}
# CloudFormation keeps no more of a reason than this (4 KB answer, other members included).
REASON_MAX = 1000


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Does the work on Create and Update and answers CloudFormation; Delete succeeds and never touches the schema.

    Without a ResponseURL (a person's `aws lambda invoke`) the schema is migrated and the report is only returned.
    """
    status, reason, data = "SUCCESS", "", {}
    try:
        match event.get("ResourceType"):
            case "Custom::Concurrency":
                data = _concurrency(event)
            case "Custom::Versions":
                data = _versions(event)
            case _:
                data = _schema(event)
    except Exception as error:  # noqa: BLE001  (whatever failed, CloudFormation waits for an answer)
        logger.exception("migration failed")
        status = "FAILED"
        reason = error.detail if isinstance(error, SluiceError) else f"{type(error).__name__}: {error}"
    report = {"Status": status, "Reason": reason[:REASON_MAX] or f"see the log {context.log_stream_name}", "Data": data}
    if "ResponseURL" in event:
        _answer(event, report)
    return report


def _schema(event: dict[str, Any]) -> dict[str, Any]:
    return {} if event.get("RequestType") == "Delete" else _migrate()


def _versions(event: dict[str, Any]) -> dict[str, str]:
    """A digest for each function of the settings that it has, those that it shares among them."""
    settings = dict(event["ResourceProperties"]["Settings"])
    shared = settings.pop("Shared")
    return {
        function: hashlib.sha256(json.dumps([shared, own]).encode()).hexdigest() for function, own in settings.items()
    }


def _concurrency(event: dict[str, Any]) -> dict[str, Any]:
    """Reserve in the mode `auto`. In the others, CloudFormation does by itself what the template says."""
    properties, before = event["ResourceProperties"], event.get("OldResourceProperties", {})
    wanted = {each["Function"]: int(each["Environments"]) for each in properties["Reservations"]}
    mode = properties["Mode"]
    sentence = f"ReserveConcurrency is {mode}."
    if event["RequestType"] == "Delete":
        if mode == "auto":
            concurrency.release(bootstrap.lambda_client(), wanted)
    elif mode == "auto":
        sentence = concurrency.reserve_if_possible(bootstrap.lambda_client(), wanted)
    elif mode == "false" and before.get("Mode") == "auto":
        concurrency.release(bootstrap.lambda_client(), wanted)
    logger.info("concurrency", extra={"concurrency": sentence})
    return {"Sentence": sentence}


def _migrate() -> dict[str, Any]:
    settings = bootstrap.settings()
    with connect(settings) as connection:
        report = migrate(connection)
        limits = limit_connections(
            connection,
            submit=settings.submit_concurrency,
            status=settings.status_concurrency,
            openai=settings.openai_concurrency,
            worker=settings.worker_concurrency,
        )
        set_waiting_room(connection, worker=settings.worker_concurrency)
    logger.info(
        "schema is up to date",
        extra={"version": report.schema_version, "applied": report.applied, "connections": limits.sentence},
    )
    return {"SchemaVersion": str(report.schema_version), "Connections": limits.sentence}


def _physical_id(event: dict[str, Any]) -> str:
    return str(event.get("PhysicalResourceId") or PHYSICAL_IDS[event.get("ResourceType", "Custom::Schema")])


def _answer(event: dict[str, Any], report: dict[str, Any]) -> None:
    ids = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    body = json.dumps(report | ids | {"PhysicalResourceId": _physical_id(event)}).encode()
    # The URL is signed for a request without a content type; it comes from CloudFormation.
    request = urllib.request.Request(event["ResponseURL"], data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        response.read()
