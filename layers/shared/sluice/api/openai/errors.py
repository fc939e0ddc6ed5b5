"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}, with our own code and facts beside them.

OpenAI's clients send a request again after 408, 409, 429 and 5xx, and wait no longer than two minutes for that: what
cannot succeed by then must not look like it might (x-should-retry, and 400 for a conflict).
"""

import json
from typing import Any, Final

from aws_lambda_powertools.event_handler import Response

from sluice.api.exchange import HEADERS
from sluice.api.openai.ids import response_id
from sluice.api.ratelimit import rate_limit_headers
from sluice.domain.errors import Kind, SluiceError

LONGEST_RETRY_SECONDS: Final = 120
"""OpenAI's clients honour a longer Retry-After with no retry at all."""
_MOST_NAME: Final = 64
_MOST_PARAM: Final = 256

_STATUSES: Final[dict[Kind, tuple[int, str]]] = {
    Kind.MALFORMED: (400, "invalid_request_error"),
    Kind.INVALID: (400, "invalid_request_error"),
    Kind.CONFLICT: (400, "invalid_request_error"),
    Kind.UNMET: (412, "invalid_request_error"),
    Kind.OUT_OF_RANGE: (416, "invalid_request_error"),
    Kind.UNAUTHENTICATED: (401, "authentication_error"),
    Kind.FORBIDDEN: (403, "permission_error"),
    Kind.NOT_FOUND: (404, "invalid_request_error"),
    Kind.EXHAUSTED: (429, "rate_limit_error"),
    Kind.INTERNAL: (500, "server_error"),
    Kind.UNAVAILABLE: (503, "server_error"),
}
# OpenAI's word for ours, and the parameter that is at fault.
_CODES: Final[dict[str, tuple[str, str | None]]] = {
    "body_not_json": ("invalid_json", None),
    "key_missing": ("missing_api_key", None),
    "key_malformed": ("invalid_api_key", None),
    "key_unknown": ("invalid_api_key", None),
    "key_revoked": ("invalid_api_key", None),
    "key_expired": ("invalid_api_key", None),
    "user_inactive": ("account_deactivated", None),
    "scope_missing": ("insufficient_permissions", None),
    "route_not_found": ("unknown_url", None),
    "model_unknown": ("model_not_found", "model"),
    "model_missing": ("missing_required_parameter", "model"),
    "model_kind_differs": ("model_not_supported", "model"),
    "model_not_allowed": ("model_not_found", "model"),
    "schema_refused": ("invalid_json_schema", "response_format"),
    "images_not_taken": ("model_not_supported", "model"),
    "prompt_too_long": ("context_length_exceeded", None),
    "max_tokens_exceeded": ("integer_above_max_value", None),
    "invalid_input": ("invalid_value", None),
    "parameter_unsupported": ("unsupported_parameter", None),
    "quota_too_small": ("insufficient_quota", None),
    "budget_too_small": ("insufficient_quota", None),
    "model_unpriced": ("insufficient_quota", None),
    "budget_currency_differs": ("insufficient_quota", None),
}
# Of a request that failed: the status, the type and the code that tell a client whether its request was at fault.
_FAILED: Final[dict[str, tuple[int, str, str]]] = {
    "context_length_exceeded": (400, "invalid_request_error", "context_length_exceeded"),
    "model_input_too_large": (400, "invalid_request_error", "context_length_exceeded"),
    "content_filtered": (400, "invalid_request_error", "content_filter"),
    "model_rejected": (400, "invalid_request_error", "invalid_prompt"),
    "result_too_large": (400, "invalid_request_error", "result_too_large"),
}


def answer_error(error: SluiceError) -> Response[str]:
    """An error as its client reads it.

    Of the error's extra facts, `param` names the parameter at fault and `openai_code` OpenAI's word for it.
    """
    facts = dict(error.extra)
    status, kind = _STATUSES[error.kind]
    code, param = _CODES.get(error.code, (error.code, None))
    if error.code == "model_unknown":
        status = 404
    if error.kind is Kind.EXHAUSTED:
        code = "rate_limit_exceeded"
        if error.retry_after is None or error.retry_after > LONGEST_RETRY_SECONDS:
            kind = code = "insufficient_quota"
    elif code == "insufficient_quota":
        status, kind = 429, code
    elif error.code == "request_failed":
        status, kind, code = _FAILED.get(str(facts.get("failure")), (500, "server_error", "server_error"))
    headers = HEADERS | rate_limit_headers(error.quotas) | _retry_headers(error, status)
    if (request_id := facts.pop("request_id", None)) is not None:
        headers["x-request-id"] = str(request_id)
        facts["response_id"] = response_id(request_id)
    body = {
        "message": error.detail,
        "type": kind,
        "param": facts.pop("param", param),
        "code": facts.pop("openai_code", code),
        "sluice_code": error.code,
    }
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="sluice"'
    return Response(status, "application/json", json.dumps({"error": body | facts}, default=str), headers)


def _retry_headers(error: SluiceError, status: int) -> dict[str, str]:
    """When to send it again, and whether that makes sense."""
    if error.code == "answer_pending":
        # At once: the call waits here and not there.
        return {"Retry-After": "1", "retry-after-ms": "1", "x-should-retry": "true"}
    after = error.retry_after
    if status in (429, 503) and after is not None and after <= LONGEST_RETRY_SECONDS:
        return {"Retry-After": str(after), "retry-after-ms": str(after * 1000)}
    told = {} if after is None else {"Retry-After": str(after)}
    return told | {"x-should-retry": "false"}


def invalid(message: str, param: str | None, code: str = "invalid_value") -> SluiceError:
    """An error of the request, with the parameter at fault in OpenAI's words (messages[0].content)."""
    return SluiceError("invalid_input", message, param=param, openai_code=code)


def unsupported(param: str, why: str = "") -> SluiceError:
    """The error of a parameter that this service does not have; why: a clause that says what is possible."""
    return SluiceError(
        "parameter_unsupported",
        f"The parameter {param!r} is not supported here{f': {why}' if why else ''}.",
        param=param,
    )


def param_of(path: tuple[Any, ...]) -> str | None:
    """A path in a body as OpenAI writes it: messages[0].content. Names that a client made up are cut."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{str(part)[:_MOST_NAME]}" for part in path)
    return text.removeprefix(".")[:_MOST_PARAM] or None
