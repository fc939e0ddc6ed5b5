"""What the tests of the SageMaker backend share: the real SDK against a server on this machine, claims, answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from botocore.config import Config
from botocore.session import get_session

from sluice.backends.protocol import ModelError
from sluice.backends.sagemaker import SageMakerBackend
from sluice.domain.documents import Input
from sluice.domain.requests import Claim, Completion
from tests.support.openai_backend import MAX_RESULT_BYTES
from tests.unit.scripted_server import Reply

PROMPT = "a confidential prompt"
WORDS = "words of the model"
COMPLETION = Completion.of_text(WORDS, 11, 5, "stop")
PATIENT = 30

# As the containers of TGI have it.
TGI: Mapping[str, Any] = {
    "request": {
        "inputs": "{{prompt}}",
        "parameters": {
            "max_new_tokens": "{{max_tokens}}",
            "temperature": "{{temperature}}",
            "top_p": "{{top_p}}",
            "stop": "{{stop}}",
            "seed": "{{seed}}",
            "details": True,
            "decoder_input_details": True,
        },
    },
    "response": {
        "text": "[0].generated_text",
        "prompt_tokens": "length([0].details.prefill)",
        "completion_tokens": "[0].details.generated_tokens",
        "finish_reason": "[0].details.finish_reason",
    },
}
VECTORS: Mapping[str, Any] = {
    "request": {"inputs": "{{texts}}", "truncate": False},
    "response": {"vectors": "embeddings", "prompt_tokens": "tokens"},
}

CLAIM = Claim(
    request_id=UUID(int=1),
    attempt=1,
    user_id="alice",
    model_id="llama",
    input=Input.of_prompt(PROMPT),
    parameters={"max_tokens": 7},
    backend="sagemaker",
    backend_model="llama-endpoint",
    endpoint=None,
    secret_arn=None,
    timeout_seconds=PATIENT,
)


def generated(text: Any = WORDS, **details: Any) -> list[Any]:
    """An answer as the containers of TGI give it, within a list."""
    prefill = [{"id": number, "text": "t", "logprob": None} for number in range(11)]
    return [
        {
            "generated_text": text,
            "details": {"finish_reason": "eos_token", "generated_tokens": 5, "prefill": prefill} | details,
        }
    ]


class SageMaker:
    """A backend whose clients call a server on this machine, and the time limits of the clients that it asked for."""

    def __init__(self, url: str) -> None:
        self.limits: list[int] = []
        self._url = url
        self._clients: dict[float, Any] = {}
        self.backend = SageMakerBackend(self._client, MAX_RESULT_BYTES)
        # Set where the answer never arrives, so that the test need not wait for seconds.
        self.read_timeout: float | None = None

    def _client(self, timeout_seconds: int) -> Any:
        self.limits.append(timeout_seconds)
        seconds = self.read_timeout or timeout_seconds
        if seconds not in self._clients:
            config = Config(read_timeout=seconds, connect_timeout=5, retries={"total_max_attempts": 1})
            self._clients[seconds] = get_session().create_client(
                "sagemaker-runtime", region_name="us-east-1", endpoint_url=self._url, config=config
            )
        return self._clients[seconds]

    def complete(self, timeout: float = PATIENT, **changes: Any) -> Completion:
        return self.backend.complete(replace(CLAIM, **changes), timeout)

    def failure(self, timeout: float = PATIENT, **changes: Any) -> ModelError:
        """The error of a call; it must not quote the prompt or the answer."""
        with pytest.raises(ModelError) as caught:
            self.complete(timeout, **changes)
        shown = f"{caught.value!r} {caught.value} {caught.value.message} {caught.value.args}"
        assert PROMPT not in shown
        assert WORDS not in shown
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return caught.value

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@contextmanager
def sagemaker_at(url: str) -> Iterator[SageMaker]:
    made = SageMaker(url)
    yield made
    made.close()


def error(status: int, code: str, message: str = f"{WORDS}: {PROMPT}", **members: Any) -> Reply:
    """An error as SageMaker Runtime answers it."""
    named = {"x-amzn-ErrorType": code} if code else {}
    return Reply(status, {"Message": message} | members, named)


def container_error(status: int, message: str) -> Reply:
    """A container's own error."""
    told = f'Received client error ({status}) from primary with message "{message}".'
    return error(424, "ModelError", told, OriginalStatusCode=status, OriginalMessage=message, LogStreamArn="arn:logs")
