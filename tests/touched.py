"""Which linters and tests a change concerns; `make check` runs these.

    python tests/touched.py lint     targets of the Makefile
    python tests/touched.py tests    paths for pytest; what is left out is listed on standard error

A change is everything that differs from the commit at which the branch left main, committed or not. With SINCE=HEAD in
the environment, only what is not committed yet counts.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]

# These always run: they are quick, and nearly every change can break them.
ALWAYS = ["tests/unit", "tests/docs", "tests/tools"]

# What is tested when a file changes whose name matches; `*` stands for folders too. Python modules of the layer and of
# the tests are not listed: the tests that import them are found by their import lines.
RULES = {
    "template.yaml": ["tests/template", "tests/build", "tests/local/test_routes.py"],
    "samconfig.toml": ["tests/template"],
    "functions/*": ["tests/template", "tests/build", "tests/integration/test_functions.py"],
    "functions/openai/*": ["tests/integration/test_openai_answers.py"],
    "events/*": ["tests/integration/test_functions.py"],
    "sluice_cli/*": ["tests/cli"],
    "local/*": ["tests/local"],
    "benchmarks/*": ["tests/benchmarks"],
    "examples/benthos/*": ["tests/integration/test_benthos.py"],
    "openapi/*": ["tests/integration/test_functions.py"],
    "layers/shared/Makefile": ["tests/build"],
    "layers/shared/requirements.*": ["tests/build"],
    "layers/shared/certs/*": ["tests/build"],
    "layers/shared/sluice/sql/*": [
        "tests/integration/test_migrations.py",
        "tests/integration/test_submit.py",
        "tests/integration/test_ledger_at_once.py",
        "tests/integration/test_lifecycle.py",
        "tests/integration/test_invariants_kept.py",
    ],
}
# A change of these concerns every test.
EVERYTHING = ["pyproject.toml", "requirements/*", "tests/conftest.py"]
# These start the whole local stack, which alone takes most of a minute.
STACK = ["tests/e2e/*", "tests/chaos/*", "tests/burst/*"]

LINTERS = {
    "lint-types": ["*.py", "pyproject.toml"],
    "lint-template": ["template.yaml"],
    "lint-sql": ["layers/*.sql", ".squawk.toml"],
}

# Processor seconds. Together with the unit tests and the linters, the budget makes a minute on two processors.
BUDGET = 55
SECONDS = {
    "tests/integration/test_admin_refusals.py": 60,
    "tests/benchmarks/test_smoke.py": 50,
    "tests/integration/test_worker.py": 35,
    "tests/local/test_postgres.py": 35,
    "tests/integration/test_functions.py": 25,
    "tests/integration/test_ledger.py": 25,
    "tests/integration/test_interleavings.py": 20,
    "tests/integration/test_limits_hold.py": 20,
    "tests/integration/test_openai_fuzz.py": 35,
    "tests/integration/test_openai_refused.py": 45,
    "tests/integration/test_openai_repeats.py": 45,
    "tests/integration/test_openai_stored.py": 35,
    "tests/integration/test_openai_answers.py": 25,
    "tests/integration/test_openai_erase.py": 15,
    "tests/integration/test_submit.py": 15,
    "tests/integration/test_billing.py": 10,
    "tests/integration/test_lifecycle.py": 10,
    "tests/integration/test_recovery.py": 10,
    "tests/integration/test_retries.py": 10,
    "tests/integration/test_cancel.py": 8,
    "tests/cli/test_unwritable_output.py": 25,
    "tests/cli/test_extremes.py": 15,
    "tests/integration/test_admin_one_thing.py": 15,
    "tests/local/test_place.py": 10,
    # And every other file of these folders.
    "tests/integration": 4,
    "tests/cli": 3,
}
OTHERS = 2


@dataclass
class Selection:
    """Test files to run, and those that the change concerns as well but which would take too long."""

    tests: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def changed_files() -> list[str]:
    """The files that differ from the commit to compare with, and those that git does not know yet."""
    since = os.environ.get("SINCE") or _merge_base()
    differing = _git("diff", "--name-only", "-z", since)
    unknown = _git("ls-files", "--others", "--exclude-standard", "-z")
    return sorted({name for name in (differing + unknown).split("\0") if name})


def _merge_base() -> str:
    for branch in ("origin/main", "main"):
        try:
            return _git("merge-base", "HEAD", branch).strip()
        except subprocess.CalledProcessError:
            continue  # there is no such branch here
    return "HEAD"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


def linters(changed: Iterable[str]) -> list[str]:
    """The lint targets for these files; those for style and text take no time and always run."""
    names = list(changed)
    needed = [target for target, patterns in LINTERS.items() if any(_matches(name, patterns) for name in names)]
    return ["lint-python", *needed, "lint-text"]


def select(changed: Iterable[str]) -> Selection:
    """The tests for these files, besides those that always run."""
    names = list(changed)
    # Changed tests run in any case. The others follow, the quick ones first, until the budget is spent.
    first = [name for name in names if _is_test(name)]
    more = {test for name in names if not _is_test(name) for test in _tests_of(name)} - set(first)
    selection = Selection()
    spent = 0
    for test in [*first, *sorted(more, key=lambda each: (seconds(each), each))]:
        if not (ROOT / test).exists() or _matches(test, [f"{path}/*" for path in ALWAYS]):
            continue
        spent += seconds(test)
        fits = not _matches(test, STACK) and (test in first or spent <= BUDGET)
        (selection.tests if fits else selection.left).append(test)
    if any(_matches(name, EVERYTHING) for name in names):
        selection.left.append("tests")
    return selection


def seconds(test: str) -> int:
    """About how long a test file takes."""
    return SECONDS.get(test, SECONDS.get(Path(test).parent.as_posix(), OTHERS))


def _tests_of(name: str) -> set[str]:
    """The test files that a changed file concerns."""
    paths = [path for pattern, tests in RULES.items() if fnmatch(name, pattern) for path in tests]
    if name.startswith("tests/") and Path(name).name == "conftest.py" and not _matches(name, EVERYTHING):
        paths.append(Path(name).parent.as_posix())
    found = {test for path in paths for test in _files(path)}
    if name.endswith(".py") and name.startswith(("layers/shared/", "tests/", "local/")):
        found |= importers(_module(name))
    return found


def _files(path: str) -> list[str]:
    """A test file, or those of a folder."""
    if path.endswith(".py"):
        return [path]
    return [each.relative_to(ROOT).as_posix() for each in sorted((ROOT / path).rglob("test_*.py"))]


def _module(name: str) -> str:
    """The dotted name under which a file is imported."""
    path = name.removeprefix("layers/shared/").removesuffix(".py").removesuffix("/__init__")
    return path.replace("/", ".")


def importers(module: str) -> set[str]:
    """The test files that import a module, directly."""
    package, _, last = module.rpartition(".")
    lines = [rf"from {re.escape(module)} import ", rf"import {re.escape(module)}\b"]
    if package:
        lines.append(rf"from {re.escape(package)} import (?:\([^)]*|.*)\b{last}\b")
    pattern = re.compile(rf"^\s*(?:{'|'.join(lines)})", re.MULTILINE)
    return {test for test in _files("tests") if pattern.search((ROOT / test).read_text(encoding="utf-8"))}


def _is_test(name: str) -> bool:
    return fnmatch(name, "tests/*/test_*.py")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def main(what: str) -> None:
    changed = changed_files()
    if what == "lint":
        print(*linters(changed))
        return
    selection = select(changed)
    print(*ALWAYS, *selection.tests)
    if selection.left:
        print("check: these would take longer and are left to `make test`:", *selection.left, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
