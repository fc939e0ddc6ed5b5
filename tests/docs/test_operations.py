"""The pages for operators agree with the template and with what the service does."""

import re
from typing import Any

import pytest

from tests.docs import facts
from tests.docs.markdown import PAGES, Page, code_spans, page, table

SETUP = page("docs/setup.md")
OPERATIONS = page("docs/operations.md")
PARAMETERS: dict[str, dict[str, Any]] = facts.template()["Parameters"]
# name: (default as written, meaning)
DOCUMENTED = {
    name: (row[1], row[2]) for row in table(SETUP.section("### Parameters"), "parameter") for name in code_spans(row[0])
}


def test_the_table_of_parameters_has_those_of_the_template() -> None:
    assert set(DOCUMENTED) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_defaults_and_allowed_values_are_the_templates(name: str) -> None:
    written, meaning = DOCUMENTED[name]
    default = str(PARAMETERS[name]["Default"])
    if len(default) < 60:  # a longer one is described in words
        assert written.strip("`") == (default or "empty")

    allowed = [str(value) for value in PARAMETERS[name].get("AllowedValues", [])]
    named = [value for value in allowed if re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.]\w)(?!\w)", meaning)]
    if set(named) - {default, "true", "false"}:
        assert set(named) | {default} == set(allowed), "either all of the allowed values are listed, or none"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_pages_name_are_parameters_and_values_of_the_template(page: Page) -> None:
    """As in: `ReserveConcurrency=true`; and as in: `MaxPromptBytes` (32,768 by default)."""
    for span in page.spans:
        if found := re.fullmatch(r"([A-Z][a-z]+(?:[A-Z][a-z]+)+)=(\w+)", span):
            name, value = found.groups()
            assert name in PARAMETERS, f"{page.name}: {span}"
            assert value in [str(each) for each in PARAMETERS[name].get("AllowedValues", [value])], page.name
    for name, default in re.findall(r"`([A-Z]\w+)`[^`|\n(]*\(([\d,]+) by default", page.prose):
        assert int(default.replace(",", "")) == PARAMETERS[name]["Default"], f"{page.name}: {name}"


def test_the_table_of_alarms_has_those_of_the_template() -> None:
    documented = {name for row in table(OPERATIONS.section("## Alarms"), "alarm") for name in code_spans(row[0])}
    assert documented == set(facts.resources("AWS::CloudWatch::Alarm"))


def test_the_table_of_operations_has_those_of_the_service() -> None:
    documented = {name for row in table(OPERATIONS.prose, "operation") for name in code_spans(row[0])}
    assert documented == facts.OPERATION_NAMES


def test_the_table_of_audit_actions_has_those_that_are_written() -> None:
    documented: set[str] = set()
    for row in table(OPERATIONS.section("### The audit log"), "action"):
        subject = ""
        for span in code_spans(row[0]):
            # `.failed` belongs to the subject before it.
            subject = span.partition(".")[0] or subject
            documented.add(f"{subject}.{span.partition('.')[2]}")
    assert documented == facts.audit_actions()
