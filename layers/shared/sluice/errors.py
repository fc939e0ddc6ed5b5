"""Everything that can go wrong for a caller, in one table: code, HTTP status, title.

A code is stable and meant for programs; the title names the kind of problem; the detail of one occurrence says what was
wrong and what to do. None of them ever holds a prompt, a result or a key.
"""

from typing import Any, Final

# RFC 9457 asks for a URI per problem type; a URN needs no host to resolve it.
PROBLEM_TYPE_PREFIX: Final = "urn:sluice:problem:"

PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "body_not_json": (400, "The body is not JSON"),
    "key_missing": (401, "API key missing"),
    "key_malformed": (401, "API key malformed"),
    "key_unknown": (401, "API key unknown"),
    "key_revoked": (401, "API key revoked"),
    "key_expired": (401, "API key expired"),
    "user_inactive": (403, "User inactive"),
    "scope_missing": (403, "The API key lacks the scope"),
    "request_not_found": (404, "Request not found"),
    "route_not_found": (404, "Route not found"),
    "user_not_found": (404, "User not found"),
    "key_not_found": (404, "API key not found"),
    "tier_not_found": (404, "Tier not found"),
    "price_list_unknown": (404, "Price list unknown"),
    "user_exists": (409, "User exists"),
    "email_taken": (409, "E-mail address taken"),
    "request_finished": (409, "Request finished"),
    "request_not_failed": (409, "Request not failed"),
    "request_archived": (409, "Request archived"),
    "key_dead": (409, "The API key is revoked or expired"),
    "currencies_mixed": (409, "Prices in several currencies"),
    "invalid_input": (422, "Invalid input"),
    "prompt_too_long": (422, "Prompt too long"),
    "model_unknown": (422, "Model unknown"),
    "model_missing": (422, "Model missing"),
    "tier_unknown": (422, "Tier unknown"),
    "limits_missing": (422, "A new tier needs its limits"),
    "expiry_in_past": (422, "The expiry is in the past"),
    "price_in_past": (422, "These days are priced already"),
    "currency_differs": (422, "The price list has another currency"),
    "lifetime_invalid": (422, "Lifetime invalid"),
    "max_tokens_exceeded": (422, "max_tokens too large"),
    "idempotency_conflict": (422, "Idempotency key used with another body"),
    "quota_too_small": (422, "The request can never fit the quota"),
    "operation_unknown": (422, "Operation unknown"),
    "quota_exceeded": (429, "Quota exceeded"),
    "unfinished_exceeded": (429, "Too many unfinished requests"),
    "internal_error": (500, "Internal error"),
    "task_failed": (500, "Task failed"),
    "schema_incompatible": (500, "The schema does not fit the code"),
    "database_unavailable": (503, "Database unavailable"),
}


class SluiceError(Exception):
    """A problem that a caller is told about.

    Args:
        code: a key of PROBLEMS.
        detail: what was wrong this time and what to do, without anything secret.
        retry_after: seconds after which trying again makes sense, where it does.
        headers: HTTP headers that go with the answer.
        extra: further members of the problem object (RFC 9457, 3.2).
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        self.status, self.title = PROBLEMS[code]
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.headers = headers or {}
        self.extra = extra
        super().__init__(f"{code}: {detail}")

    def problem(self) -> dict[str, Any]:
        """This error as a problem details object."""
        members: dict[str, Any] = {
            "type": PROBLEM_TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.retry_after is not None:
            members["retry_after"] = self.retry_after
        return members | self.extra


class ConfigurationError(Exception):
    """The environment of a function lacks something or holds nonsense: a mistake of the deployment."""


class DatabaseError(Exception):
    """The database refused a statement for a reason that its caller may translate.

    PostgreSQL's own message and detail may quote the values of a row, so only its codes come through.
    """

    def __init__(self, sqlstate: str | None, constraint: str | None) -> None:
        self.sqlstate = sqlstate
        self.constraint = constraint
        super().__init__(f"SQLSTATE {sqlstate}, constraint {constraint}")
