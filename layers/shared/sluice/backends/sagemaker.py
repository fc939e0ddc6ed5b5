"""Amazon SageMaker's real-time endpoints (InvokeEndpoint): containers with OpenAI's API, or with a form of their own.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from sluice.backends.json_text import written
from sluice.backends.mapping import mapped_body, read_mapped
from sluice.backends.openai_answers import most_payload_bytes, read_completion
from sluice.backends.openai_requests import chat_body, embeddings_body
from sluice.backends.protocol import ModelError
from sluice.backends.upstream import read_json, reported_failure
from sluice.domain.requests import Claim, Completion

_CHUNK: Final = 65_536
_JSON: Final = "application/json"
_TARGETS: Final = {
    "target_variant": "TargetVariant",
    "target_model": "TargetModel",
    "target_container": "TargetContainerHostname",
    "inference_component": "InferenceComponentName",
}
# Errors of the API itself by HTTP's meaning, where they are answered with another status. ValidationError is apart.
_STATUSES: Final = {
    "throttlingexception": 429,
    "modelnotreadyexception": 503,
    "serviceunavailable": 503,
    "serviceunavailableexception": 503,
    "internalfailure": 500,
    "internaldependencyexception": 500,
    "accessdeniedexception": 403,
    "unrecognizedclientexception": 403,
    "expiredtokenexception": 403,
}
# Of a request that does not hold. Its body is JSON, so what else may be wrong is a name, which is the operator's.
_TOO_LARGE: Final = re.compile(r"at 'body'|payload (size|is too|too)|too large", re.IGNORECASE)
# SageMaker's own words, with the original status 0, where a container did not answer within its 60 s.
_TIMED_OUT: Final = re.compile(r"invocation timed out", re.IGNORECASE)


class SageMakerBackend:
    """Calls InvokeEndpoint; claim.mapping says how, and without one the container is taken to speak OpenAI's API.

    The name of the model is not sent then: backend_model is the endpoint's, and a container has one model, which it may
    know by any name.

    Args:
        client: returns a sagemaker-runtime client whose calls give up after so many seconds.
        max_result_bytes: longest answer accepted, in bytes of UTF-8.
    """

    def __init__(self, client: Callable[[int], Any], max_result_bytes: int) -> None:
        self._client = client
        self._max_bytes = most_payload_bytes(max_result_bytes)

    def complete(self, claim: Claim, timeout: float) -> Completion:
        deadline = time.monotonic() + timeout
        mapping = claim.mapping or {}
        targets = {theirs: mapping[ours] for ours, theirs in _TARGETS.items() if ours in mapping}
        body = written(_body(claim)).encode()
        try:
            # By the model's own limit, so that there is a client per model and not per call.
            answer = self._client(claim.timeout_seconds).invoke_endpoint(
                EndpointName=claim.backend_model, ContentType=_JSON, Accept=_JSON, Body=body, **targets
            )
            with closing(answer["Body"]) as stream:
                payload = _read(stream, deadline, self._max_bytes[claim.kind])
        except (ReadTimeoutError, ConnectTimeoutError, TimeoutError):
            raise ModelError("model_timeout") from None
        except ClientError as error:
            raise _failure(error) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise ModelError("model_unauthorized") from None
        except ParamValidationError:
            raise ModelError("model_misconfigured") from None
        except (BotoCoreError, OSError):
            raise ModelError("model_unavailable") from None
        except (ResponseParserError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            raise ModelError("model_bad_response") from None
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if "response" in mapping:
            return read_mapped(mapping["response"], claim, headers, payload)
        return read_completion(claim, headers, payload)


def _body(claim: Claim) -> Any:
    if claim.kind not in ("chat", "embedding"):
        raise ModelError("model_rejected")
    if claim.mapping and "request" in claim.mapping:
        return mapped_body(claim.mapping["request"], claim)
    body = embeddings_body(claim) if claim.kind == "embedding" else chat_body(claim)
    return {name: value for name, value in body.items() if name != "model"}


def _read(stream: Any, deadline: float, most_bytes: int) -> bytes:
    """The body, if it is not larger than any answer may be.

    Raises:
        ModelError: result_too_large.
        TimeoutError: the deadline passed between two pieces. Within one, the client's own timeout counts: SageMaker has
            the whole answer before it sends any of it, and the worker stops waiting by itself.
    """
    chunks, size = [], 0
    while chunk := stream.read(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > most_bytes:
            raise ModelError("result_too_large")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(chunks)


def _failure(error: ClientError) -> ModelError:
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    status, headers = metadata.get("HTTPStatusCode", 500), metadata.get("HTTPHeaders", {})
    name, sentence = str(details.get("Code", "")).lower(), str(details.get("Message", ""))
    if name == "modelerror":
        return _container_failure(error.response, sentence)
    if name == "validationerror":
        return ModelError("model_input_too_large" if _TOO_LARGE.search(sentence) else "model_misconfigured")
    status = _STATUSES.get(name, status)
    return reported_failure(status, headers, {"message": sentence}, words=frozenset({name}))


def _container_failure(response: Any, sentence: str) -> ModelError:
    """The container's own error: what it means if the container was called without SageMaker in between."""
    status, message = response.get("OriginalStatusCode"), response.get("OriginalMessage")
    if not isinstance(status, int) or not 400 <= status < 600:
        # The container did not answer at all.
        return ModelError("model_timeout" if _TIMED_OUT.search(f"{message} {sentence}") else "model_unavailable")
    text = message if isinstance(message, str) else ""
    document = read_json(text.encode("utf-8", "replace"))
    if not isinstance(document, dict | list):
        document = {"message": text}
    return reported_failure(status, {}, document, is_page=text.lstrip().startswith("<"))
