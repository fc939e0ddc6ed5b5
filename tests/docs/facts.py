"""What the code says about itself, for comparison with the documentation. The service's modules are named here only."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from sluice.api import cachestatus
from sluice.config import Settings
from sluice.domain.errors import ERRORS
from sluice.domain.failures import FAILURES
from sluice.services.admin.administer import OPERATIONS
from tests.template.stack import read

ROOT = Path(__file__).parents[2]
LAYER = ROOT / "layers/shared/sluice"

ERROR_CODES = set(ERRORS)
MODEL_ERROR_CODES = set(FAILURES)
OPERATION_NAMES = set(OPERATIONS)
# The header Cache-Status, without the name of the cache.
CACHE_WORDS = set(cachestatus._WORDS.values())
# A setting's default, for functions without the variable.
SETTINGS = {name: field.default for name, field in Settings.model_fields.items()}


@cache
def template() -> dict[str, Any]:
    return read()


def resources(kind: str) -> dict[str, dict[str, Any]]:
    """The template's resources of a type, by logical id."""
    return {name: body for name, body in template()["Resources"].items() if body["Type"] == kind}


def routes() -> set[str]:
    """Method and path of every route of the API."""
    events = [
        event
        for function in resources("AWS::Serverless::Function").values()
        for event in function["Properties"].get("Events", {}).values()
    ]
    return {
        f"{event['Properties']['Method'].upper()} {event['Properties']['Path']}"
        for event in events
        if event["Type"] == "HttpApi"
    }


@cache
def openai_routes() -> set[str]:
    """Those of OpenAI's API, which share a route of the template."""
    text = "".join(path.read_text() for path in sorted((LAYER / "api/openai").glob("*.py")))
    found = re.findall(r'@router\.(get|post|delete)\("([^"]+)"\)', text)
    return {f"{method.upper()} {path.replace('<', '{').replace('>', '}')}" for method, path in found}


@cache
def sql() -> str:
    """All SQL functions, without comments."""
    text = "\n".join(path.read_text() for path in sorted((LAYER / "sql/functions").rglob("*.sql")))
    return re.sub(r"--.*", "", text)


@cache
def service() -> str:
    """The text of the whole package: Python and SQL."""
    return "\n".join(path.read_text() for path in sorted(LAYER.rglob("*")) if path.suffix in {".py", ".sql"})


def audit_actions() -> set[str]:
    """Every `subject.what` that the SQL or the administration writes into the audit log, or looks for in it.

    The names of operations have the same form: they are left out where a CASE compares with them.
    """
    named = set(re.findall(r"(?<!WHEN )'([a-z]+\.[a-z_]+)'", sql()))
    compared = set(re.findall(r"\bWHEN '([a-z]+\.[a-z_]+)'", sql()))
    noted = set(re.findall(r"""(?:["']action["']: |\.note\()["']([a-z]+\.[a-z_]+)["']""", service()))
    actions = named | (compared - OPERATION_NAMES) | noted
    # Settings and names of locks; types of webhooks' events.
    return {action for action in actions if not action.startswith(("sluice.", "response."))}
