"""What the functions talk to while they are measured: a PostgreSQL with the schema and a user, and a queue that answers
at once."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.ports import LOOPBACK
from local.postgres import Postgres
from sluice.db.connection import Connection
from sluice.db.migrate import migrate
from sluice.domain.keys import digest

KEY = "sluice_" + "b" * 43
REGION = "eu-west-1"


@dataclass(frozen=True)
class World:
    """A database with a user who may do anything, a queue, and an ended request to be read.

    Attributes:
        dsn: of the database, as its owner.
    """

    dsn: str
    queue_address: str

    def environment(self, function: str) -> Mapping[str, str]:
        """What Lambda and the template set for a function; it logs in with an IAM token."""
        database = conninfo_to_dict(self.dsn)
        return {
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "session",
            "AWS_ENDPOINT_URL_SQS": self.queue_address,
            "AWS_LAMBDA_FUNCTION_NAME": f"sluice-{function}",
            "POWERTOOLS_SERVICE_NAME": function,
            "POWERTOOLS_METRICS_NAMESPACE": "Sluice",
            "QUEUE_URL": f"{self.queue_address}/123456789012/sluice-requests",
            "WEBHOOK_QUEUE_URL": f"{self.queue_address}/123456789012/sluice-webhooks",
            "DATABASE_HOST": str(database["host"]),
            "DATABASE_PORT": str(database["port"]),
            "DATABASE_NAME": str(database["dbname"]),
            "DATABASE_ROLE": f"sluice_{function}",
        }

    def connect(self) -> Connection:
        """A connection as the owner."""
        return psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None, row_factory=dict_row)

    def request(self) -> UUID:
        """A new request, waiting."""
        with self.connect() as connection:
            submission = {
                "input": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
                "ttl_seconds": 3600,
                "longest_seconds": 3600,
                "max_attempts": 3,
            }
            row = connection.execute(
                "SELECT request_id FROM sluice.request_submit(%s, %s)", (digest(KEY), Jsonb(submission))
            ).fetchone()
        assert row is not None
        return UUID(str(row["request_id"]))


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Start all of it; it is gone at the end."""
    server = Postgres(folder / "data", durable=True)
    server.start()
    queue = ThreadingHTTPServer((LOOPBACK, 0), _Queue)
    answering = Thread(target=queue.serve_forever, daemon=True)
    answering.start()
    try:
        dsn = make_conninfo(server.url("postgres"), options="-c search_path=sluice,public")
        made = World(dsn, f"http://{LOOPBACK}:{queue.server_address[1]}")
        with made.connect() as connection:
            migrate(connection)
            # A token is no password that this server knows: it lets everybody in.
            (server.data_dir / "pg_hba.conf").write_text(f"host all all {LOOPBACK}/32 trust\n")
            connection.execute("SELECT pg_reload_conf()")
            for operation, arguments in (
                ("user.create", {"user_id": "bench", "tier": "premium"}),
                (
                    "key.create",
                    {
                        "user_id": "bench",
                        "key_hash": digest(KEY).hex(),
                        "key_prefix": KEY[:13],
                        "scopes": ["submit", "read"],
                    },
                ),
                ("quota.set", {"user_id": "bench", "limits": _WITHOUT_LIMITS}),
            ):
                connection.execute("SELECT sluice.admin_run(%s, %s, NULL)", (operation, Jsonb(arguments)))
        yield made
    finally:
        queue.shutdown()
        queue.server_close()
        answering.join()
        server.destroy()


_WITHOUT_LIMITS = {period: {"max_requests": 10**6, "max_tokens": 10**9} for period in ("minute", "daily", "monthly")}


class _Queue(BaseHTTPRequestHandler):
    """Answers SendMessageBatch and SendMessage; keeps nothing."""

    protocol_version = "HTTP/1.1"
    # Or the headers and the body, sent apart, wait for each other's acknowledgement.
    wbufsize = -1

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sent = [{"Id": each["Id"], "MessageId": each["Id"]} for each in given.get("Entries", ())]
        body = json.dumps({"Successful": sent, "Failed": []} if sent else {"MessageId": "1"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""
