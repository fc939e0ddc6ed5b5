"""Everything that can go wrong for a caller, in one table: code, kind, title.

A code is stable and meant for programs; the title names the kind of problem; the detail of one occurrence says what was
wrong and what to do. None of them ever holds a prompt, a result or a key.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from sluice.domain.requests import QuotaCounter


class Kind(StrEnum):
    """Kinds of errors; sluice.api.problems gives each its HTTP status."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    UNMET = "unmet"
    OUT_OF_RANGE = "out_of_range"
    INVALID = "invalid"
    EXHAUSTED = "exhausted"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


ERRORS: Final[dict[str, tuple[Kind, str]]] = {
    "body_not_json": (Kind.MALFORMED, "The body is not JSON"),
    "key_missing": (Kind.UNAUTHENTICATED, "API key missing"),
    "key_malformed": (Kind.UNAUTHENTICATED, "API key malformed"),
    "key_unknown": (Kind.UNAUTHENTICATED, "API key unknown"),
    "key_revoked": (Kind.UNAUTHENTICATED, "API key revoked"),
    "key_expired": (Kind.UNAUTHENTICATED, "API key expired"),
    "user_inactive": (Kind.FORBIDDEN, "User inactive"),
    "scope_missing": (Kind.FORBIDDEN, "The API key lacks the scope"),
    "request_not_found": (Kind.NOT_FOUND, "Request not found"),
    "result_not_found": (Kind.NOT_FOUND, "Result not found"),
    "route_not_found": (Kind.NOT_FOUND, "Route not found"),
    "user_not_found": (Kind.NOT_FOUND, "User not found"),
    "key_not_found": (Kind.NOT_FOUND, "API key not found"),
    "tier_not_found": (Kind.NOT_FOUND, "Tier not found"),
    "price_list_unknown": (Kind.NOT_FOUND, "Price list unknown"),
    "alias_unknown": (Kind.NOT_FOUND, "Alias unknown"),
    "webhook_endpoint_not_found": (Kind.NOT_FOUND, "Webhook endpoint not found"),
    "webhook_event_not_found": (Kind.NOT_FOUND, "Webhook event not found"),
    "file_not_found": (Kind.NOT_FOUND, "File not found"),
    "upload_not_found": (Kind.NOT_FOUND, "Upload not found"),
    "batch_not_found": (Kind.NOT_FOUND, "Batch not found"),
    "user_exists": (Kind.CONFLICT, "User exists"),
    "email_taken": (Kind.CONFLICT, "E-mail address taken"),
    "name_taken": (Kind.CONFLICT, "The name is taken"),
    "model_kind_fixed": (Kind.CONFLICT, "A model keeps its kind"),
    "request_finished": (Kind.CONFLICT, "Request finished"),
    "result_not_ready": (Kind.CONFLICT, "The result is not there yet"),
    "request_not_failed": (Kind.CONFLICT, "Request not failed"),
    "request_archived": (Kind.CONFLICT, "Request archived"),
    "request_erased": (Kind.CONFLICT, "Request erased"),
    "key_dead": (Kind.CONFLICT, "The API key is revoked or expired"),
    "default_model_needed": (Kind.CONFLICT, "The default model is needed"),
    "currencies_mixed": (Kind.CONFLICT, "Prices in several currencies"),
    "month_closed": (Kind.CONFLICT, "The month is closed"),
    "model_unpriced": (Kind.CONFLICT, "The model has no price"),
    "budget_currency_differs": (Kind.CONFLICT, "The budget is in another currency"),
    "upload_finished": (Kind.CONFLICT, "The upload has ended"),
    "upload_parts_exceeded": (Kind.CONFLICT, "Too many parts"),
    "batch_finished": (Kind.CONFLICT, "The batch has ended"),
    "batches_exceeded": (Kind.CONFLICT, "Too many batches that have not ended"),
    "webhook_endpoints_exceeded": (Kind.CONFLICT, "Too many webhook endpoints"),
    "webhook_endpoint_disabled": (Kind.CONFLICT, "The webhook endpoint is disabled"),
    "etag_differs": (Kind.UNMET, "The result has another ETag"),
    "range_not_satisfiable": (Kind.OUT_OF_RANGE, "The result has no such part"),
    "invalid_input": (Kind.INVALID, "Invalid input"),
    "prompt_too_long": (Kind.INVALID, "Prompt too long"),
    "model_unknown": (Kind.INVALID, "Model unknown"),
    "model_not_allowed": (Kind.FORBIDDEN, "The API key lacks the model"),
    "schema_refused": (Kind.INVALID, "JSON Schema refused"),
    "fallback_unfit": (Kind.INVALID, "The model cannot answer in another's place"),
    "model_kind_differs": (Kind.INVALID, "The model does something else"),
    "images_not_taken": (Kind.INVALID, "The model takes no images"),
    "parameter_unsupported": (Kind.INVALID, "Parameter not supported"),
    "model_missing": (Kind.INVALID, "Model missing"),
    "tier_unknown": (Kind.INVALID, "Tier unknown"),
    "limits_missing": (Kind.INVALID, "A new tier needs its limits"),
    "expiry_in_past": (Kind.INVALID, "The expiry is in the past"),
    "price_in_past": (Kind.INVALID, "These days are priced already"),
    "currency_differs": (Kind.INVALID, "The price list has another currency"),
    "lifetime_invalid": (Kind.INVALID, "Lifetime invalid"),
    "max_tokens_exceeded": (Kind.INVALID, "max_tokens too large"),
    "idempotency_conflict": (Kind.INVALID, "Idempotency key used with another body"),
    "max_cost_exceeded": (Kind.INVALID, "It may cost more than allowed"),
    "quota_too_small": (Kind.INVALID, "The request can never fit the quota"),
    "budget_too_small": (Kind.INVALID, "The request can never fit the budget"),
    "file_refused": (Kind.INVALID, "The file is not what its purpose needs"),
    "file_too_large": (Kind.INVALID, "The file is too large"),
    "upload_part_unknown": (Kind.INVALID, "The upload has no such part"),
    "upload_part_repeated": (Kind.INVALID, "A part is named twice"),
    "upload_part_too_large": (Kind.INVALID, "The parts are larger than was announced"),
    "upload_incomplete": (Kind.INVALID, "The parts are not all of the upload"),
    "upload_altered": (Kind.INVALID, "The file has another checksum"),
    "batch_file_unfit": (Kind.INVALID, "The file is not for batches"),
    "batch_file_too_large": (Kind.INVALID, "The file is too large for a batch"),
    "webhook_unanswered": (Kind.INVALID, "The webhook endpoint did not answer"),
    "operation_unknown": (Kind.INVALID, "Operation unknown"),
    "quota_exceeded": (Kind.EXHAUSTED, "Quota exceeded"),
    "quota_reserved": (Kind.EXHAUSTED, "Quota reserved by unfinished requests"),
    "budget_exceeded": (Kind.EXHAUSTED, "Budget exceeded"),
    "budget_reserved": (Kind.EXHAUSTED, "Budget reserved by unfinished requests"),
    "unfinished_exceeded": (Kind.EXHAUSTED, "Too many unfinished requests"),
    "file_quota_exceeded": (Kind.EXHAUSTED, "The quota of bytes is used up"),
    "webhook_endpoint_busy": (Kind.EXHAUSTED, "The webhook endpoint is busy"),
    "internal_error": (Kind.INTERNAL, "Internal error"),
    "task_failed": (Kind.INTERNAL, "Task failed"),
    "schema_incompatible": (Kind.INTERNAL, "The schema does not fit the code"),
    "request_failed": (Kind.INTERNAL, "The request failed"),
    "answer_pending": (Kind.UNAVAILABLE, "The answer is not there yet"),
    "database_unavailable": (Kind.UNAVAILABLE, "Database unavailable"),
    "storage_unavailable": (Kind.UNAVAILABLE, "Storage unavailable"),
}


