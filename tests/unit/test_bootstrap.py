"""The composition root: API keys of models, from secrets of either form, and the clients that call models."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from sluice import bootstrap
from sluice.domain.errors import ConfigurationError


@pytest.fixture
def secrets(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bootstrap.settings.cache_clear()
    bootstrap._secret_text.cache_clear()
    client = boto3.client("secretsmanager")
    yield client
    client.close()
    bootstrap.settings.cache_clear()
    bootstrap._secret_text.cache_clear()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sk-plain", "sk-plain"),
        ("sk-plain\n", "sk-plain"),
        ('{"api_key": "sk-json"}', "sk-json"),
        ('{"api_key": "sk-json", "note": "from the console"}', "sk-json"),
        # Keys that are also valid JSON.
        ("12345", "12345"),
        ('"quoted"', '"quoted"'),
    ],
)
def test_key_is_a_member_of_its_secret_or_all_of_it(secrets: Any, text: str, key: str) -> None:
    arn = secrets.create_secret(Name="model", SecretString=text)["ARN"]
    assert bootstrap.model_api_key(arn) == key


@pytest.mark.parametrize("text", ["{}", '{"apikey": "hunter2"}', '{"api_key": null}', '{"api_key": ["hunter2"]}', " "])
def test_secret_without_a_key_is_never_used_as_one(secrets: Any, text: str) -> None:
    arn = secrets.create_secret(Name="model", SecretString=text)["ARN"]
    with pytest.raises(ConfigurationError) as caught:
        bootstrap.model_api_key(arn)
    assert "hunter2" not in str(caught.value)


def test_missing_secret_is_a_configuration_error(secrets: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        bootstrap.model_api_key("arn:aws:secretsmanager:us-east-1:123456789012:secret:no")


def test_secret_is_read_once_in_five_minutes(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(bootstrap, "time", SimpleNamespace(monotonic=lambda: now))
    arn = secrets.create_secret(Name="model", SecretString="old")["ARN"]
    assert bootstrap.model_api_key(arn) == "old"
    secrets.put_secret_value(SecretId=arn, SecretString="new")
    assert bootstrap.model_api_key(arn) == "old"
    now += 300
    assert bootstrap.model_api_key(arn) == "new"


def test_each_secret_has_its_own_key(secrets: Any) -> None:
    arns = [secrets.create_secret(Name=name, SecretString=name)["ARN"] for name in ("one", "two")]
    assert [bootstrap.model_api_key(arn) for arn in arns] == ["one", "two"]


@pytest.mark.parametrize(("name", "service"), [("_bedrock", "bedrock-runtime"), ("_sagemaker", "sagemaker-runtime")])
def test_a_models_client_waits_as_long_as_the_model_may_take_and_never_calls_twice(
    secrets: Any, name: str, service: str
) -> None:
    make = getattr(bootstrap, name)
    make.cache_clear()
    client = make(33)
    assert client.meta.service_model.service_name == service
    assert (client.meta.config.read_timeout, client.meta.config.retries["total_max_attempts"]) == (33, 1)
    assert make(33) is client
    assert make(34) is not client
    make.cache_clear()
