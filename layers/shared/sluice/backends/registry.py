"""The model backends by name: the one list of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sluice.backends.bedrock import BedrockBackend
from sluice.backends.openai import OpenAIBackend
from sluice.backends.protocol import Backend
from sluice.backends.sagemaker import SageMakerBackend


@dataclass(frozen=True)
class Resources:
    """What backends are made from.

    Attributes:
        api_key: finds the API key in a secret, by its ARN; raises ConfigurationError if it is not there.
        bedrock_client: returns a bedrock-runtime client whose calls give up after so many seconds.
        sagemaker_client: returns a sagemaker-runtime client, likewise.
        max_result_bytes: longest answer in text accepted, in bytes of UTF-8.
        max_file_bytes: largest file accepted.
    """

    api_key: Callable[[str], str]
    bedrock_client: Callable[[int], Any]
    sagemaker_client: Callable[[int], Any]
    max_result_bytes: int
    max_file_bytes: int


BACKENDS: Final[Mapping[str, Callable[[Resources], Backend]]] = {
    "openai": lambda resources: OpenAIBackend(resources.api_key, resources.max_result_bytes, resources.max_file_bytes),
    "bedrock": lambda resources: BedrockBackend(resources.bedrock_client),
    "sagemaker": lambda resources: SageMakerBackend(resources.sagemaker_client, resources.max_result_bytes),
}
