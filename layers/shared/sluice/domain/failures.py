"""Why requests fail: the error codes of requests, in one table."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Failure:
    """A reason.

    Attributes:
        is_transient: another attempt may succeed.
        message: what the client reads; None where the database writes it (sql/functions/dispatch/recover.sql).
    """

    is_transient: bool
    message: str | None


FAILURES: Final[dict[str, Failure]] = {
    "model_unavailable": Failure(True, "The model could not be reached or was out of service."),
    "model_timeout": Failure(True, "The model did not answer in time."),
    "model_throttled": Failure(True, "The model refused because of too much traffic."),
    "model_unauthorized": Failure(True, "The model refused this service's credentials."),
    "model_bad_response": Failure(True, "The model's answer could not be understood."),
    "model_usage_missing": Failure(False, "The model's answer did not say how many tokens it used."),
    "model_rejected": Failure(False, "The model refused the request as invalid."),
    "context_length_exceeded": Failure(False, "The prompt and max_tokens do not fit the model's context."),
    "result_too_large": Failure(False, "The model's answer is larger than a result may be."),
    "model_backend_unknown": Failure(False, "The model is described with a backend that does not exist here."),
    "worker_error": Failure(True, "The worker failed while it handled the request."),
    "worker_lost": Failure(True, None),
    "request_expired": Failure(False, None),
}
