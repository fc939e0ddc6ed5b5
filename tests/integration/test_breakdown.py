"""Usage and cost by API key and by tag: they add up to the whole, rolled up or not, and on invoices."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from sluice.api.native.bodies import GenerateRequest
from sluice.domain.keys import digest
from tests.support.functions import KEYED, administer, get
from tests.support.ledger import assert_books_balance, violations, wait_until_visible
from tests.support.service import Service, completed, failed

MONTH = f"{datetime.now(UTC):%Y-%m}"
SECOND = "sluice_" + "s" * 43


@pytest.fixture
def priced(service: Service, alice: bytes, admin: Callable[..., Any]) -> Callable[..., Any]:
    """Runs an operation that must succeed; a million prompt tokens cost a dollar, as many completion tokens two."""
    admin("price.set", model_id="nova-micro", prompt="1", completion="2")
    return admin


def second_key(service: Service) -> str:
    made = service.act(
        "key.create", user_id="alice", key_hash=digest(SECOND).hex(), key_prefix="second", scopes=["submit", "read"]
    )
    return str(made["key_id"])


def answer(service: Service, key: bytes, tokens: int, **given: Any) -> UUID:
    request_id = service.submit(key, **given)
    service.claim(request_id)
    service.settle(completed(request_id, prompt_tokens=tokens, completion_tokens=0))
    return request_id


def rollup(service: Service) -> None:
    wait_until_visible(service)
    service.database("rollup").call("rollup_usage")


def tokens_by(parts: list[dict[str, Any]], name: str) -> dict[str | None, tuple[int, int]]:
    return {part[name]: (part["requests"], part["total_tokens"]) for part in parts}


def test_usage_is_broken_down_by_key_and_by_tag(service: Service, alice: bytes, priced: Callable[..., Any]) -> None:
    second = second_key(service)
    first = str(service.value("SELECT key_id FROM api_keys WHERE key_prefix <> 'second'"))
    answer(service, alice, 1000, metadata={"project": "apollo", "team": "x"})
    answer(service, digest(SECOND), 20, metadata={"project": "gemini"})
    service.owner.execute("INSERT INTO submissions (user_id, prompt) VALUES ('alice', 'hello')")

    for _ in range(2):
        by_key = priced("usage.get", user_id="alice", by_key=True)
        (month,) = by_key["months"]
        assert tokens_by(month["keys"], "key_id") == {first: (1, 1000), second: (1, 20), None: (1, 0)}
        assert month["total_tokens"] == 1020
        assert {key["key_id"]: key["costs"] for key in by_key["days"][0]["keys"]}[first] == [
            {"currency": "USD", "amount": "0.001"}
        ]
        by_tag = priced("usage.get", user_id="alice", by_tag="project")["months"][0]["tags"]
        assert tokens_by(by_tag, "tag_value") == {"apollo": (1, 1000), "gemini": (1, 20), None: (1, 0)}
        by_other = priced("usage.get", user_id="alice", by_tag="no such tag")["months"][0]["tags"]
        assert tokens_by(by_other, "tag_value") == {None: (3, 1020)}
        rollup(service)
    assert_books_balance(service)


def test_callers_break_down_their_own_usage(service: Service, alice: bytes, deploy: Any) -> None:
    answer(service, alice, 7, metadata={"project": "apollo"})
    answer(service, service.add_user("bob", "sluice_" + "b" * 43), 9, metadata={"project": "apollo"})
    deploy("status")

    (day,) = get("/usage", KEYED, by_tag="project")[2]["days"]
    assert tokens_by(day["tags"], "tag_value") == {"apollo": (1, 7)}
    assert "keys" not in day
    (day,) = get("/usage", KEYED, by_key="true")[2]["days"]
    assert [key["total_tokens"] for key in day["keys"]] == [7]
    assert "keys" not in get("/usage", KEYED, by_key="false")[2]["days"][0]


@pytest.mark.parametrize(
    "query",
    [
        {"by_key": "yes"},
        {"by_key": ""},
        {"by_tag": ""},
        {"by_tag": "x" * 65},
        {"by_tag": "a\x00b"},
        {"by_key": "true", "by_tag": "project"},
    ],
)
def test_a_breakdown_that_makes_no_sense_is_refused(
    service: Service, alice: bytes, deploy: Any, query: dict[str, str]
) -> None:
    deploy("status")
    status, _, problem = get("/usage", KEYED, **query)
    assert (status, problem["code"]) == (422, "invalid_input")


def test_an_invoice_has_lines_by_key_and_by_tag(service: Service, alice: bytes, priced: Callable[..., Any]) -> None:
    second_key(service)
    answer(service, alice, 1_000_000, metadata={"project": "apollo"})
    answer(service, digest(SECOND), 500_000, metadata={"project": "gemini"})
    answer(service, alice, 4_000)

    whole = priced("invoice.get", user_id="alice", month=MONTH)
    by_key = priced("invoice.get", user_id="alice", month=MONTH, by_key=True)
    by_tag = priced("invoice.get", user_id="alice", month=MONTH, by_tag="project")

    assert whole["total"] == by_key["total"] == by_tag["total"] == "1.50"
    assert [(line["tag_value"], line["tokens"], line["exact_amount"]) for line in by_tag["lines"]] == [
        ("apollo", 1_000_000, "1"),
        ("gemini", 500_000, "0.5"),
        (None, 4_000, "0.004"),
    ]
    assert sorted(line["tokens"] for line in by_key["lines"]) == [500_000, 1_004_000]
    text = priced("invoice.get", user_id="alice", month=MONTH, by_tag="project", format="csv")["csv"]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["kind"], row["tag_value"], row["amount"]) for row in rows] == [
        ("usage", "apollo", "1.00"),
        ("usage", "gemini", "0.50"),
        ("usage", "", "0.00"),
        ("total", "", "1.50"),
    ]
    text = priced("usage.get", user_id="alice", by_tag="project", format="csv")["csv"]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["tag_value"], row["requests"], row["prompt_tokens"], row["amount"]) for row in rows] == [
        ("apollo", "1", "1000000", "1"),
        ("gemini", "1", "500000", "0.5"),
        ("", "1", "4000", "0.004"),
    ]


def test_a_tag_in_a_csv_is_no_formula(service: Service, alice: bytes, priced: Callable[..., Any]) -> None:
    answer(service, alice, 1_000_000, metadata={"project": "=1+1"})
    for operation, arguments in (("usage.get", {}), ("invoice.get", {"month": MONTH})):
        text = priced(operation, user_id="alice", by_tag="project", format="csv", **arguments)["csv"]
        assert next(csv.DictReader(io.StringIO(text)))["tag_value"] == "'=1+1"


def test_a_redrive_moves_tokens_of_the_key_and_the_tag(
    service: Service, alice: bytes, priced: Callable[..., Any]
) -> None:
    request_id = service.submit(alice, metadata={"project": "apollo"})
    service.claim(request_id)
    service.settle(failed(request_id, prompt_tokens=9, completion_tokens=0))
    rollup(service)
    priced("request.redrive", request_id=str(request_id))
    for _ in range(2):
        tags = priced("usage.get", user_id="alice", by_tag="project")["days"][0]["tags"]
        assert tokens_by(tags, "tag_value") == {"apollo": (1, 0)}
        rollup(service)
    assert_books_balance(service)


def test_a_tag_with_a_value_for_each_request_stays_small(
    service: Service, alice: bytes, priced: Callable[..., Any]
) -> None:
    service.owner.execute("CREATE OR REPLACE FUNCTION attribute_values_limit() RETURNS integer LANGUAGE sql RETURN 2")
    for n in (1, 2):
        answer(service, alice, 10, metadata={"job": f"job {n}"})
    rollup(service)
    for n in (2, 3, 4):
        answer(service, alice, 10, metadata={"job": f"job {n}"})
    answer(service, alice, 10, metadata={"job": "x" * 129})
    rollup(service)

    tags = priced("usage.get", user_id="alice", by_tag="job")["months"][0]["tags"]

    assert tokens_by(tags, "tag_value") == {"job 1": (1, 10), "job 2": (2, 20), None: (3, 30)}
    assert service.value("SELECT count(*) FROM usage_by_attribute WHERE attribute = 'tag:job'") == 3
    assert_books_balance(service)


def test_metadata_of_any_form_from_the_view_is_no_obstacle(
    service: Service, alice: bytes, priced: Callable[..., Any]
) -> None:
    for metadata in ('{"a": 1, "b": {"c": 2}, "d": null, "e": [1], "f": true}', "[1, 2]", '"text"'):
        service.owner.execute(
            "INSERT INTO submissions (user_id, prompt, metadata) VALUES ('alice', 'hello', %s::jsonb)", (metadata,)
        )
    rollup(service)
    assert tokens_by(priced("usage.get", user_id="alice", by_tag="a")["days"][0]["tags"], "tag_value")["1"] == (1, 0)
    attributes = service.rows("SELECT DISTINCT attribute FROM usage_by_attribute ORDER BY 1")
    assert [row["attribute"] for row in attributes] == ["key", "tag:a", "tag:f"]
    assert_books_balance(service)


def test_parts_add_up_to_the_whole(service: Service, alice: bytes) -> None:
    second_key(service)
    # One connection for each role, however many examples there are.
    submitter, worker, rollups = service.submitter(), service.database("worker"), service.database("rollup")

    @settings(max_examples=10, deadline=None, database=None, derandomize=True)
    @given(
        st.lists(
            st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "ü", ""]), st.integers(0, 50), st.booleans()),
            min_size=1,
            max_size=8,
        )
    )
    def check(requests: list[tuple[bool, str | None, int, bool]]) -> None:
        for is_second, tag, tokens, is_rolled_up in requests:
            asked = GenerateRequest(prompt="hello", metadata=None if tag is None else {"project": tag}).submission()
            request_id = submitter.submit(digest(SECOND) if is_second else alice, asked).request_id
            worker.call("request_claim", ids=[request_id], lease_seconds=60)
            outcome = completed(request_id, prompt_tokens=tokens, completion_tokens=0)
            worker.call("request_settle", outcomes=Jsonb([outcome]), actor="worker")
            if is_rolled_up:
                rollups.call("rollup_usage")
        reports = service.rows(
            "SELECT (usage_report_v2('alice', '2020-01-01', '2100-01-01', NULL, a)).usage, a FROM unnest(%s::text[]) AS a",
            ["key", "tag:project"],
        )
        whole = service.value("SELECT (usage_report('alice', '2020-01-01', '2100-01-01')).usage")
        for report in reports:
            assert sums(report["usage"]) == sums(whole)
        assert violations(service) == []

    check()


def sums(rows: list[dict[str, Any]]) -> tuple[int, int]:
    return sum(row["tokens"] for row in rows), sum(row["requests"] for row in rows)


def test_the_admin_function_refuses_two_breakdowns(service: Service, priced: Callable[..., Any]) -> None:
    answer = administer("usage.get", user_id="alice", by_key=True, by_tag="project")
    assert answer["problem"]["code"] == "invalid_input"
