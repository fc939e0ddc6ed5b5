"""A model's API key, from a secret of either form."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args

import boto3
import pytest

from sluice import runtime
from sluice.arguments import ModelSet
from sluice.errors import ConfigurationError


@pytest.fixture
def secrets(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    runtime.settings.cache_clear()
    runtime._secret_text.cache_clear()
    client = boto3.client("secretsmanager")
    yield client
    client.close()
    runtime.settings.cache_clear()
    runtime._secret_text.cache_clear()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sk-plain", "sk-plain"),
        ("sk-plain\n", "sk-plain"),
        ('{"api_key": "sk-json"}', "sk-json"),
        ('{"api_key": "sk-json", "note": "from the console"}', "sk-json"),
        # Keys that happen to be JSON.
        ("12345", "12345"),
        ('"quoted"', '"quoted"'),
    ],
)
def test_a_key_is_a_member_of_its_secret_or_all_of_it(secrets: Any, text: str, key: str) -> None:
    arn = secrets.create_secret(Name="model", SecretString=text)["ARN"]
    assert runtime.model_api_key(arn) == key


@pytest.mark.parametrize("text", ["{}", '{"apikey": "hunter2"}', '{"api_key": null}', '{"api_key": ["hunter2"]}', " "])
def test_a_secret_without_a_key_is_never_sent_as_one(secrets: Any, text: str) -> None:
    arn = secrets.create_secret(Name="model", SecretString=text)["ARN"]
    with pytest.raises(ConfigurationError) as caught:
        runtime.model_api_key(arn)
    assert "hunter2" not in str(caught.value)


def test_a_secret_that_is_not_there_is_a_configuration_error(secrets: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        runtime.model_api_key("arn:aws:secretsmanager:us-east-1:123456789012:secret:no")


def test_a_secret_is_read_once_in_five_minutes(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(runtime, "time", SimpleNamespace(monotonic=lambda: now))
    arn = secrets.create_secret(Name="model", SecretString="old")["ARN"]
    assert runtime.model_api_key(arn) == "old"
    secrets.put_secret_value(SecretId=arn, SecretString="new")
    assert runtime.model_api_key(arn) == "old"
    now += 300
    assert runtime.model_api_key(arn) == "new"


def test_each_secret_has_its_own_key(secrets: Any) -> None:
    arns = [secrets.create_secret(Name=name, SecretString=name)["ARN"] for name in ("one", "two")]
    assert [runtime.model_api_key(arn) for arn in arns] == ["one", "two"]


def test_there_is_a_backend_for_each_kind_of_model(secrets: Any) -> None:
    assert set(runtime.backends()) == set(get_args(ModelSet.model_fields["backend"].annotation))
