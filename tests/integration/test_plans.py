"""What a request costs: one statement per submit, claim and flush, and no plan that grows with the tables."""

import json
import re
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from sluice.db.ledger import Ledger
from sluice.domain.documents import Input, Output
from sluice.domain.history import HistoryQuery
from sluice.domain.requests import Outcome, Submission
from sluice.services.read import Reader
from tests.support.service import Service, completed, submission


def statements(service: Service) -> dict[str, int]:
    """Calls per top-level statement since the last reset, by the function that it calls."""
    rows = service.rows(
        "SELECT query, calls FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
        " WHERE d.datname = current_database() AND query NOT LIKE '%%pg_stat_statements%%'"
    )
    found: dict[str, int] = {}
    for row in rows:
        name = re.search(r'\b(request_\w+|set_config)"?\(', row["query"])
        found[name[1] if name else row["query"]] = row["calls"]
    return found


def test_one_statement_per_submit_claim_flush_and_status(service: Service, alice: bytes) -> None:
    submitter, worker, reader = (service.database(role) for role in ("submit", "worker", "status"))
    for database in (submitter, worker, reader):
        database.ping()
    service.rows("SELECT pg_stat_statements_reset()")

    submit = service.submitter(submitter).submit
    ids = [submit(alice, Submission(Input.of_prompt("x"))).request_id for _ in range(10)]
    Ledger(worker).claim(ids, 60)
    Ledger(worker).settle([Outcome(i, 1, "completed", Output.of_text("x"), "00" * 32, 7, 3) for i in ids])
    Reader(Ledger(reader)).request(alice, ids[0])
    Reader(Ledger(reader)).history(alice, HistoryQuery())

    assert statements(service) == {
        "request_submit": 10,
        "request_claim": 1,
        "request_settle": 1,
        "request_show": 1,
        "request_history_v2": 1,
    }


def test_one_commit_per_submit(service: Service, alice: bytes) -> None:
    database = service.database("submit")
    database.ping()
    rows = "SELECT DISTINCT xmin::text FROM {} WHERE request_id = %s"
    for _ in range(3):
        asked = Submission(Input.of_prompt("x"), idempotency_key="key")
        request_id = service.submitter(database).submit(alice, asked).request_id
        found = {
            service.value(rows.format(t), request_id)
            for t in ("requests", "prompts", "inflight", "audit_log", "idempotency_keys")
        }
        assert len(found) == 1, "a submit is one transaction"


