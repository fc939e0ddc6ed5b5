"""The schema's custom resource: it migrates and answers CloudFormation."""

import json
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from sluice.db.capacity import waiting_room
from sluice.db.migrate import migrations
from tests.support.functions import Context, event, load
from tests.support.service import Service


def test_the_custom_resource_runs_the_migration(deploy: Any, empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("migrate", empty_dsn)
    migrate = load("admin.migrate")
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(migrate, "_answer", lambda _, report: reported.append(report))

    for name in ("migrate-create", "migrate-update", "migrate-delete"):
        report = migrate.handler(event(name), Context())
        assert report["Status"] == "SUCCESS"
        assert reported.pop() == report

    deploy("migrate", make_conninfo(empty_dsn, port=1))
    report = migrate.handler(event("migrate-create"), Context())
    assert (report["Status"], reported.pop()["Status"]) == ("FAILED", "FAILED")
    assert migrate.handler(event("migrate-delete"), Context())["Status"] == "SUCCESS", "a stack can always be deleted"


def test_cloudformation_gets_a_response(deploy: Any, dsn: str) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    heard: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        deploy("migrate")
        request = event("migrate-create", ResponseURL=f"http://127.0.0.1:{server.server_port}/answer")
        load("admin.migrate").handler(request, Context())
        thread.join(20)

    (answer,) = heard
    assert answer["Status"] == "SUCCESS"
    assert answer["PhysicalResourceId"] == "sluice-schema"
    for member in ("StackId", "RequestId", "LogicalResourceId"):
        assert answer[member] == request[member]
    assert answer["Data"]["SchemaVersion"] == str(len(migrations()))
    assert answer["Data"]["Connections"].startswith("Connection limits: submit 20, status 20, worker 10, ")


def test_the_waiting_class_has_half_of_the_workers(deploy: Any, dsn: str, service: Service) -> None:
    for workers, room in (("3", 15), ("1", 5), ("40", 200)):
        deploy("migrate", WORKER_CONCURRENCY=workers)
        # As by hand: nobody waits for an answer.
        assert load("admin.migrate").handler({"RequestType": "Update"}, Context())["Status"] == "SUCCESS"
        assert service.value("SELECT waiting_room FROM dispatch_capacity") == room
    assert waiting_room(0) == 1


def test_a_digest_changes_with_the_settings_of_its_function(deploy: Any, dsn: str) -> None:
    deploy("migrate")
    migrate = load("admin.migrate")

    def digests(**settings: Any) -> dict[str, str]:
        given = {"Shared": ["layer:1", "INFO"], "Submit": ["32768"], "Status": []} | settings
        request = {
            "ResourceType": "Custom::Versions",
            "RequestType": "Update",
            "ResourceProperties": {"Settings": given},
        }
        report = migrate.handler(request, Context())
        assert report["Status"] == "SUCCESS"
        return dict(report["Data"])

    before = digests()
    assert before == digests()
    assert set(before) == {"Submit", "Status"}
    assert digests(Submit=["4096"]) == before | {"Submit": digests(Submit=["4096"])["Submit"]} != before
    assert not set(digests(Shared=["layer:2", "INFO"]).values()) & set(before.values())
