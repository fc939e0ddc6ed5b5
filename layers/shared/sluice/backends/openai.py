"""Any endpoint with OpenAI's chat completions: vLLM, TGI, Ollama, llama.cpp, LiteLLM, OpenAI itself, Bedrock's own."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final

import urllib3
from urllib3 import connection, exceptions

from sluice.backends.protocol import STATUS_ERRORS, ModelError, completion
from sluice.models import Claim, Completion

_CONNECT_SECONDS: Final = 5.0
_CHUNK: Final = 65_536
# JSON may escape every character of the text to six (\uXXXX); the rest of the answer is small.
_ESCAPED: Final = 6
_ENVELOPE_BYTES: Final = 65_536
# How servers name a prompt that is too long: OpenAI as code, llama.cpp as type, vLLM as param.
_CONTEXT_CODES: Final = ("context_length_exceeded", "exceed_context_size_error", "input_tokens")
# What Python raises for a text that is not JSON, or not to be had from it: nested a thousand deep, for one.
_NOT_JSON: Final = (ValueError, RecursionError)


@contextmanager
def _until(deadline: float, shut_down: Callable[[], object]) -> Iterator[None]:
    """Ends a reading at its deadline, however steadily bytes come: a socket's own timeout starts anew with each.

    Raises:
        TimeoutError: it was not over by then.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        # Over in the same moment, or the other side is gone: nothing is left to end.
        with suppress(OSError, ValueError, RuntimeError):
            shut_down()

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (HTTPException, exceptions.HTTPError, OSError):
        if not expired.is_set():
            raise
    finally:
        timer.cancel()
        # From here on the connection may be another call's.
        timer.join()
    if expired.is_set():
        raise TimeoutError


class _Connection(connection.HTTPConnection):
    """Waits for the head of an answer no longer than its timeout in all."""

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 overrides it
        sock, seconds = self.sock, self.timeout
        with _until(time.monotonic() + (seconds or 0.0), lambda: sock.shutdown(socket.SHUT_RDWR)):
            return super().getresponse()


class _TLSConnection(_Connection, connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class OpenAIBackend:
    """Calls POST {endpoint}/chat/completions.

    Args:
        api_key: finds the API key in a secret, by its ARN.
        max_result_bytes: longest answer accepted, in bytes of UTF-8.
    """

    def __init__(self, api_key: Callable[[str], str], max_result_bytes: int) -> None:
        self._api_key = api_key
        self._max_body_bytes = max_result_bytes * _ESCAPED + _ENVELOPE_BYTES
        # Retries are PostgreSQL's: a repeat here would be one that nobody counts.
        self._pool = urllib3.PoolManager(maxsize=10, retries=False)
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def complete(self, claim: Claim, timeout: float) -> Completion:
        deadline = time.monotonic() + timeout
        headers = {"Content-Type": "application/json"}
        if claim.secret_arn:
            headers["Authorization"] = f"Bearer {self._api_key(claim.secret_arn)}"
        body = {
            "model": claim.backend_model,
            "messages": [{"role": "user", "content": claim.prompt}],
            "stream": False,
        } | claim.parameters
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
            # The key is nothing that a header can hold, and http.client's message quotes it.
            raise ModelError("model_unauthorized") from None
        if response.status != 200:
            raise _failure(response.status, response.headers, payload)
        return _completion(payload)

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """The body, as far as it comes before the deadline and is not absurdly large."""
        chunks, size = [], 0
        try:
            with _until(deadline, response.shutdown):
                while chunk := response.read1(_CHUNK):
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._max_body_bytes:
                        raise ModelError("result_too_large")
        except BaseException:
            # Half read, the connection is of no further use.
            response.close()
            raise
        response.release_conn()
        return b"".join(chunks)


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
        text = answer["choices"][0]["message"]["content"]
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
    return completion(text, usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _is_context_error(payload: bytes) -> bool:
    try:
        error = json.loads(payload)["error"]
        return any(error.get(member) in _CONTEXT_CODES for member in ("code", "type", "param"))
    except (*_NOT_JSON, LookupError, TypeError, AttributeError):
        return False


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3); None where there is none or it makes no sense."""
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds)
