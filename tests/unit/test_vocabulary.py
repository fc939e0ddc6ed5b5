"""The closed sets of the system: each is the same in the vocabulary, in the code that uses it and in the schema."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import sluice
from sluice import backends, bootstrap
from sluice.backends.registry import BACKENDS
from sluice.domain.batches import BatchStatus
from sluice.domain.documents import FINISH_REASONS
from sluice.domain.errors import ERRORS
from sluice.domain.failures import FAILURES
from sluice.domain.objects import ObjectClass
from sluice.domain.requests import ModelKind
from sluice.domain.states import Status
from sluice.domain.uploads import StoredPurpose, UploadStatus
from sluice.domain.vocabulary import FREQUENCIES, PERIODS, SCOPES, TOKEN_CLASSES
from sluice.domain.webhooks import DisabledReason, EventState
from sluice.domain.windows import SOONEST, WINDOW_LENGTHS, CompletionWindow
from sluice.services import tasks
from sluice.services.admin.administer import OPERATIONS
from sluice.services.admin.budgets import Amounts
from sluice.services.admin.models import Prices, PriceSet
from sluice.services.admin.refusals import REFUSALS
from sluice.services.admin.tiers import PeriodLimits
from sluice.services.billing import CACHED, CACHED_ANSWER, COMPLETION, PROMPT, REASONING
from sluice.services.tasks import run

PACKAGE = Path(sluice.__path__[0])
SCHEMA = "\n".join(path.read_text() for path in sorted(PACKAGE.glob("sql/migrations/*.sql")))
FUNCTIONS = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.glob("sql/functions/*/*.sql")}
SQL = "\n".join([SCHEMA, *FUNCTIONS.values()])
SOURCES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{module.name}")


def literals(*paths: str) -> set[str]:
    """All texts in the code of some modules."""
    return {
        node.value
        for path in paths
        for node in ast.walk(SOURCES[path])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def first_arguments(*functions: str) -> set[str]:
    """The texts that are the first argument in a call of some functions, in the whole package."""
    return {
        node.args[0].value
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in functions
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


# The code -------------------------------------------------------------------------------------------------------------


def test_every_backend_has_a_module_and_is_composed() -> None:
    def is_backend(value: object) -> bool:
        return inspect.isclass(value) and hasattr(value, "complete") and not getattr(value, "_is_protocol", False)

    defining = [
        module.__name__.rpartition(".")[2]
        for module in modules(backends)
        if any(is_backend(value) and value.__module__ == module.__name__ for value in vars(module).values())
    ]
    assert set(BACKENDS) == set(bootstrap.backends()) == set(defining)


def test_every_task_has_a_module_and_can_be_run() -> None:
    defining = {
        module.__name__.rpartition(".")[2]: module.run
        for module in modules(tasks)
        if inspect.isfunction(getattr(module, "run", None)) and module.run.__module__ == module.__name__
    }
    assert defining == run.TASKS


def test_periods_are_the_fields_of_limits() -> None:
    assert set(PeriodLimits.model_fields) == set(PERIODS)
    assert set(FREQUENCIES) < set(PERIODS)


def test_token_classes_are_the_fields_of_prices() -> None:
    assert tuple(Prices.model_fields) == (PROMPT, CACHED, COMPLETION, REASONING, CACHED_ANSWER) == TOKEN_CLASSES
    assert set(TOKEN_CLASSES) < set(PriceSet.model_fields)
    (listed,) = re.findall(r"FUNCTION token_classes\(\).*?ARRAY\[(.*?)\]", SQL, re.DOTALL)
    assert tuple(re.findall(r"\w+", listed)) == TOKEN_CLASSES


def test_completion_windows_are_those_of_the_database() -> None:
    body = FUNCTIONS["sql/functions/core/windows.sql"]
    listed = re.findall(r"\('(\w+)', interval '(\d+) hours'\)", body)
    assert {name: timedelta(hours=int(hours)) for name, hours in listed} == WINDOW_LENGTHS
    assert tuple(WINDOW_LENGTHS) == get_args(CompletionWindow)
    (offered,) = re.findall(r"completion_window is ([\w, ]+)'", FUNCTIONS["sql/functions/requests/submissions.sql"])
    assert set(re.findall(r"\d+h|soonest", offered)) == {SOONEST, *WINDOW_LENGTHS}


# The schema -----------------------------------------------------------------------------------------------------------

UNFINISHED = tuple(status for status in Status if not status.is_final)
FINAL = tuple(status for status in Status if status.is_final)
KNOWN: dict[str, tuple[str, ...]] = {
    "requests_status_known": tuple(Status),
    "inflight_status_known": UNFINISHED,
    "tier_limits_period_known": PERIODS,
    "quotas_period_known": PERIODS,
    "tiers_reset_frequency_known": FREQUENCIES,
    "quota_plans_reset_frequency_known": FREQUENCIES,
    "usage_period_known": FREQUENCIES,
    "usage_by_model_period_known": FREQUENCIES,
    "budgets_period_known": tuple(Amounts.model_fields),
    "api_keys_scopes_known": SCOPES,
    "prices_token_class_known": TOKEN_CLASSES,
    "requests_finish_reason_known": FINISH_REASONS,
    "models_kind_known": get_args(ModelKind),
    "objects_class_known": get_args(ObjectClass),
    "batches_status_known": get_args(BatchStatus),
    "files_purpose_known": get_args(StoredPurpose),
    "uploads_status_known": get_args(UploadStatus),
    "webhook_events_state_known": get_args(EventState),
    "webhook_endpoints_disabled_reason_known": get_args(DisabledReason),
}


def words_of(constraint: str) -> tuple[str, ...]:
    """The words that a CHECK constraint allows, as IN (...) or as an array."""
    # A later migration may define it again.
    *_, words = re.findall(rf"CONSTRAINT {constraint}\s+CHECK \(+\w+ (?:IN \(|<@ )([^)]*?)(?:\)| AND)", SCHEMA)
    return tuple(re.findall(r"\w+", words))


@pytest.mark.parametrize("constraint", KNOWN)
def test_constraint_allows_the_words_of_the_vocabulary(constraint: str) -> None:
    assert words_of(constraint) == KNOWN[constraint]


def test_every_constraint_on_words_is_compared() -> None:
    # The others of this name are foreign keys.
    assert set(re.findall(r"CONSTRAINT (\w+_known)\s+CHECK", SCHEMA)) == set(KNOWN)


def test_finished_requests_are_those_in_a_final_state() -> None:
    assert words_of("requests_finished_has_time") == FINAL


def test_new_keys_have_every_scope() -> None:
    (default,) = re.findall(r"scopes\s+varchar\(20\)\[\] NOT NULL DEFAULT '\{(.*?)\}'", SCHEMA)
    assert tuple(default.split(",")) == SCOPES


# Errors ---------------------------------------------------------------------------------------------------------------


def test_every_raised_error_is_listed() -> None:
    assert first_arguments("SluiceError") <= set(ERRORS)
    assert {code for code, _ in REFUSALS.values()} <= set(ERRORS)


@pytest.mark.parametrize("code", ERRORS)
def test_every_listed_error_is_used(code: str) -> None:
    used = literals(*(path for path in SOURCES if path != "domain/errors.py"))
    assert code in used or re.search(rf"\b{code}\b", SQL)


def test_every_refusal_of_the_database_is_an_error() -> None:
    assert set(re.findall(r"admin_refuse\('(\w+)'\)", SQL)) <= set(REFUSALS)


@pytest.mark.parametrize("constraint", REFUSALS)
def test_every_refusal_is_a_constraint_or_a_code_of_the_database(constraint: str) -> None:
    # Primary keys have the names that PostgreSQL gives them.
    table = constraint.removesuffix("_pkey")
    assert re.search(rf"CREATE TABLE {table} " if table != constraint else rf"\b{constraint}\b", SQL)


def test_operations_of_the_database_are_known_to_both_sides() -> None:
    known = {name.replace("_", ".", 1) for name in re.findall(r"FUNCTION admin_(\w+)\(a jsonb\)", SQL)}
    named = literals(*(path for path in SOURCES if path.startswith("services/admin/")))
    assert known <= set(OPERATIONS) & named
    assert first_arguments("database_operation", "run") <= known


# Failures of requests -------------------------------------------------------------------------------------------------

WORKER = ("services/process.py", "services/answering.py", *(path for path in SOURCES if path.startswith("backends/")))


def test_failures_with_a_message_are_those_of_the_worker() -> None:
    with_message = {code for code, failure in FAILURES.items() if failure.message is not None}
    assert literals(*WORKER) & set(FAILURES) == with_message
    assert first_arguments("ModelError") <= with_message


def test_failures_without_a_message_are_those_of_the_database() -> None:
    without_message = {code for code, failure in FAILURES.items() if failure.message is None}
    recover = FUNCTIONS["sql/functions/dispatch/recover.sql"]
    assert set(re.findall(r"'error_code', '(\w+)'", recover)) == without_message


def test_every_code_that_is_written_as_a_model_failure_is_listed() -> None:
    # The tables of the backends hold codes and no other words of this form.
    codes = {word for word in literals(*WORKER) if re.fullmatch(r"(model|worker)_[a-z_]+", word)}
    assert codes - {"model_id", "worker_id"} <= set(FAILURES)
