import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto import mock_aws
from psycopg.conninfo import conninfo_to_dict

from tests.support.functions import administer, log_to, new_environment
from tests.support.service import Service


@pytest.fixture(autouse=True)
def logs_outlive_a_tests_capture() -> Iterator[None]:
    """The logger is made once and would keep the output, closed since, of the test that came first."""
    yield
    log_to(sys.__stdout__)


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
def deploy(aws: None, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Gives the next handler the environment that the template would."""
    sqs, secrets = boto3.client("sqs"), boto3.client("secretsmanager")
    queue_url = sqs.create_queue(QueueName="requests")["QueueUrl"]
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
            "RETRY_BASE_SECONDS": "1",
            **settings,
        }.items():
            monkeypatch.setenv(name, value)
        new_environment()
        return sqs

    return configure


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
