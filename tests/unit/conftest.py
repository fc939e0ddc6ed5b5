"""Shared by unit tests: a scripted HTTP server, and an AWS that exists only in memory."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from moto import mock_aws

from sluice.backends.openai import OpenAIBackend
from tests.support.bedrock_backend import Bedrock, bedrock_at
from tests.support.openai_backend import KEY, MAX_RESULT_BYTES
from tests.support.sagemaker_backend import SageMaker, sagemaker_at
from tests.unit.scripted_server import ScriptedServer

# A slow machine is not a defect, and a failure must be reproducible.
settings.register_profile("sluice", deadline=None, derandomize=True)
settings.load_profile("sluice")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture(autouse=True)
def no_real_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invalid credentials, and none of the caller's; no endpoint from the caller's environment."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def aws() -> Iterator[None]:
    """SQS and Secrets Manager, imitated by moto."""
    with mock_aws():
        yield


@pytest.fixture
def backend() -> OpenAIBackend:
    return OpenAIBackend({"arn:key": KEY}.__getitem__, MAX_RESULT_BYTES)


@pytest.fixture
def bedrock(server: ScriptedServer) -> Iterator[Bedrock]:
    with bedrock_at(server.url) as made:
        yield made


@pytest.fixture
def sagemaker(server: ScriptedServer) -> Iterator[SageMaker]:
    with sagemaker_at(server.url) as made:
        yield made
