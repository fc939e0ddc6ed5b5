"""Puts a function together from its environment: settings, database, queue, models; each made once."""

import json
import logging
import os
import time
from collections.abc import Mapping
from functools import cache
from threading import Lock
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sluice.backends.bedrock import BedrockBackend
from sluice.backends.openai import OpenAIBackend
from sluice.backends.protocol import Backend
from sluice.config import Settings
from sluice.db.connection import Database, connect
from sluice.db.credentials import FAIL_FAST
from sluice.errors import ConfigurationError, SluiceError
from sluice.queue import Queue

logger = logging.getLogger(__name__)

_making_clients = Lock()
# What template.yaml gives RollupFunction, and a little more.
ROLLUP_SECONDS: Final = 310
# A rotated credential is taken up within this time.
_SECRET_SECONDS: Final = 300


@cache
def settings() -> Settings:
    """The settings of this function."""
    return Settings.from_environment(os.environ)


@cache
def database() -> Database:
    """This environment's database; connects when first used."""
    current = settings()
    return Database(lambda: connect(current))


@cache
def queue() -> Queue:
    """The queue of requests."""
    return Queue(_client("sqs", FAIL_FAST), settings().require("queue_url"))


@cache
def dead_letters() -> Queue:
    """The queue of messages that could not be delivered."""
    return Queue(_client("sqs", FAIL_FAST), settings().require("dead_letter_queue_url"))


@cache
def backends() -> Mapping[str, Backend]:
    """The model backends, by the name that models give for theirs."""
    return {
        "openai": OpenAIBackend(model_api_key, settings().max_result_bytes),
        "bedrock": BedrockBackend(_bedrock),
    }


def run_rollup(event: Mapping[str, Any]) -> Any:
    """Have RollupFunction run tasks, and wait for their figures.

    Raises:
        SluiceError: task_failed; what exactly is in that function's log.
        botocore.exceptions.ClientError: it cannot be invoked.
    """
    function = settings().require("rollup_function")
    client = _client("lambda", _without_retries(ROLLUP_SECONDS))
    answer = client.invoke(FunctionName=function, Payload=json.dumps(event))
    if "FunctionError" in answer:
        raise SluiceError("task_failed", f"{function} failed; its log says why.")
    return json.loads(answer["Payload"].read())


def model_api_key(secret_arn: str) -> str:
    """The API key in a secret: its member api_key, or all of it where it is no JSON object.

    Raises:
        ConfigurationError: the secret cannot be read or holds no such key.
    """
    try:
        text = _secret_text(secret_arn, int(time.monotonic() // _SECRET_SECONDS))
    except (BotoCoreError, ClientError) as error:
        logger.warning("model secret cannot be read", extra={"error": type(error).__name__})
        raise ConfigurationError("the model's secret cannot be read") from None
    try:
        secret = json.loads(text)
    except ValueError:
        secret = None
    key = secret.get("api_key") if isinstance(secret, dict) else text
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("the model's secret is neither a text nor a JSON object with a text api_key")
    return key.strip()


@cache
def _secret_text(secret_arn: str, _period: int) -> str:
    return str(_client("secretsmanager", FAIL_FAST).get_secret_value(SecretId=secret_arn)["SecretString"])


@cache
def _bedrock(timeout_seconds: int) -> Any:
    return _client("bedrock-runtime", _without_retries(timeout_seconds))


def _without_retries(timeout_seconds: int) -> Config:
    # A repeated model call or rollup would be one that nobody counts: repeats are PostgreSQL's to decide.
    return Config(connect_timeout=5, read_timeout=timeout_seconds, retries={"total_max_attempts": 1})


def _client(service: Any, config: Config) -> Any:
    # The worker's threads ask at once, and making clients is not thread-safe in boto3.
    with _making_clients:
        return boto3.client(service, region_name=settings().aws_region, config=config)
