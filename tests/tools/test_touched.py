"""`make check` runs what a change concerns, and says what it leaves out."""

import pytest

from tests.touched import ALWAYS, BUDGET, EVERYTHING, ROOT, RULES, SECONDS, STACK, importers, linters, seconds, select


def test_what_the_rules_name_exists() -> None:
    named = [*ALWAYS, *(path for paths in RULES.values() for path in paths), *SECONDS]
    assert [path for path in named if not (ROOT / path).exists()] == []
    patterns = [*RULES, *EVERYTHING, *STACK]
    assert [pattern for pattern in patterns if not any(ROOT.glob(pattern.replace("/*", "/**/*")))] == []


def test_a_changed_test_runs_and_those_that_always_run_are_not_repeated() -> None:
    selection = select(["tests/template/test_alarms.py", "tests/unit/test_keys.py", "README.md"])
    assert selection.tests == ["tests/template/test_alarms.py"]
    assert selection.left == []


def test_a_changed_test_runs_however_long_it_takes() -> None:
    name = "tests/integration/test_admin_refusals.py"
    assert SECONDS[name] > BUDGET
    assert select([name]).tests == [name]


def test_a_test_of_the_whole_stack_is_left_to_make_test() -> None:
    selection = select(["tests/e2e/test_stack.py"])
    assert (selection.tests, selection.left) == ([], ["tests/e2e/test_stack.py"])


def test_a_deleted_test_is_not_run() -> None:
    assert select(["tests/cli/test_that_was_removed.py"]).tests == []


@pytest.mark.parametrize(
    ("changed", "folder"),
    [
        ("sluice_cli/commands/users.py", "tests/cli/"),
        ("template.yaml", "tests/template/"),
        ("template.yaml", "tests/build/"),
        ("functions/submit/app.py", "tests/build/"),
        ("local/ports.py", "tests/local/"),
        ("benchmarks/report.py", "tests/benchmarks/"),
        ("layers/shared/requirements.txt", "tests/build/"),
        ("layers/shared/sluice/sql/functions/anything.sql", "tests/integration/"),
        ("tests/cli/conftest.py", "tests/cli/"),
    ],
)
def test_a_file_leads_to_the_tests_of_its_folder(changed: str, folder: str) -> None:
    assert any(test.startswith(folder) for test in select([changed]).tests)


def test_the_tests_that_import_a_module_are_found() -> None:
    here = "tests/tools/test_touched.py"
    assert here in importers("tests.touched")
    assert here in importers("pytest")
    assert here not in importers("tests.touch")


def test_what_exceeds_the_budget_is_left_out_and_named() -> None:
    selection = select(["tests/integration/conftest.py"])
    assert 0 < sum(map(seconds, selection.tests)) <= BUDGET
    assert "tests/integration/test_ledger.py" in selection.left
    assert not set(selection.tests) & set(selection.left)


def test_what_concerns_everything_is_said_to() -> None:
    assert select(["pyproject.toml"]).left == ["tests"]


@pytest.mark.parametrize(
    ("changed", "targets"),
    [
        ("docs/api.md", {"lint-python", "lint-text"}),
        ("tests/unit/test_keys.py", {"lint-python", "lint-types", "lint-text"}),
        ("sluice_cli/root.py", {"lint-python", "lint-types", "lint-text"}),
        ("template.yaml", {"lint-python", "lint-template", "lint-text"}),
        ("layers/shared/sluice/sql/functions/requests/submit.sql", {"lint-python", "lint-sql", "lint-text"}),
    ],
)
def test_linters_run_for_what_they_read(changed: str, targets: set[str]) -> None:
    assert set(linters([changed])) == targets
