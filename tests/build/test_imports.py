"""Imports of the functions, which import-linter cannot check: a function's folder is not a package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.template.stack import ROOT, handlers

FUNCTIONS = sorted({folder for folder, _ in handlers().values()})
# What handlers need: the event and the answer (Powertools), and the project's own package.
ALLOWED = {"aws_lambda_powertools", "sluice", "pydantic"}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_imports_only_the_layer(function: str) -> None:
    import sys

    for path in (ROOT / "functions" / function).rglob("*.py"):
        for module in imported(path):
            top = module.partition(".")[0]
            assert top in ALLOWED or top in sys.stdlib_module_names, f"{path.name} imports {module}"


def test_there_are_no_other_functions() -> None:
    assert sorted(path.name for path in (ROOT / "functions").iterdir() if path.is_dir()) == FUNCTIONS


def test_shipped_code_does_not_import_the_local_stack_or_the_tests() -> None:
    shipped = [*(ROOT / "functions").rglob("*.py"), *(ROOT / "layers/shared/sluice").rglob("*.py")]
    for path in shipped:
        for module in imported(path):
            assert module.partition(".")[0] not in {"local", "tests", "benchmarks", "openapi", "functions"}, path


def test_only_the_configuration_reads_the_environment() -> None:
    readers = {
        path.name
        for path in (ROOT / "layers/shared/sluice").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    # credentials.py: the variables of the role, which are AWS's and no settings. validator.py: where its child, which gets
    # no other variables, finds the libraries of Lambda's Python.
    assert readers <= {"config.py", "bootstrap.py", "credentials.py", "validator.py"}