def explain(service: Service, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """Every node of a statement's plan."""
    (row,) = service.rows("EXPLAIN (ANALYZE, FORMAT JSON) " + sql, *parameters)
    nodes, stack = [], [row["QUERY PLAN"][0]["Plan"]]
    while stack:
        node = stack.pop()
        nodes.append(node)
        stack += node.get("Plans", [])
    return nodes


LOGGED_PLANS = """
    LOAD 'auto_explain';
    SET auto_explain.log_min_duration = 0;
    SET auto_explain.log_nested_statements = on;
    SET auto_explain.log_analyze = on;
    SET auto_explain.log_timing = off;
    SET auto_explain.log_format = json;
    SET client_min_messages = log;
"""


class Plans:
    """The plans of all statements inside functions, as auto_explain reports them to the client."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.nodes: list[dict[str, Any]] = []
        service.owner.execute(LOGGED_PLANS)
        service.owner.add_notice_handler(self._on_notice)

    def _on_notice(self, notice: Any) -> None:
        text = notice.message_primary
        if "plan:" not in text:
            return
        plan = json.loads(text[text.index("{") :])
        stack = [plan["Plan"]]
        while stack:
            node = stack.pop()
            self.nodes.append(node)
            stack += node.get("Plans", [])

    def of(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        self.nodes.clear()
        self.service.owner.execute(sql, parameters)
        return list(self.nodes)


@pytest.fixture
def busy(service: Service, alice: bytes) -> tuple[Service, bytes]:
    """A database with enough rows to expose a bad plan: 20,000 requests of 200 users, 2,000 unfinished."""
    service.owner.execute("""
        INSERT INTO users (user_id) SELECT 'user' || n FROM generate_series(1, 200) n;
        INSERT INTO requests (request_id, user_id, model_id, status, created_at, updated_at, started_at, completed_at,
                              result_id, estimated_tokens, reserved_tokens, prompt_tokens, completion_tokens, total_tokens)
        SELECT i, 'user' || (1 + n % 200), 'nova-micro', 'completed', uuid_extract_timestamp(i), now(), now(), now(),
               i, 9, 9, 4, 5, 9
        FROM (SELECT n, uuidv7(interval '-1 minute') AS i FROM generate_series(1, 20000) n) AS s;
        INSERT INTO prompts (request_id, input)
        SELECT request_id, '{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}' FROM requests;
        INSERT INTO results (result_id, request_id, output)
        SELECT request_id, request_id, '{"items": [{"type": "message", "content": [{"type": "text", "text": "y"}]}]}' FROM requests;
        INSERT INTO inflight (request_id, user_id, max_attempts, dispatched_at, expires_at)
        SELECT request_id, user_id, 3, now(), now() + interval '1 hour' FROM requests LIMIT 2000;
        INSERT INTO audit_log (actor, action, user_id, request_id) SELECT 'x', 'x', user_id, request_id FROM requests;
        ANALYZE;
    """)
    return service, alice


GROWING = ("requests", "requests_archive", "prompts", "results", "inflight", "audit_log", "idempotency_keys")


def assert_no_full_scans(nodes: list[dict[str, Any]]) -> None:
    assert nodes
    for node in nodes:
        grows = any(node.get("Relation Name", "").startswith(name) for name in GROWING)
        if node["Node Type"] == "Seq Scan" and grows:
            assert (node["Actual Rows"], node.get("Rows Removed by Filter", 0)) == (0, 0), json.dumps(node)
        assert node.get("Rows Removed by Filter", 0) < 100, json.dumps(node)


def partitions_read(nodes: list[dict[str, Any]], parent: str) -> set[str]:
    return {n["Relation Name"] for n in nodes if n.get("Relation Name", "").startswith(parent + "_y")}


def test_query_plans_of_a_requests_life(busy: tuple[Service, bytes]) -> None:
    service, alice = busy
    ids = [service.submit(alice) for _ in range(3)]
    plans = Plans(service)

    submit = plans.of(
        "SELECT * FROM request_submit(%s, %s)", alice, submission("hello", idempotency_key="key", body_hash="00" * 32)
    )
    assert_no_full_scans(submit)
    replay = plans.of(
        "SELECT * FROM request_submit(%s, %s)", alice, submission("hello", idempotency_key="key", body_hash="00" * 32)
    )
    assert_no_full_scans([node for node in replay if node.get("Relation Name") != "idempotency_keys"])  # it has one row
    assert len(partitions_read(replay, "requests")) == 1
    claim = plans.of("SELECT * FROM request_claim(%s, 60)", ids)
    assert_no_full_scans(claim)
    assert len(partitions_read(claim, "requests")) == len(partitions_read(claim, "prompts")) == 1
    settle = plans.of("SELECT * FROM request_settle(%s, 'worker')", Jsonb([completed(i) for i in ids]))
    assert_no_full_scans(settle)
    assert len(partitions_read(settle, "requests")) == 1
    status = plans.of("SELECT * FROM request_show(%s, %s)", alice, ids[0])
    assert_no_full_scans(status)
    for parent in ("requests", "prompts", "results"):
        assert len(partitions_read(status, parent)) == 1, f"a lookup by id reads one partition of {parent}"


def test_query_plan_of_a_history(busy: tuple[Service, bytes]) -> None:
    service, _ = busy
    bob = service.add_user("bob", "sluice_" + "b" * 43)
    service.owner.execute("UPDATE api_keys SET user_id = 'user7' WHERE user_id = 'bob'")
    service.owner.execute(
        "INSERT INTO quota_plans (user_id, tier, reset_frequency, max_unfinished, dispatch_window) VALUES ('user7', 'basic', 'daily', 9, 9)"
    )

    nodes = Plans(service).of("SELECT * FROM request_history_v2(%s, %s)", bob, Jsonb({"limit": 10}))

    assert_no_full_scans(nodes)
    assert max(node["Actual Rows"] for node in nodes if node["Node Type"].startswith("Index")) <= 11, "one more"


@pytest.mark.parametrize("wanted", [{"status": ["failed"]}, {"status": ["queued"]}, {"model": "small"}, {"limit": 1}])
def test_a_page_of_a_history_looks_through_so_many_requests(service: Service, alice: bytes, wanted: Any) -> None:
    """A filter that matches nothing, or little, in a user's 20,000 requests of several months."""
    service.owner.execute("""
        SELECT partition_create('requests', 'request_id', (date_trunc('month', now()) - make_interval(months => n))::date)
        FROM generate_series(1, 3) AS n;
        INSERT INTO requests (request_id, user_id, model_id, status, created_at, updated_at, started_at, completed_at,
                              result_id, estimated_tokens, reserved_tokens, prompt_tokens, completion_tokens, total_tokens)
        SELECT i, 'alice', 'nova-micro', 'completed', uuid_extract_timestamp(i), now(), now(), now(),
               i, 9, 9, 4, 5, 9
        FROM (SELECT uuidv7(make_interval(mins => -n * 5)) AS i FROM generate_series(1, 20000) n) AS s;
        ANALYZE;
    """)
    nodes = Plans(service).of("SELECT * FROM request_history_v2(%s, %s)", alice, Jsonb({"limit": 20} | wanted))

    assert_no_full_scans(nodes)
    reach = service.value("SELECT history_reach()")
    assert sum(n["Actual Rows"] * n["Actual Loops"] for n in nodes if n["Node Type"].startswith("Index")) <= reach + 1


def test_cleaning_looks_only_at_keys_that_are_due(busy: tuple[Service, bytes]) -> None:
    service, _ = busy
    service.owner.execute("""
        INSERT INTO idempotency_keys SELECT user_id, request_id::text, sha256(''), request_id, now() + interval '1 hour'
        FROM requests;
        UPDATE idempotency_keys SET expires_at = now() - interval '1 hour'
        WHERE request_id IN (SELECT request_id FROM requests LIMIT 30);
        ANALYZE idempotency_keys;
    """)
    nodes = Plans(service).of("SELECT idempotency_expire(1000)")

    assert_no_full_scans(nodes)
    assert max(node["Actual Rows"] for node in nodes) <= 30


def test_recovery_reads_only_inflight(busy: tuple[Service, bytes]) -> None:
    service, _ = busy
    nodes = Plans(service).of("SELECT * FROM request_recover(100)")
    tables = {node["Relation Name"] for node in nodes if node.get("Actual Rows") and "Relation Name" in node}
    assert tables <= {"inflight", "quota_plans"} | {t for t in tables if t.startswith("pg_")}
