"""The functions' handlers as Lambda calls them, on a real database; SQS and Secrets Manager are moto's."""

import importlib
import json
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from sluice import aws, bootstrap
from sluice.db import credentials
from sluice.telemetry import logger
from tests.support import conformance
from tests.support.service import KEY

Answer = tuple[int, dict[str, str], Any]
KEYED = {"x-api-key": KEY}
EVENTS = Path(__file__).parents[2] / "events"
HTTP = ("submit.app", "status.app", "openai.app")
_checked: set[str] = set()
CACHED = [
    each for module in (aws, bootstrap, credentials) for each in vars(module).values() if hasattr(each, "cache_clear")
]


class Context:
    """Lambda's context object."""

    function_name = "sluice-test"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:sluice-test"
    aws_request_id = "5f7d5c9e-0000-4000-8000-000000000000"
    log_stream_name = "stream"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def event(name: str, **changes: Any) -> dict[str, Any]:
    """An event of events/ with changed members."""
    template: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return template | changes


def new_environment() -> None:
    """As if Lambda had started another execution environment."""
    if bootstrap.database.cache_info().currsize:
        bootstrap.database().close()
    for cached in CACHED:
        cached.cache_clear()
    log_to(sys.stdout)


def load(name: str) -> ModuleType:
    """A function's module: submit.app, admin.migrate, ... Answers over HTTP are checked against the OpenAPI document."""
    module = importlib.import_module(f"functions.{name}")
    if name in HTTP and name not in _checked:
        module.handler = conformance.checked(module.handler)  # type: ignore[attr-defined]
        _checked.add(name)
    return module


def log_to(stream: TextIO) -> None:
    """Redirect the functions' logs."""
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.stream = stream  # setStream would flush the old one, which may be closed


def call(name: str, event_name: str, **changes: Any) -> Answer:
    """An HTTP answer: status, headers, decoded body."""
    answer = load(name).handler(event(event_name, **changes), Context())
    return answer["statusCode"], answer["headers"], json.loads(answer["body"])


def get(path: str, headers: dict[str, str] | None = None, **query: str) -> Answer:
    http = event("status")
    http["requestContext"]["http"] |= {"path": path, "method": "GET"}
    http |= {"rawPath": path, "headers": headers or {}, "queryStringParameters": query or None}
    answer = load("status.app").handler(http, Context())
    return answer["statusCode"], answer["headers"], json.loads(answer["body"])


def post(body: str, headers: dict[str, str] | None = None) -> Answer:
    return call("submit.app", "submit", body=body, headers=headers or KEYED)


def administer(operation: Any, **arguments: Any) -> dict[str, Any]:
    """Call the admin function."""
    answer: dict[str, Any] = load("admin.app").handler({"operation": operation, "arguments": arguments}, Context())
    return answer
