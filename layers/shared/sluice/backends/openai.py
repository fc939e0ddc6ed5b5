"""Any endpoint with OpenAI's API: vLLM, TGI, TEI, Ollama, llama.cpp, LiteLLM, OpenAI itself, Bedrock's own."""

import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import urllib3
from urllib3 import exceptions

from sluice.backends.answers import booked, completion, failed_call
from sluice.backends.deadline import DeadlinePoolManager, until
from sluice.backends.files import audio_type, read_image
from sluice.backends.openai_requests import chat_body, embeddings_body, image_body, speech_body
from sluice.backends.parts import UnreadableError, read_choice
from sluice.backends.protocol import ModelError
from sluice.backends.stream import joined_stream
from sluice.backends.tokens import TokenReport, count, image_report, speech_report
from sluice.backends.upstream import error_inside, http_failure, read_json, reported_failure
from sluice.backends.vectors import read_vectors
from sluice.domain.documents import ImageOptions, Output, OutputFile
from sluice.domain.errors import ConfigurationError
from sluice.domain.requests import Claim, Completion, ModelKind
from sluice.domain.sizes import MAX_ANSWER_BYTES, MAX_FILE_BYTES

_CONNECT_SECONDS: Final = 5.0
_CHUNK: Final = 65_536
# JSON may escape every character of the text to six (\uXXXX); the rest of the answer is small.
_ESCAPED: Final = 6
_ENVELOPE_BYTES: Final = 65_536
# A number of a vector takes 5 characters in base64, as it is kept, and up to 24 in JSON.
_DIGITS: Final = 5
# A file may arrive that is too large to be kept, so that what it used can be charged; but not any number of bytes.
_MOST_FILE_BYTES: Final = MAX_FILE_BYTES * 2
# What OpenSSL calls an answer that is not TLS, or of no version that both sides know.
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}
)


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
    """

    def __init__(self, api_key: Callable[[str], str], max_result_bytes: int) -> None:
        self._api_key = api_key
        self._max_bytes: Mapping[ModelKind, int] = {
            "chat": max_result_bytes * _ESCAPED + _ENVELOPE_BYTES,
            "embedding": MAX_ANSWER_BYTES * _DIGITS + _ENVELOPE_BYTES,
            "image": _MOST_FILE_BYTES * 4 // 3 + _ENVELOPE_BYTES,
            "speech": _MOST_FILE_BYTES,
        }
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
        if response.status != 200:
            raise http_failure(response.status, response.headers, payload)
        if claim.kind == "speech":
            return _speech(claim, response.headers, payload)
        return _completion(claim, response.headers, payload)

    def _payload(self, claim: Claim, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        try:
            return _read(response, deadline, self._max_bytes[claim.kind])
        except ModelError as error:
            if claim.kind != "speech" or response.status != 200:
                raise
            # A recording costs what its text is long, however much of it was read.
            raise failed_call(error, claim, speech_report(claim)) from None


def _read(response: urllib3.BaseHTTPResponse, deadline: float, most_bytes: int) -> bytes:
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
                if size > most_bytes:
                    raise ModelError("result_too_large")
    except BaseException:
        # A connection that was read half cannot be reused.
        response.close()
        raise
    response.release_conn()
    return b"".join(chunks)


def _request(claim: Claim) -> tuple[str, str]:
    """Where to send the request, and its body.

    Raises:
        ModelError: model_rejected, it cannot be written.
    """
    path, body_of = _CALLS[claim.kind]
    try:
        return path, json.dumps(body_of(claim), allow_nan=False)
    except ValueError:
        # A number in a schema that is too large for Python; no server would read what it becomes.
        raise ModelError("model_rejected") from None


def _is_misaddressed(error: Exception) -> bool:
    """Whether no attempt can reach the endpoint until its address or its certificate is changed."""
    cause = error.__cause__ or (error.args[0] if error.args else None)
    if isinstance(error, exceptions.NameResolutionError):
        # Not if the name server itself does not answer.
        return isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
    if isinstance(error, exceptions.SSLError):
        return isinstance(cause, ssl.SSLCertVerificationError) or getattr(cause, "reason", None) in _NOT_TLS
    return True


def _completion(claim: Claim, headers: Mapping[str, str], payload: bytes) -> Completion:
    document = read_json(payload)
    if document is None:
        document = joined_stream(payload)
    if (found := error_inside(document)) is not None:
        raise failed_call(reported_failure(found[0], headers, found[1]), claim, _report(document))
    if not isinstance(document, dict):
        # Cut off, or not the model's: the page of a proxy, for example.
        raise ModelError("model_bad_response")
    report = _report(document)
    if claim.kind == "embedding":
        return _embedding(claim, document, report)
    if claim.kind == "image":
        return _image(claim, document, report)
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if (found := error_inside(choice)) is not None:
        raise failed_call(reported_failure(found[0], headers, found[1]), claim, report)
    try:
        answer = read_choice(choice)
    except (UnreadableError, RecursionError):
        raise failed_call(ModelError("model_bad_response", is_answer=True), claim, report) from None
    return completion(claim, answer, choice.get("finish_reason") if isinstance(choice, dict) else None, report)


def _embedding(claim: Claim, document: dict[str, Any], report: TokenReport) -> Completion:
    # Most servers report no completion tokens, and there are none.
    report = replace(report, completion=report.completion or 0)
    try:
        output = read_vectors(document, len(claim.input.messages))
    except UnreadableError:
        raise failed_call(ModelError("model_bad_response", is_answer=True), claim, report) from None
    return booked(claim, output, 0, report)


def _image(claim: Claim, document: dict[str, Any], report: TokenReport) -> Completion:
    try:
        content, mime_type = read_image(document, claim.input.image or ImageOptions())
    except UnreadableError:
        raise failed_call(ModelError("model_bad_response", is_answer=True), claim, report) from None
    output = Output(items=(OutputFile.of(content, mime_type),))
    return booked(claim, output, 0, image_report(report, claim), content)


def _speech(claim: Claim, headers: Mapping[str, str], payload: bytes) -> Completion:
    try:
        mime_type = audio_type(headers.get("Content-Type"), payload)
    except UnreadableError:
        # A text: an error that calls itself a success, or the page of a proxy.
        if (found := error_inside(read_json(payload))) is not None:
            raise reported_failure(found[0], headers, found[1]) from None
        raise ModelError("model_bad_response") from None
    output = Output(items=(OutputFile.of(payload, mime_type),))
    return booked(claim, output, 0, speech_report(claim), payload)


def _report(document: Any) -> TokenReport:
    """The token counts in an answer; some servers have the names of OpenAI's newer API."""
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return TokenReport()

    def first(*names: str) -> int | None:
        return next((found for name in names if (found := count(usage.get(name))) is not None), None)

    def detail(name: str, *groups: str) -> int | None:
        inside = [usage[group] for group in groups if isinstance(usage.get(group), dict)]
        return next((found for each in (*inside, usage) if (found := count(each.get(name))) is not None), None)

    cached = detail("cached_tokens", "prompt_tokens_details", "input_tokens_details")
    return TokenReport(
        prompt=first("prompt_tokens", "input_tokens"),
        completion=first("completion_tokens", "output_tokens"),
        total=first("total_tokens"),
        reasoning=detail("reasoning_tokens", "completion_tokens_details", "output_tokens_details"),
        # DeepSeek's name.
        cached=first("prompt_cache_hit_tokens") if cached is None else cached,
    )
