import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import boto3
import psycopg
import pytest
from moto import mock_aws
from psycopg.conninfo import conninfo_to_dict

from sluice.storage import Storage
from tests.support.batches import BatchBench
from tests.support.books import KEYS, Books, make_history
from tests.support.bucket import BUCKET, make_bucket
from tests.support.database import with_schema
from tests.support.files import FileApi
from tests.support.functions import administer, log_to, new_environment
from tests.support.ledger import SMALL, stop_the_clock
from tests.support.openai_api import ARTIST, EMBEDDER, SPEAKER, Api, wait_a_moment
from tests.support.seed import SEED_VIEWS
from tests.support.service import Service


@pytest.fixture(autouse=True)
def restore_log_stream() -> Iterator[None]:
    """The logger is created once and would keep writing to the first test's captured output, closed since."""
    yield
    log_to(sys.__stdout__ or sys.stdout)


@pytest.fixture
def service(dsn: str) -> Iterator[Service]:
    service = Service(dsn)
    yield service
    service.close()


@pytest.fixture
def alice(service: Service) -> bytes:
    """The hash of a premium user's key."""
    return service.add_user()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "POWERTOOLS_METRICS_NAMESPACE": "Sluice",
        "POWERTOOLS_SERVICE_NAME": "test",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield
        new_environment()


@pytest.fixture
def storage(aws: None) -> Storage:
    """An empty bucket."""
    return make_bucket()


@pytest.fixture
def deploy(aws: None, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Sets the environment of the next handler, as the template would."""
    sqs, secrets = boto3.client("sqs"), boto3.client("secretsmanager")
    queue_url = sqs.create_queue(QueueName="requests")["QueueUrl"]
    webhook_queue_url = sqs.create_queue(QueueName="webhooks")["QueueUrl"]
    dead_letter_queue_url = sqs.create_queue(QueueName="dead-letters")["QueueUrl"]

    def configure(role: str, dsn: str = dsn, **settings: str) -> Any:
        parts = conninfo_to_dict(dsn)
        secret = {
            "host": parts["host"],
            "port": parts["port"],
            "dbname": parts["dbname"],
            "username": parts["user"],
            "password": parts["password"],
            "sslmode": "disable",
        }
        arn = secrets.create_secret(Name=f"database-{uuid4()}", SecretString=json.dumps(secret))["ARN"]
        for name, value in {
            "DATABASE_SECRET_ARN": arn,
            "DATABASE_ROLE": f"sluice_{role}" if role != "migrate" else "",
            "QUEUE_URL": queue_url,
            "DEAD_LETTER_QUEUE_URL": dead_letter_queue_url,
            "WEBHOOK_QUEUE_URL": webhook_queue_url,
            "RETRY_BASE_SECONDS": "1",
            **settings,
        }.items():
            monkeypatch.setenv(name, value)
        new_environment()
        return sqs

    return configure


@pytest.fixture
def bench(service: Service, alice: bytes, storage: Storage) -> BatchBench:
    """What batches need; alice's quotas have no limit."""
    service.act("model.set", **EMBEDDER)
    bench = BatchBench(service, storage)
    bench.lift_limits("alice")
    return bench


@pytest.fixture
def api(deploy: Callable[..., Any], service: Service, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The API of OpenAI's clients, with a model of each kind; nobody waits long."""
    for model in (EMBEDDER, ARTIST, SPEAKER):
        service.act("model.set", **model)
    for waits in ("sluice.services.foreground", "sluice.api.openai.routes"):
        monkeypatch.setattr(f"{waits}.wait_until_ended", wait_a_moment)
    made = Api(service, deploy("openai", FOREGROUND_FUNCTION="foreground"))
    monkeypatch.setattr("sluice.handover.LambdaRunner", lambda client, function: made.hand_over)
    return made


@pytest.fixture
def files(api: Api, service: Service, alice: bytes, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> FileApi:
    """The API with a bucket."""
    monkeypatch.setenv("STORAGE_BUCKET", BUCKET)
    new_environment()
    return FileApi(api, service, storage)


# Books with a history -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def history(server_dsn: str, create_database: Callable[..., str], template_database: str) -> tuple[str, Books]:
    """The database with the history, to be copied but not changed."""
    name = create_database(template_database)
    with closing(Service(with_schema(server_dsn, name))) as service:
        stop_the_clock(service.owner, datetime(2031, 1, 30, 9, tzinfo=UTC))
        tiers = {"alice": "premium", "bob": "standard", "carol": "basic", "dora": "basic", "erin": "basic"}
        books = Books(service, {user: service.add_user(user, key, tiers[user]) for user, key in KEYS.items()})
        service.act("model.set", **SMALL)
        make_history(books)
    return name, books


@pytest.fixture
def books(server_dsn: str, history: tuple[str, Books]) -> Iterator[Books]:
    """A copy of the history."""
    template, made = history
    name = f"{template}_copy"
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        with closing(Service(with_schema(server_dsn, name))) as service:
            yield Books(service, made.keys, dict(made.ids))
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def untouched(server_dsn: str, history: tuple[str, Books]) -> Iterator[Books]:
    """The history itself, in one transaction that is rolled back."""
    name, made = history
    with (
        closing(Service(with_schema(server_dsn, name))) as service,
        service.owner.transaction(force_rollback=True),
    ):
        yield Books(service, made.keys, dict(made.ids), is_one_transaction=True)


# Administration -----------------------------------------------------------------------------------------------------


@pytest.fixture
def admin(deploy: Any) -> Callable[..., Any]:
    """Runs an operation that must succeed."""
    deploy("admin")

    def run(operation: str, **arguments: Any) -> Any:
        answer = administer(operation, **arguments)
        assert answer["ok"], answer
        return answer["result"]

    return run


# The seed's statements ----------------------------------------------------------------------------------------------


@pytest.fixture
def seed(service: Service) -> Service:
    """The service, with the additional schema `seed`."""
    service.owner.execute(SEED_VIEWS)
    return service


@pytest.fixture
def user123(service: Service) -> bytes:
    """The key's hash of the user in the seed's statements."""
    return service.add_user("user123")


@pytest.fixture
def writer(service: Service) -> Iterator[str]:
    """A role that may only insert into and select from the view."""
    name = f"writer_{uuid4().hex}"
    service.owner.execute(f"CREATE ROLE {name}")
    service.owner.execute(f"GRANT USAGE ON SCHEMA sluice TO {name}; GRANT INSERT, SELECT ON submissions TO {name}")
    yield name
    service.owner.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")
