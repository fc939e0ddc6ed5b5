"""Why requests fail: the error codes of requests, in one table."""

from dataclasses import dataclass
from typing import Final, Literal

Fault = Literal["client", "operator", "provider", "none"]
"""Whose fault a failure is, and so who can do something: the client (send another request), the operator of this
service (repair the model's description, key or account), the model's provider (it passes), or nobody."""


@dataclass(frozen=True)
class Failure:
    """A reason.

    Attributes:
        fault: whose fault it is.
        is_transient: another attempt may succeed.
        message: what the client reads; None where the database writes it (sql/functions/dispatch/recover.sql).
        needs_repair: no attempt can succeed until the operator has changed something. Each such attempt is counted in a
            metric that an alarm watches; if another one follows, then after a long pause.
        is_outage: the model as a whole seems to be out of service: it counts for the model's circuit breaker, and
            another model may answer instead.
        is_too_small: the model's context is too small for the request; another model's may be larger.
    """

    fault: Fault
    is_transient: bool
    message: str | None
    needs_repair: bool = False
    is_outage: bool = False
    is_too_small: bool = False

    @property
    def falls_back(self) -> bool:
        """Whether another model may answer instead."""
        return self.is_outage or self.is_too_small


FAILURES: Final[dict[str, Failure]] = {
    "model_unavailable": Failure(
        "provider", True, "The model could not be reached or was out of service.", is_outage=True
    ),
    "model_timeout": Failure("provider", True, "The model did not answer in time.", is_outage=True),
    "model_throttled": Failure("provider", True, "The model refused because of too much traffic.", is_outage=True),
    "model_bad_response": Failure("provider", True, "The model's answer could not be understood."),
    "model_unauthorized": Failure(
        "operator",
        True,
        "The model refused this service's credentials. The request is not at fault; the operator has to repair it.",
        needs_repair=True,
        is_outage=True,
    ),
    "model_misconfigured": Failure(
        "operator",
        True,
        "The model was not found where this service is set up to look for it. The request is not at fault; the operator"
        " has to repair it.",
        needs_repair=True,
        is_outage=True,
    ),
    "model_quota_exhausted": Failure(
        "operator",
        True,
        "This service's account with the model's provider has no credit or quota left. The request is not at fault; the"
        " operator has to repair it.",
        needs_repair=True,
        is_outage=True,
    ),
    "model_usage_missing": Failure(
        "operator", False, "The model's answer did not say how many tokens it used.", needs_repair=True
    ),
    "model_backend_unknown": Failure(
        "operator", False, "The model is described with a backend that does not exist here.", needs_repair=True
    ),
    "model_rejected": Failure("client", False, "The model refused the request as invalid."),
    "model_input_too_large": Failure("client", False, "The request is larger than the model's provider accepts."),
    "context_length_exceeded": Failure(
        "client", False, "The prompt and max_tokens do not fit the model's context.", is_too_small=True
    ),
    "schema_mismatch": Failure(
        "provider", False, "The model's answer did not have the form that was asked for, also when asked again."
    ),
    "content_filtered": Failure("client", False, "The provider's content filter refused the prompt."),
    "result_too_large": Failure("client", False, "The model's answer is larger than a result may be."),
    "storage_unavailable": Failure(
        "operator", True, "A large input could not be read, or a large answer not stored. The request is not at fault."
    ),
    "worker_error": Failure("operator", True, "The worker failed while it handled the request."),
    "worker_lost": Failure("operator", True, None),
    "request_expired": Failure("none", False, None),
}


def fault_of(code: str | None) -> Fault | None:
    """Whose fault it is; None without a code, or with one that a newer version wrote."""
    return FAILURES[code].fault if code in FAILURES else None
