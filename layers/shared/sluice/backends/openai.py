"""Any endpoint with OpenAI's chat completions: vLLM, TGI, Ollama, llama.cpp, LiteLLM, OpenAI itself, Bedrock's own."""

import json
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, get_args

import urllib3
from urllib3 import exceptions

from sluice.backends.deadline import DeadlinePoolManager, until
from sluice.backends.protocol import STATUS_ERRORS, ModelError, completion
from sluice.domain.documents import FinishReason, Input
from sluice.domain.errors import ConfigurationError
from sluice.domain.requests import Claim, Completion

_CONNECT_SECONDS: Final = 5.0
_CHUNK: Final = 65_536
# JSON may escape every character of the text to six (\uXXXX); the rest of the answer is small.
_ESCAPED: Final = 6
_ENVELOPE_BYTES: Final = 65_536
# How servers name a prompt that is too long: OpenAI as code, llama.cpp as type, vLLM as param.
_CONTEXT_CODES: Final = ("context_length_exceeded", "exceed_context_size_error", "input_tokens")
# What Python raises for a text that it cannot read as JSON: it is none, or is nested a thousand deep.
_NOT_JSON: Final = (ValueError, RecursionError)


class OpenAIBackend:
    """Calls POST {endpoint}/chat/completions.

    Args:
        api_key: finds the API key in a secret, by its ARN; raises ConfigurationError if it is not there.
        max_result_bytes: longest answer accepted, in bytes of UTF-8.
    """

    def __init__(self, api_key: Callable[[str], str], max_result_bytes: int) -> None:
        self._api_key = api_key
        self._max_body_bytes = max_result_bytes * _ESCAPED + _ENVELOPE_BYTES
        # No retries here: PostgreSQL schedules them, and an uncounted second call would be billed but not recorded.
        self._pool = DeadlinePoolManager(maxsize=10, retries=False)

    def complete(self, claim: Claim, timeout: float) -> Completion:
        deadline = time.monotonic() + timeout
        headers = {"Content-Type": "application/json"}
        if claim.secret_arn:
            try:
                headers["Authorization"] = f"Bearer {self._api_key(claim.secret_arn)}"
            except ConfigurationError:
                raise ModelError("model_unauthorized") from None
        body = dict(claim.parameters) | {
            "model": claim.backend_model,
            "messages": _messages(claim.input),
            "stream": False,
        }
        try:
            response = self._pool.request(
                "POST",
                f"{(claim.endpoint or '').rstrip('/')}/chat/completions",
                body=json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, timeout), read=timeout),
                preload_content=False,
                redirect=False,
            )
            payload = self._read(response, deadline)
        except exceptions.NewConnectionError:
            # Refused, or no such host; urllib3 counts that among the timeouts.
            raise ModelError("model_unavailable") from None
        except (exceptions.TimeoutError, TimeoutError):
            raise ModelError("model_timeout") from None
        except (exceptions.HTTPError, OSError):
            raise ModelError("model_unavailable") from None
        except ValueError:
            # The key has characters that no header can hold; http.client's message, which quotes it, is not passed on.
            raise ModelError("model_unauthorized") from None
        if response.status != 200:
            raise _failure(response.status, response.headers, payload)
        return _completion(payload)

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """The body, if it arrives before the deadline and is not larger than any answer may be.

        Raises:
            ModelError: result_too_large.
            TimeoutError: the deadline passed.
        """
        chunks, size = [], 0
        try:
            with until(deadline, response.shutdown):
                while chunk := response.read1(_CHUNK):
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._max_body_bytes:
                        raise ModelError("result_too_large")
        except BaseException:
            # A connection that was read half cannot be reused.
            response.close()
            raise
        response.release_conn()
        return b"".join(chunks)


def _messages(conversation: Input) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.text} for message in conversation.messages]


def _failure(status: int, headers: Mapping[str, str], payload: bytes) -> ModelError:
    if status in STATUS_ERRORS:
        return ModelError(STATUS_ERRORS[status], retry_after=_retry_after(headers.get("Retry-After")))
    if status >= 500:
        return ModelError("model_unavailable", retry_after=_retry_after(headers.get("Retry-After")))
    if _is_context_error(payload):
        return ModelError("context_length_exceeded")
    return ModelError("model_rejected") if 400 <= status < 500 else ModelError("model_bad_response")


def _completion(payload: bytes) -> Completion:
    try:
        answer = json.loads(payload)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (*_NOT_JSON, LookupError, TypeError):
        # llama.cpp has been seen to answer an over-long prompt with 200 and an error for a body.
        if _is_context_error(payload):
            raise ModelError("context_length_exceeded") from None
        raise ModelError("model_bad_response") from None
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise ModelError("model_bad_response")
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        raise ModelError("model_usage_missing")
    reason = choice.get("finish_reason")
    return completion(
        text,
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        reason if reason in get_args(FinishReason) else None,
    )


def _is_context_error(payload: bytes) -> bool:
    try:
        error = json.loads(payload)["error"]
        return any(error.get(member) in _CONTEXT_CODES for member in ("code", "type", "param"))
    except (*_NOT_JSON, LookupError, TypeError, AttributeError):
        return False


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3); None where it is missing or cannot be read."""
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds)