class SluiceError(Exception):
    """A problem that is reported to the caller.

    Args:
        code: a key of ERRORS.
        detail: what was wrong this time and what to do, without anything secret.
        retry_after: seconds after which trying again makes sense, where it does.
        quotas: the caller's quota counters, where they were looked at.
        extra: further facts about this occurrence, by name.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retry_after: int | None = None,
        quotas: Sequence[QuotaCounter] = (),
        **extra: Any,
    ) -> None:
        self.kind, self.title = ERRORS[code]
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.quotas = quotas
        self.extra = extra
        super().__init__(f"{code}: {detail}")

    @property
    def is_refusal(self) -> bool:
        """True if the caller has to change something; False if Sluice itself failed."""
        return self.kind not in (Kind.INTERNAL, Kind.UNAVAILABLE)


class ConfigurationError(Exception):
    """The environment of a function lacks something or has an unusable value: a mistake of the deployment."""


class DatabaseError(Exception):
    """The database refused a statement for a reason that its caller may translate.

    PostgreSQL's own message and detail may quote the values of a row, so only its codes are passed on.
    """

    def __init__(self, sqlstate: str | None, constraint: str | None) -> None:
        self.sqlstate = sqlstate
        self.constraint = constraint
        super().__init__(f"SQLSTATE {sqlstate}, constraint {constraint}")
