"""How the functions log in: with the secret of a bring-your-own database, or with an IAM token."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

from sluice import aws as aws_clients
from sluice.config import Settings
from sluice.db import credentials
from sluice.db.credentials import CA_BUNDLE, CredentialsError, connection_parameters, forget_secret
from sluice.domain.errors import ConfigurationError

SECRET = {"host": "db.example", "username": "owner", "password": "hunter2"}


@pytest.fixture(autouse=True)
def empty_caches(aws: None) -> Iterator[None]:
    forget_secret()
    yield
    forget_secret()


@pytest.fixture
def secrets() -> Iterator[Any]:
    client = boto3.client("secretsmanager")
    yield client
    client.close()


def stored(secrets: Any, value: Any, **given: Any) -> Settings:
    """The settings of a function whose database has this secret."""
    text = value if isinstance(value, str) else json.dumps(value)
    arn = secrets.create_secret(Name="database", SecretString=text)["ARN"]
    return Settings(database_secret_arn=arn, **given)


def test_secret_gives_address_and_user_and_tls_is_verified_by_default(secrets: Any) -> None:
    assert connection_parameters(stored(secrets, SECRET)) == {
        "host": "db.example",
        "port": 5432,
        "dbname": "sluice",
        "user": "owner",
        "password": "hunter2",
        "sslmode": "verify-full",
        "sslrootcert": "/opt/certs/rds-ca.pem",
        "connect_timeout": 3,
        "application_name": "sluice_migrate",
    }


def test_secret_may_set_every_parameter(secrets: Any) -> None:
    more = {"port": "6543", "dbname": "other", "sslmode": "require", "sslrootcert": "/etc/ca.pem", "engine": "postgres"}
    found = connection_parameters(stored(secrets, SECRET | more, database_role="sluice_worker"))
    assert found["port"] == 6543
    assert [found[name] for name in ("dbname", "sslmode", "sslrootcert")] == ["other", "require", "/etc/ca.pem"]
    # The name in pg_stat_activity; the role is assumed after login.
    assert (found["user"], found["application_name"]) == ("owner", "sluice_worker")


@pytest.mark.parametrize("member", SECRET)
def test_missing_member_of_a_secret_is_a_configuration_error(secrets: Any, member: str) -> None:
    settings = stored(secrets, {name: value for name, value in SECRET.items() if name != member})
    with pytest.raises(ConfigurationError, match=f"^the database secret lacks {member}$"):
        connection_parameters(settings)


def test_every_missing_member_of_a_secret_is_named(secrets: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"lacks host, password, username$"):
        connection_parameters(stored(secrets, {}))


@pytest.mark.parametrize(
    "text", ["hunter2", "{'host': 'hunter2'}", "5", "null", "true", '["host", "username", "password"]']
)
def test_secret_that_is_not_a_json_object_is_refused_and_not_shown(secrets: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connection_parameters(stored(secrets, text))
    assert str(caught.value) == "the database secret is not a JSON object with a number for its port"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("port", ["hunter2", None, []])
def test_port_that_is_not_a_number_is_a_configuration_error(secrets: Any, port: Any) -> None:
    with pytest.raises(ConfigurationError, match="number for its port"):
        connection_parameters(stored(secrets, SECRET | {"port": port}))


def test_unreadable_secret_raises_the_error_of_the_client(secrets: Any) -> None:
    with pytest.raises(CredentialsError, match="ResourceNotFoundException"):
        connection_parameters(Settings(database_secret_arn="arn:aws:secretsmanager:us-east-1:123456789012:secret:no"))


def test_secret_is_read_once_and_again_after_forget_secret(secrets: Any) -> None:
    settings = stored(secrets, SECRET)
    assert connection_parameters(settings)["password"] == "hunter2"
    secrets.put_secret_value(SecretId="database", SecretString=json.dumps(SECRET | {"password": "rotated"}))
    assert connection_parameters(settings)["password"] == "hunter2"
    forget_secret()
    assert connection_parameters(settings)["password"] == "rotated"


def test_unusable_secret_is_not_cached(secrets: Any) -> None:
    settings = stored(secrets, "{}")
    with pytest.raises(ConfigurationError):
        connection_parameters(settings)
    secrets.put_secret_value(SecretId="database", SecretString=json.dumps(SECRET))
    assert connection_parameters(settings)["host"] == "db.example"


IAM = Settings(database_host="db.rds", database_port=6432, database_role="sluice_worker", aws_region="eu-central-1")


def test_without_a_secret_iam_signs_a_token_for_the_role() -> None:
    found = connection_parameters(IAM)
    token = urlsplit("https://" + found.pop("password"))
    assert found == {
        "host": "db.rds",
        "port": 6432,
        "dbname": "sluice",
        "user": "sluice_worker",
        # Sent without TLS, a token would give access to the database for fifteen minutes.
        "sslmode": "verify-full",
        "sslrootcert": str(CA_BUNDLE),
        "connect_timeout": 3,
        "application_name": "sluice_worker",
    }
    assert token.netloc == "db.rds:6432"
    asked = parse_qs(token.query)
    assert (asked["Action"], asked["DBUser"]) == (["connect"], ["sluice_worker"])
    assert "/eu-central-1/rds-db/" in asked["X-Amz-Credential"][0]


def test_each_connection_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([datetime(2031, 1, 30, 9, tzinfo=UTC), datetime(2031, 1, 30, 10, tzinfo=UTC)])
    with monkeypatch.context() as patch:
        patch.setattr(credentials, "datetime", SimpleNamespace(now=lambda zone: next(times)))
        signed = [parse_qs(connection_parameters(IAM)["password"])["X-Amz-Date"] for _ in range(2)]
    assert signed == [["20310130T090000Z"], ["20310130T100000Z"]]


def test_credentials_that_are_no_variables_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an environment that was restored from a snapshot come from an endpoint."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(aws_clients, "role_credentials", lambda: ("RESTORED", "secret", "session"))
    asked = parse_qs(connection_parameters(IAM)["password"])
    assert asked["X-Amz-Credential"][0].startswith("RESTORED/")
    assert asked["X-Amz-Security-Token"] == ["session"]


@pytest.mark.parametrize(
    ("settings", "missing"),
    [(Settings(), "DATABASE_HOST"), (Settings(database_host="db.rds"), "DATABASE_ROLE")],
)
def test_missing_address_is_named(settings: Settings, missing: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{missing} is not set$"):
        connection_parameters(settings)


def test_secret_has_precedence_over_an_address(secrets: Any) -> None:
    settings = stored(secrets, SECRET, database_host="db.rds", database_role="sluice_worker")
    assert connection_parameters(settings)["host"] == "db.example"
