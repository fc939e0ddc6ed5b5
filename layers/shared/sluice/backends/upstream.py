"""What a model server's error means: one of our codes, and with it whose fault it is and whether to try again.

By status, by the words in the error document, and where these say too little by the sentences that servers write.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sluice.backends.pauses import asked_pause
from sluice.backends.protocol import ModelError

_STATUSES: Final[dict[int, str]] = {
    401: "model_unauthorized",
    402: "model_quota_exhausted",
    403: "model_unauthorized",
    407: "model_unauthorized",
    408: "model_timeout",
    409: "model_unavailable",
    413: "model_input_too_large",
    423: "model_unavailable",
    424: "model_unavailable",
    425: "model_unavailable",
    429: "model_throttled",
    499: "model_unavailable",
    504: "model_timeout",
    522: "model_timeout",
    524: "model_timeout",
    # There is no such path or model, or it is no API for chat completions.
    **dict.fromkeys((404, 405, 406, 410, 411, 415, 421, 426, 501, 511), "model_misconfigured"),
    # Redirects are not followed: the key and the prompt are for the endpoint that the operator named.
    **dict.fromkeys(range(300, 400), "model_misconfigured"),
}
"""HTTP statuses with a meaning of their own; of the others, 4xx are refusals and 5xx outages."""

# Words in lower case, of OpenAI, Azure, llama.cpp, vLLM, Anthropic, Gemini, Mistral, DeepSeek, OpenRouter, LiteLLM and
# others. Written as one text each: single words would look like codes of ours.
_CODES: Final[dict[str, str]] = {
    "context_length_exceeded": "context_length_exceeded exceed_context_size_error input_tokens string_above_max_length"
    " context_window_exceeded contextwindowexceedederror",
    "model_quota_exhausted": "insufficient_quota insufficient_balance insufficient_credits billing_hard_limit_reached"
    " billing_not_active billing_error credit_balance_too_low out_of_credits payment_required account_deactivated"
    " exceeded_current_quota_error arrearage budget_exceeded spend_limit_reached servicequotaexceededexception",
    "content_filtered": "content_filter content_filtered content_policy_violation responsibleaipolicyviolation"
    " data_inspection_failed moderation_blocked flagged_input",
    "model_misconfigured": "model_not_found modelnotfound model_not_supported unsupported_model invalid_model"
    " unknown_model model_decommissioned model_deprecated deploymentnotfound resourcenotfoundexception"
    " unknown_url notfounderror",
    "model_unauthorized": "invalid_api_key api_key_invalid incorrect_api_key authentication_error"
    " invalid_authentication_error unauthenticated permission_error permission_denied accessdeniedexception"
    " unrecognizedclientexception expiredtokenexception invalidsignatureexception missingauthenticationtoken"
    " missingauthenticationtokenexception incompletesignature incompletesignatureexception",
    "model_throttled": "rate_limit_exceeded rate_limit_error ratelimiterror too_many_requests resource_exhausted"
    " ratelimitexceeded throttlingexception throttling",
    "model_timeout": "timeout timeout_error request_timeout deadline_exceeded modeltimeoutexception",
    "model_unavailable": "overloaded_error overloaded engine_overloaded_error server_overloaded unavailable"
    " server_error internal_error internal_server_error modelnotreadyexception serviceunavailableexception"
    " internalserverexception modelerrorexception",
}
_OF_CODE: Final = {word: code for code, words in _CODES.items() for word in words.split()}
# Sentences, for errors that have no word of their own. A quoted prompt could match, so they are long enough to be rare,
# and are asked only where the status leaves the question open.
_SENTENCES: Final[dict[str, re.Pattern[str]]] = {
    code: re.compile("|".join(sentences), re.IGNORECASE)
    for code, sentences in {
        "model_input_too_large": (
            r"request[ _]too[ _]large",
            r"payload too large",
            # llama.cpp, of a text to be embedded, with status 500.
            r"input (\(\d+ tokens\) )?is too large to process",
        ),
        "context_length_exceeded": (
            r"maximum context length",
            r"context (length|window|size) (of|is|exceeded|limit)",
            r"exceeds? the .{0,30}context",
            r"(prompt|input) is too long",
            r"too many input tokens",
            r"`inputs` tokens \+",
            r"maximum tokens you requested exceeds",
        ),
        "model_quota_exhausted": (
            r"credit balance is too low",
            r"insufficient (account )?(balance|credits?|quota|funds)",
            r"billing hard limit",
            r"requires more credits",
            r"budget has been exceeded",
            r"payment_instrument",
            r"tokens per day, please wait",
        ),
        "content_filtered": (
            r"content management policy",
            r"content filter(ing)? policy",
            r"your input was flagged",
            r"blocked by .{0,20}guardrail",
        ),
        "model_misconfigured": (
            r"model identifier is invalid",
            r"on-demand throughput",
            r"marked by provider as legacy",
            r"end of its life",
            r"use case details have not been submitted",
            r"doesn't support (the|this) (model|operation)",
            r"model\W{1,3}[\w./:@-]{1,100}\W{1,3}(does not exist|not found|is not available|has been de)",
            r"(invalid model name|unknown model|no such model|not a valid model)",
        ),
        "model_unauthorized": (r"(incorrect|invalid) api key", r"api key (not valid|expired)"),
    }.items()
}
# Throttling at one provider, an empty account at another: that one asks for no pause.
_EXCEEDED_QUOTA: Final = re.compile(r"exceeded (your|the) (current |monthly )?quota", re.IGNORECASE)
_SENTENCE_LENGTH: Final = 10_000
# Parameters that this service itself always sends: if one is refused, the model does not fit this service.
_OURS: Final = frozenset({"max_tokens", "stream", "model", "messages", "input", "encoding_format"})
_PARAMETER_WORDS: Final = frozenset({"unsupported_parameter", "unknown_parameter", "unsupported_value"})
_INVALID: Final = frozenset(
    {"invalid_request_error", "badrequesterror", "bad_request", "invalid_argument", "validation"}
)
_WORD_FIELDS: Final = frozenset({"code", "type", "status", "error_type", "reason", "error", "param"})
_SENTENCE_FIELDS: Final = frozenset({"message", "error", "detail", "msg"})
# What these say is more exact than any status.
_EXACT: Final = ("context_length_exceeded", "model_quota_exhausted", "content_filtered", "model_misconfigured")
# What these statuses mean depends on what is written with them.
_OPEN: Final = (400, 403, 413, 422, 429)


@dataclass(frozen=True)
class Reported:
    """An error as a server reports it.

    Attributes:
        status: HTTP status; of an error inside a successful answer, the one that it names.
        words: codes, types and reasons in its document, in lower case.
        sentence: what it says to people; it may quote the prompt, and is never passed on.
        parameter: which parameter of the request it is about.
        is_page: the body is a web page: not the model answered, but something before it or instead of it.
        asks_pause: it asks to be left alone for some time.
    """

    status: int
    words: frozenset[str] = frozenset()
    sentence: str = ""
    parameter: str = ""
    is_page: bool = False
    asks_pause: bool = False


def code_of(error: Reported) -> str:
    """The error code of the request."""
    found = {_OF_CODE[word] for word in error.words if word in _OF_CODE}
    if error.parameter == "model" or (error.parameter in _OURS and error.words & _PARAMETER_WORDS):
        found.add("model_misconfigured")
    # In the order of the table: what can be told apart best comes first.
    by_word = next((code for code in _CODES if code in found), None)
    if by_word in _EXACT:
        return by_word
    if (by_sentence := _code_of_sentence(error, by_word)) is not None:
        return by_sentence
    # Some servers throttle with the status of a refusal.
    if error.status in _STATUSES and not (error.status in (403, 413) and by_word == "model_throttled"):
        return _STATUSES[error.status]
    if by_word is not None:
        return by_word
    if not 400 <= error.status < 500:
        return "model_unavailable" if error.status >= 500 else "model_bad_response"
    return "model_misconfigured" if error.is_page else "model_rejected"


def _code_of_sentence(error: Reported, by_word: str | None) -> str | None:
    sentence = error.sentence[:_SENTENCE_LENGTH]
    code = next((code for code, pattern in _SENTENCES.items() if pattern.search(sentence)), None)
    if error.status in _OPEN and code == "model_input_too_large":
        # Also where it is called throttling: what alone exceeds a limit never fits.
        return code
    if error.status == 429:
        if code == "model_quota_exhausted":
            return code
        return "model_quota_exhausted" if not error.asks_pause and _EXCEEDED_QUOTA.search(sentence) else None
    if error.status in _OPEN and by_word != "model_throttled":
        return code
    return code if error.status >= 500 and code in ("context_length_exceeded", "model_input_too_large") else None


def http_failure(status: int, headers: Mapping[str, str], payload: bytes) -> ModelError:
    """The error of an HTTP answer that is no success."""
    document = read_json(payload)
    return reported_failure(status, headers, document, is_page=_is_page(headers, payload))


def reported_failure(
    status: int,
    headers: Mapping[str, str],
    document: Any,
    *,
    is_page: bool = False,
    words: frozenset[str] = frozenset(),
) -> ModelError:
    """The error that a document describes.

    Args:
        words: codes that came in another way than in the document.
    """
    pause = asked_pause(status, headers, document)
    members = list(_members(document))
    sentences = [value for name, value in members if name in _SENTENCE_FIELDS]
    error = Reported(
        status=status,
        words=words | {value.lower() for name, value in members if name in _WORD_FIELDS},
        sentence="\n".join(sentences),
        parameter=next((value for name, value in members if name == "param"), ""),
        is_page=is_page,
        asks_pause=pause is not None,
    )
    return ModelError(code_of(error), retry_after=pause, http_status=status)


def error_inside(document: Any) -> tuple[int, Any] | None:
    """The error in the body of an answer that calls itself a success, and the HTTP status that it stands for."""
    if isinstance(document, list):
        document = document[0] if document else None
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict):
        # Some proxies send one without any content in every answer.
        members = [error.get(name) for name in ("message", "code", "type", "status")]
        is_error = any(isinstance(member, str | int) and member for member in members)
    else:
        is_error = isinstance(error, str) and bool(error.strip())
    if not is_error and document.get("object") == "error":
        error, is_error = document, True
    if not is_error:
        return None
    described = error if isinstance(error, dict) else document
    for name in ("status", "status_code", "http_status", "code"):
        status = described.get(name)
        if isinstance(status, str) and status.isascii() and status.isdigit() and len(status) == 3:
            status = int(status)
        if isinstance(status, int) and 400 <= status < 600:
            return status, document
    # If its words say nothing either, it is an outage.
    words = {value.lower() for name, value in _members(document) if name in _WORD_FIELDS}
    return (400 if words & _INVALID else 500), document


def read_json(payload: bytes) -> Any:
    """The body as JSON; None if it is none, or is nested a thousand deep."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


def _is_page(headers: Mapping[str, str], payload: bytes) -> bool:
    """Whether the body is a web page (or another text in angle brackets)."""
    begin = payload.lstrip()[:1]
    return begin == b"<" or ("html" in headers.get("Content-Type", "").lower() and begin not in (b"{", b"["))


def _members(value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The texts in an error document, each with its name; of what is nested in it, too."""
    if depth > 5:
        return
    if isinstance(value, list):
        for each in value[:20]:
            yield from _members(each, depth + 1)
    elif isinstance(value, dict):
        for name, member in value.items():
            if isinstance(member, str):
                yield name.lower(), member
            elif name == "metadata" and isinstance(member, dict) and "flagged_input" in member:
                yield "code", "flagged_input"
            elif name in ("error", "errors", "innererror", "details", "detail", "metadata"):
                yield from _members(member, depth + 1)
