"""Any endpoint with OpenAI's API: vLLM, TGI, TEI, Ollama, llama.cpp, LiteLLM, OpenAI itself, Bedrock's own."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final

import urllib3
from urllib3 import exceptions

from sluice.backends.deadline import DeadlinePoolManager, until
from sluice.backends.json_text import written
from sluice.backends.openai_answers import MEMORY_BYTES, most_payload_bytes, read_completion, too_large
from sluice.backends.openai_requests import chat_body, embeddings_body, image_body, speech_body
from sluice.backends.protocol import ModelError
from sluice.backends.upstream import http_failure
from sluice.domain.errors import ConfigurationError
from sluice.domain.requests import Claim, Completion, ModelKind
from sluice.domain.sizes import MAX_FILE_BYTES

_CONNECT_SECONDS: Final = 5.0
_CHUNK: Final = 65_536
# What OpenSSL calls an answer that is not TLS, or of no version that both sides know.
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}
)
_FILES: Final = ("image", "speech")
_CALLS: Final[Mapping[ModelKind, tuple[str, Callable[[Claim], dict[str, Any]]]]] = {
    "chat": ("/chat/completions", chat_body),
    "embedding": ("/embeddings", embeddings_body),
    "image": ("/images/generations", image_body),
    "speech": ("/audio/speech", speech_body),
}


class OpenAIBackend:
    """Calls POST {endpoint}/chat/completions, or /embeddings, /images/generations, /audio/speech.

    Args:
        api_key: finds the API key in a secret, by its ARN; raises ConfigurationError if it is not there.
        max_result_bytes: longest answer in text accepted, in bytes of UTF-8.
        max_file_bytes: largest file accepted.
    """

    def __init__(
        self, api_key: Callable[[str], str], max_result_bytes: int, max_file_bytes: int = MAX_FILE_BYTES
    ) -> None:
        self._api_key = api_key
        self._max_bytes = most_payload_bytes(max_result_bytes, max_file_bytes)
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
        path, body = _request(claim)
        try:
            response = self._pool.request(
                "POST",
                (claim.endpoint or "").rstrip("/") + path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, timeout), read=timeout),
                preload_content=False,
                redirect=False,
            )
            payload = self._payload(claim, response, deadline)
        except (exceptions.NameResolutionError, exceptions.SSLError, exceptions.LocationValueError) as error:
            raise ModelError("model_misconfigured" if _is_misaddressed(error) else "model_unavailable") from None
        except exceptions.NewConnectionError:
            # Refused; urllib3 counts that among the timeouts.
            raise ModelError("model_unavailable") from None
        except (exceptions.TimeoutError, TimeoutError):
            raise ModelError("model_timeout") from None
        except (exceptions.HTTPError, OSError):
            raise ModelError("model_unavailable") from None
        except ValueError:
            # The key has characters that no header can hold; http.client's message, which quotes it, is not passed on.
            raise ModelError("model_unauthorized") from None
        if isinstance(payload, bytes):
            return _completion(claim, response, payload)
        content = None
        try:
            completion = _completion(claim, response, payload)
            content = completion.content
            return completion
        finally:
            if content is not payload:
                payload.close()

    def _payload(self, claim: Claim, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes | IO[bytes]:
        try:
            most = self._max_bytes[claim.kind]
            return _read(response, deadline, most, MEMORY_BYTES if claim.kind in _FILES else most)
        except ModelError as error:
            if response.status != 200 or error.code != "result_too_large":
                raise
            raise too_large(claim) from None


def _completion(claim: Claim, response: urllib3.BaseHTTPResponse, payload: bytes | IO[bytes]) -> Completion:
    if response.status != 200:
        # The page of a proxy is not megabytes long, and says nothing that is needed.
        raise http_failure(response.status, response.headers, payload if isinstance(payload, bytes) else b"")
    return read_completion(claim, response.headers, payload)


def _read(response: urllib3.BaseHTTPResponse, deadline: float, most_bytes: int, memory_bytes: int) -> bytes | IO[bytes]:
    """The body, if it arrives before the deadline and is not larger than any answer may be.

    Args:
        memory_bytes: a longer one is in a file.

    Raises:
        ModelError: result_too_large; storage_unavailable, the disk is full.
        TimeoutError: the deadline passed.
    """
    body, size = SpooledTemporaryFile(max_size=memory_bytes), 0  # noqa: SIM115 (it may outlive this call)
    try:
        with until(deadline, response.shutdown):
            while chunk := response.read1(_CHUNK):
                size += len(chunk)
                if size > most_bytes:
                    raise ModelError("result_too_large")
                with _on_disk(body):
                    body.write(chunk)
    except BaseException:
        # A connection that was read half cannot be reused.
        response.close()
        body.close()
        raise
    response.release_conn()
    with _on_disk(body):
        body.seek(0)
    if size > memory_bytes:
        return body
    with body:
        return body.read()


@contextmanager
def _on_disk(body: IO[bytes]) -> Iterator[None]:
    """What may write to the disk, which may be full.

    Raises:
        ModelError: storage_unavailable.
    """
    try:
        yield
    except OSError:
        body.close()
        raise ModelError("storage_unavailable") from None


def _request(claim: Claim) -> tuple[str, str]:
    """Where to send the request, and its body.

    Raises:
        ModelError: model_rejected, it cannot be written.
    """
    path, body_of = _CALLS[claim.kind]
    return path, written(body_of(claim))


def _is_misaddressed(error: Exception) -> bool:
    """Whether no attempt can reach the endpoint until its address or its certificate is changed."""
    cause = error.__cause__ or (error.args[0] if error.args else None)
    if isinstance(error, exceptions.NameResolutionError):
        # Not if the name server itself does not answer.
        return isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
    if isinstance(error, exceptions.SSLError):
        return isinstance(cause, ssl.SSLCertVerificationError) or getattr(cause, "reason", None) in _NOT_TLS
    return True
