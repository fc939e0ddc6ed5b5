"""docs/api.md names the routes and error codes that exist, and all of them."""

import re
from typing import get_args

import pytest

from openapi.native_answers import WaitsFor
from tests.docs import facts
from tests.docs.markdown import PAGES, Page, code_spans, page, paragraphs, table

API = page("docs/api.md")
_CODE = re.compile(r"[a-z]+(?:_[a-z]+)+")


@pytest.mark.parametrize("name", ["docs/api.md", "README.md"])
def test_the_table_of_routes_is_the_templates(name: str) -> None:
    documented = {code_spans(row[0])[0].partition("?")[0] for row in table(page(name).prose, "route")}
    assert documented == facts.routes()


def test_each_route_has_a_section() -> None:
    sections = set(re.findall(r"^## ([A-Z]+ /.*)$", API.prose, re.MULTILINE))
    assert sections == facts.routes()


def test_the_page_on_openais_clients_has_every_route_of_theirs() -> None:
    spans = {span for row in table(page("docs/openai.md").prose, "route") for span in code_spans(row[0])}
    documented = {re.sub(r"\{\w+\}", "{}", span if " " in span else f"GET {span}") for span in spans}
    assert documented == {re.sub(r"\{\w+\}", "{}", route) for route in facts.openai_routes()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_routes_that_pages_name_exist(page: Page) -> None:
    """A parameter at the end may be left out, and its name is free: `GET /status` is the route with the id."""
    known = {re.sub(r"\{\w+\}", "{}", route) for route in facts.routes() | facts.openai_routes()}
    known |= {route.removesuffix("/{}") for route in known}
    named = [span for span in page.spans if re.fullmatch(r"(GET|POST|PUT|PATCH|DELETE) /[\w{}/?=&]*", span)]
    unknown = [span for span in named if re.sub(r"\{\w+\}", "{}", span.partition("?")[0]) not in known]
    assert not unknown, f"{page.name} names routes that do not exist: {unknown}"


def _documented_errors() -> set[str]:
    section = API.section("## Errors")
    in_table = {code for row in table(section, "HTTP") for code in code_spans(row[1])}
    in_text = {code for part in paragraphs(section) for code in code_spans(part) if _CODE.fullmatch(code)}
    return in_table | (in_text - {"retry_after"})  # a member of the answer


def test_the_errors_are_those_of_the_service() -> None:
    assert _documented_errors() == facts.ERROR_CODES


def test_the_reasons_for_a_failure_are_those_of_the_service() -> None:
    documented = {code for row in table(API.section("## Why a request failed"), "code") for code in code_spans(row[0])}
    assert documented >= facts.MODEL_ERROR_CODES
    text = facts.service()
    unknown = {code for code in documented if f"'{code}'" not in text and f'"{code}"' not in text}
    assert not unknown


def test_what_a_request_waits_for_is_what_the_database_says() -> None:
    documented = {code for row in table(API.prose, "`waits_for`") for code in code_spans(row[0])}
    assert documented == set(get_args(WaitsFor))


def test_the_words_of_the_cache_are_those_of_the_header() -> None:
    documented = [code_spans(row[0])[0] for row in table(API.prose, "`Cache-Status`")]
    assert sorted(documented) == sorted(f"sluice; {words}" for words in facts.CACHE_WORDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_codes_that_follow_a_status_exist(page: Page) -> None:
    """As in: 503 `database_unavailable`."""
    named = set(re.findall(r"\b[45]\d\d `([a-z]+(?:_[a-z]+)+)`", page.prose))
    assert named <= facts.ERROR_CODES
