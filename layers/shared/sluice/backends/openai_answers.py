"""What a server with OpenAI's API answers: chat completions, embeddings, images, speech, and errors in their place."""

from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any, Final

from sluice.backends.answers import booked, completion, failed_call
from sluice.backends.files import audio_type, read_image, split_image
from sluice.backends.parts import UnreadableError, read_choice
from sluice.backends.protocol import ModelError
from sluice.backends.stream import joined_stream
from sluice.backends.tokens import TokenReport, count, image_report, speech_report
from sluice.backends.upstream import error_inside, read_json, reported_failure
from sluice.backends.vectors import read_vectors
from sluice.domain.documents import ImageOptions, Output, OutputFile
from sluice.domain.requests import Claim, Completion, ModelKind
from sluice.domain.sizes import MAX_ANSWER_BYTES, MAX_FILE_BYTES

# JSON may escape every character of the text to six (\uXXXX); the rest of the answer is small.
_ESCAPED: Final = 6
_ENVELOPE_BYTES: Final = 65_536
# A number of a vector takes 5 characters in base64, as it is kept, and up to 24 in JSON.
_DIGITS: Final = 5
MEMORY_BYTES: Final = MAX_FILE_BYTES * 2
"""A body with a file is held in memory up to this length, and on the disk beyond it."""


def most_payload_bytes(max_result_bytes: int, max_file_bytes: int = MAX_FILE_BYTES) -> Mapping[ModelKind, int]:
    """How long an answer of each kind of model may be as it is sent, in bytes.

    Args:
        max_result_bytes: longest answer in text accepted, in bytes of UTF-8.
        max_file_bytes: largest file accepted.
    """
    # A file may arrive that is too large to be kept, so that what it used can be charged; but not any number of bytes.
    most_file_bytes = max(max_file_bytes, MEMORY_BYTES)
    return {
        "chat": max_result_bytes * _ESCAPED + _ENVELOPE_BYTES,
        "embedding": MAX_ANSWER_BYTES * _DIGITS + _ENVELOPE_BYTES,
        "image": most_file_bytes * 4 // 3 + _ENVELOPE_BYTES,
        "speech": most_file_bytes,
    }


def read_completion(claim: Claim, headers: Mapping[str, str], payload: bytes | IO[bytes]) -> Completion:
    """The completion, the vectors, the image or the recording in the body of a successful answer.

    Args:
        headers: those of the answer: of what type a recording is, and how long to wait after an error inside it.
        payload: the body; as a file only if the model's answers are files. It may become the completion's content;
            otherwise the caller closes it.

    Raises:
        ModelError: the body is no such answer, or holds an error.
    """
    if claim.kind == "speech":
        return _speech(claim, headers, payload)
    if isinstance(payload, bytes):
        return _answer(claim, headers, payload)
    try:
        around, image = split_image(payload)
    except UnreadableError:
        raise ModelError("model_bad_response") from None
    except OSError:
        # The disk is full.
        raise ModelError("storage_unavailable") from None
    try:
        return _answer(claim, headers, around, image)
    except BaseException:
        image.close()
        raise


def _answer(claim: Claim, headers: Mapping[str, str], payload: bytes, image: IO[bytes] | None = None) -> Completion:
    """What is in a JSON answer.

    Args:
        image: the image, if it was taken out of the payload.
    """
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
        return _image(claim, document, report, image)
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


def _image(claim: Claim, document: dict[str, Any], report: TokenReport, image: IO[bytes] | None) -> Completion:
    """Args:
    image: the image, if it was taken out of the document.
    """
    try:
        content, mime_type = read_image(document, claim.input.image or ImageOptions(), image)
    except UnreadableError:
        raise failed_call(ModelError("model_bad_response", is_answer=True), claim, report) from None
    output = Output(items=(OutputFile.of(content, mime_type),))
    return booked(claim, output, 0, image_report(report, claim), content)


def _speech(claim: Claim, headers: Mapping[str, str], payload: bytes | IO[bytes]) -> Completion:
    # An error that calls itself a success, perhaps also audio. None is as long as a recording on the disk.
    if isinstance(payload, bytes) and (found := error_inside(read_json(payload))) is not None:
        raise reported_failure(found[0], headers, found[1])
    try:
        mime_type = audio_type(headers.get("Content-Type"), payload)
    except UnreadableError:
        raise ModelError("model_bad_response") from None
    output = Output(items=(OutputFile.of(payload, mime_type),))
    return booked(claim, output, 0, speech_report(claim), payload)


def too_large(claim: Claim) -> ModelError:
    """The error of a successful answer that is longer than any may be."""
    error = ModelError("result_too_large")
    # A recording costs what its text is long, however much of it was read.
    return failed_call(error, claim, speech_report(claim)) if claim.kind == "speech" else error


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
